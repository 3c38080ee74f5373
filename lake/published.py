"""What this job has published, file by file: by that it tells its own files from foreign ones.

Each run notes in _etl/published.json every file of every table with its bytes, and of which state
of the input they were built. A visible file in a table's folder that the note does not name was
written by someone else, and no run may delete it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lake.paths import PUBLISHED, REPORTS, partition_of, readable
from lake.report import tell
from lake.storage import MissingError, Storage, StorageError
from lake.tables import TABLES

Content = Mapping[str, Any]  # of a partition: its files with their bytes
Contents = Mapping[str, Mapping[str, Content]]  # table -> partition -> content

# Of published.json. The first version had no number and named only some tables, the second named no
# state of the input.
VERSION = 3
KNOWN_VERSIONS = (2, 3)
CHOICES = "|".join(sorted({choice for table in TABLES for choice in table.partition_choices}))
# What Spark calls the files that it writes, in the partitions that this job knows.
OF_SPARK = re.compile(rf"((?:{CHOICES})=[^/]+/)*part-[^/]+\.parquet")


class ForeignFilesError(StorageError):
    """A table's folder holds rows that this job did not write, so it may not replace them."""


# ---- The note ------------------------------------------------------------------------------------


class Note(NamedTuple):
    """What published.json says."""

    contents: Contents
    inputs: str  # the run that has left the state of the input; '' if there is none


def build_contents(files: Mapping[str, int]) -> dict[str, Content]:
    """For each partition its files with their bytes."""
    contents: dict[str, dict[str, dict[str, int]]] = {}
    for file, size in files.items():
        contents.setdefault(partition_of(file), {"files": {}})["files"][file] = size
    return dict(contents)


def read_note(storage: Storage) -> Note | None:
    """What the last run noted about the published files; None if that is missing or damaged."""
    try:
        note = json.loads(storage.read(PUBLISHED))
        if note["version"] not in KNOWN_VERSIONS:
            return None
        contents = {
            table: {
                partition: {"files": dict(content["files"])}
                for partition, content in partitions.items()
            }
            for table, partitions in note["tables"].items()
        }
        return Note(contents, str(note.get("inputs", "")))
    except (MissingError, ValueError, TypeError, AttributeError, KeyError):
        return None


def write_note(storage: Storage, note: Note) -> None:
    """Note what is published now, and make that durable."""
    noted = {"version": VERSION, "inputs": note.inputs, "tables": note.contents}
    storage.write(PUBLISHED, json.dumps(noted))
    storage.sync(PUBLISHED)


# ---- Whose files they are ------------------------------------------------------------------------


def read_owned(storage: Storage) -> Note:
    """The published files that are this job's, and of which state of the input they were built.

    Where there is no note but a sign that this job has published here (an older version, a note
    that was damaged), these are the files that look like those it writes.
    """
    known = read_note(storage)
    if known is not None:
        return known
    has_note = storage.exists(PUBLISHED)
    if not has_note and not read_last_report(storage):
        return Note({}, "")
    owned = {
        table.name: {file: size for file, size in storage.files(table.name).items() if _ours(file)}
        for table in TABLES
    }
    tell(
        f"  {readable(storage.path(PUBLISHED))} is "
        f"{'damaged or of another version' if has_note else 'missing'}: "
        f"{sum(map(len, owned.values())):,} files that look like this job's are taken as its own"
    )
    return Note({table: build_contents(files) for table, files in owned.items()}, "")


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


def find_difference(published: Mapping[str, Mapping[str, int]], owned: Contents) -> str:
    """A published file that is gone or has other bytes than noted; '' if all are as they were."""
    for table, partitions in owned.items():
        for content in partitions.values():
            for file, size in content["files"].items():
                if published.get(table, {}).get(file) != size:
                    return f"{table}/{file} is not as it was published"
    return ""


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
        elif report["status"] in ("published", "unchanged"):
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
