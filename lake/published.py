"""What this job has published, file by file: by that it tells its own files from foreign ones.

Each run notes in _etl/published.json every file of every table, with its bytes and, where the swap
goes by partitions, a fingerprint of each partition's rows. A visible file in a table's folder that
the note does not name was written by someone else, and no run may delete it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lake.paths import PUBLISHED, REPORTS, partition_of, readable
from lake.report import tell
from lake.storage import MissingError, Storage, StorageError
from lake.tables import TABLES

Fingerprints = Mapping[str, Mapping[str, str]]  # table -> partition -> row count and hash
Content = Mapping[str, Any]  # of a partition: its fingerprint, and its files with their bytes
Contents = Mapping[str, Mapping[str, Content]]  # table -> partition -> content

VERSION = 2  # of published.json; the first version had no number and named only some tables
CHOICES = "|".join(sorted({choice for table in TABLES for choice in table.partition_choices}))
# What Spark calls the files that it writes, in the partitions that this job knows.
OF_SPARK = re.compile(rf"((?:{CHOICES})=[^/]+/)*part-[^/]+\.parquet")


class ForeignFilesError(StorageError):
    """A table's folder holds rows that this job did not write, so it may not replace them."""


# ---- The note ------------------------------------------------------------------------------------


def build_contents(files: Mapping[str, int], fingerprints: Mapping[str, str]) -> dict[str, Content]:
    """For each partition its files with their bytes, and the fingerprint of its rows if known."""
    contents: dict[str, dict[str, Any]] = {}
    for file, size in files.items():
        partition = partition_of(file)
        rows = fingerprints.get(partition, "")
        contents.setdefault(partition, {"rows": rows, "files": {}})["files"][file] = size
    return dict(contents)


def read_contents(storage: Storage) -> Contents | None:
    """What the last run noted about the published files; None if that is missing or damaged."""
    try:
        note = json.loads(storage.read(PUBLISHED))
        if note["version"] != VERSION:
            return None
        return {
            table: {
                partition: {"rows": str(content["rows"]), "files": dict(content["files"])}
                for partition, content in partitions.items()
            }
            for table, partitions in note["tables"].items()
        }
    except (MissingError, ValueError, TypeError, AttributeError, KeyError):
        return None


def write_contents(storage: Storage, contents: Contents) -> None:
    """Note what is published now, and make that durable."""
    storage.write(PUBLISHED, json.dumps({"version": VERSION, "tables": contents}))
    storage.sync(PUBLISHED)


# ---- Whose files they are ------------------------------------------------------------------------


def read_owned(storage: Storage) -> Contents:
    """The published files that are this job's.

    Where there is no note but a sign that this job has published here (an older version, a note
    that was damaged), these are the files that look like those it writes.
    """
    known = read_contents(storage)
    if known is not None:
        return known
    has_note = storage.exists(PUBLISHED)
    if not has_note and not read_last_report(storage):
        return {}
    owned = {
        table.name: {file: size for file, size in storage.files(table.name).items() if _ours(file)}
        for table in TABLES
    }
    tell(
        f"  {readable(storage.path(PUBLISHED))} is "
        f"{'damaged or of another version' if has_note else 'missing'}: "
        f"{sum(map(len, owned.values())):,} files that look like this job's are taken as its own"
    )
    return {table: build_contents(files, {}) for table, files in owned.items()}


def refuse_foreign_files(
    storage: Storage, published: Mapping[str, Iterable[str]], owned: Contents
) -> None:
    """Raise ForeignFilesError if a table's folder holds a visible file that this job did not write.

    Readers would take such a file for rows of the table, and the swap would delete it.
    """
    for table, files in published.items():
        partitions = owned.get(table, {}).values()
        known = {file for content in partitions for file in content["files"]}
        foreign = sorted(set(files) - known)
        if foreign:
            raise ForeignFilesError(
                f"{readable(storage.path(table))} holds files that this job did not write, "
                f"{foreign[0]} and {len(foreign) - 1:,} more: choose another output or move them"
            )


def _ours(file: str) -> bool:
    return OF_SPARK.fullmatch(file) is not None


# ---- Reports -------------------------------------------------------------------------------------


def read_last_report(storage: Storage) -> dict[str, Any]:
    """The report of the last run that published; {} if there is none.

    A report that is damaged is passed over, and one line says so.
    """
    damaged, last = [], {}
    for name in sorted(storage.files(REPORTS), reverse=True):
        if not name.endswith(".json"):
            continue
        report = read_report(storage, name.removesuffix(".json"))
        if report is None:
            damaged.append(name)
        elif report["status"] == "published":
            last = report
            break
    if damaged:
        tell(
            f"  warning: passed over {len(damaged):,} damaged reports in "
            f"{readable(storage.path(REPORTS))}, such as {damaged[0]}"
        )
    return last


def read_report(storage: Storage, run: str) -> dict[str, Any] | None:
    """The report of a run; None if it is missing or no report of this job."""
    try:
        report = json.loads(storage.read(f"{REPORTS}/{run}.json"))
        figures = [report["matched_plays"], *(known["rows"] for known in report["tables"].values())]
    except (MissingError, ValueError, TypeError, AttributeError, KeyError):
        return None
    is_ours = "status" in report and all(isinstance(figure, int) for figure in figures)
    return dict(report) if is_ours else None


# ---- Partitions that can stay as they are --------------------------------------------------------


def find_unchanged(
    staged: Mapping[str, int],
    published: Mapping[str, int],
    fingerprints: Mapping[str, str],
    known: Mapping[str, Content],
) -> dict[str, Content]:
    """The published partitions whose rows and file sizes equal the staged ones.

    A note about a partition counts only while the files that it names are still there, unchanged.
    """
    new, old = build_contents(staged, fingerprints), build_contents(published, fingerprints)
    unchanged = {
        partition: content
        for partition, content in old.items()
        if content["rows"]
        and content == known.get(partition)
        and _sizes(content) == _sizes(new.get(partition, {}))
    }
    # finish() drops a plan none of whose files exist, so it would drop a plan that only removes
    # partitions. Such a plan puts one unchanged partition in place as well.
    if unchanged.keys() == new.keys() and not old.keys() <= new.keys():
        return dict(list(unchanged.items())[1:])
    return unchanged


def _sizes(content: Mapping[str, Any]) -> list[int]:
    return sorted(content.get("files", {}).values())
