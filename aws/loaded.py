"""What Redshift holds of the lake, and which partitions a load has to replace.

Beside the tables stands loaded_files. It has a row for each partition, with a fingerprint of the
files that the partition was loaded from. A row '*' for each table has a fingerprint of its columns
and its layout, and the number of its rows. Both are written in the transaction that loads the rows.

The fingerprints are of the files that S3 lists, with their ETags, for these are what Redshift
Spectrum reads. Everything here is pure.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lake.paths import partition_of
from lake.tables import TABLES, Table

if TYPE_CHECKING:
    from aws.catalog import Published

WHOLE = "*"  # the partition_name of the row that is about the table itself
# The Data API takes statements of 100 KB, and a partition's row in loaded_files has about 80 bytes.
MOST_PARTITIONS = 1000  # a table with more is loaded whole: by year and artist_id it has thousands
MOST_CHANGED = 100  # where more have changed, one scan of the whole table is quicker

# The layouts whose partitions the loaded tables can be asked for by a range of their sort key.
DATED = re.compile(r"year=(\d+)(?:/month=(\d+)(?:/day=(\d+))?)?")
BY_YEAR = re.compile(r"year=(-?\d+)")
OF_TABLE = re.compile(r"(DELETE FROM|COPY|INSERT INTO) \$\{schema\}\.(\w+)")

# Each row of loaded_files, with the number of rows that its table has now.
NOTED = """SELECT noted.table_name, noted.partition_name, noted.fingerprint,
    COALESCE(noted.row_count, 0) AS noted_rows, held.row_count
FROM ${{schema}}.loaded_files AS noted
JOIN ({counts}) AS held ON held.table_name = noted.table_name"""


# ---- Fingerprints --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Contents:
    """The fingerprints of one table and of its partitions."""

    name: str
    fingerprint: str  # of columns and layout; of the files too where there are no partitions
    partitions: Mapping[str, str]  # none where the table is loaded only whole


def build_contents(published: Published) -> Contents:
    """The fingerprints of a table as its files in S3 show it."""
    table = published.table
    partitions: dict[str, list[str]] = {}
    for file, etag in sorted(published.files.items()):
        partitions.setdefault(partition_of(file), []).append(f"{file} {etag}")
    form = [f"{name} {kind}" for name, kind in table.columns.items()] + [*table.partition_by]
    if len(partitions) <= MOST_PARTITIONS and all(is_partition(table, name) for name in partitions):
        files = {name: build_fingerprint(lines) for name, lines in partitions.items()}
        return Contents(table.name, build_fingerprint(form), files)
    lines = [line for found in partitions.values() for line in found]
    return Contents(table.name, build_fingerprint([*form, *lines]), {})


def build_fingerprint(lines: Iterable[str]) -> str:
    """A short text that other lines do not have."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


# ---- Partitions ----------------------------------------------------------------------------------


def is_partition(table: Table, name: str) -> bool:
    """Whether this names a partition whose rows can be deleted from the loaded table."""
    return build_condition(table, name) is not None


def build_condition(table: Table, name: str) -> str | None:
    """Which rows of the loaded table are this partition's, as SQL; None where that is not known."""
    if "start_time" not in table.columns:
        year = BY_YEAR.fullmatch(name) if "year" in table.columns else None
        return f"year = {int(year[1])}" if year else None
    parts = DATED.fullmatch(name)
    if not parts:
        return None
    try:
        first, after = build_range(*(int(part) for part in parts.groups() if part))
    except (ValueError, OverflowError):  # no such date
        return None
    return f"start_time >= '{first}' AND start_time < '{after}'"


def build_range(
    year: int, month: int | None = None, day: int | None = None
) -> tuple[datetime.date, datetime.date]:
    """The first day of a year, a month or a day, and the first one after it."""
    first = datetime.date(year, month or 1, day or 1)
    if day is not None:
        return first, first + datetime.timedelta(days=1)
    if month is None or month == 12:
        return first, datetime.date(year + 1, 1, 1)
    return first, datetime.date(year, month + 1, 1)


def build_lake_condition(name: str) -> str:
    """Which rows of the external table are this partition's, by its partition columns, as SQL."""
    return " AND ".join(
        f"{key} = {int(value)}"
        for key, _, value in (part.partition("=") for part in name.split("/"))
    )


# ---- What is noted -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Noted:
    """What loaded_files says of one table, and how many rows the table has now."""

    fingerprint: str | None
    partitions: Mapping[str, str]
    noted_rows: int
    rows: int
    is_damaged: bool


def build_query(counts: str) -> str:
    """The query for what is noted, as a template; counts gives the number of rows of each table."""
    return NOTED.format(counts=counts)


def build_noted(rows: Sequence[Sequence[Any]]) -> dict[str, Noted]:
    """What is noted of each table, from the rows of the query."""
    return {
        table.name: build_table_noted(table, found)
        for table in TABLES
        if (found := [row for row in rows if row[0] == table.name])
    }


def build_table_noted(table: Table, rows: Sequence[Sequence[Any]]) -> Noted:
    """What is noted of one table, from its rows; Redshift enforces no key, so one may be twice."""
    prints = {str(name): str(fingerprint) for _, name, fingerprint, _, _ in rows}
    names = prints.keys() - {WHOLE}
    return Noted(
        prints.get(WHOLE),
        {name: prints[name] for name in names},
        noted_rows=sum(int(row[3]) for row in rows if row[1] == WHOLE),
        rows=int(rows[0][4]),
        is_damaged=len(prints) < len(rows) or not all(is_partition(table, name) for name in names),
    )


# ---- What has to be loaded -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Load:
    """What has to be loaded of one table."""

    contents: Contents
    reason: str = ""  # why the table is loaded whole; '' if it is not
    added: Sequence[str] = ()
    changed: Sequence[str] = ()
    removed: Sequence[str] = ()

    @property
    def is_needed(self) -> bool:
        """Whether anything has to be loaded or removed."""
        return bool(self.reason or self.touched)

    @property
    def present(self) -> list[str]:
        """The partitions that have to be read."""
        return sorted([*self.added, *self.changed])

    @property
    def touched(self) -> list[str]:
        """The partitions whose rows have to go first; another load may have added those too."""
        return sorted([*self.present, *self.removed])


def build_load(contents: Contents, noted: Noted | None, *, full: bool = False) -> Load:
    """What has to be loaded of a table for Redshift to hold what the lake holds."""
    reason = "asked for by --full" if full else find_reason(contents, noted)
    if reason or noted is None:
        return Load(contents, reason)
    wanted, known = contents.partitions, noted.partitions
    load = Load(
        contents,
        added=sorted(wanted.keys() - known.keys()),
        changed=sorted(
            name for name in wanted.keys() & known.keys() if wanted[name] != known[name]
        ),
        removed=sorted(known.keys() - wanted.keys()),
    )
    if len(load.touched) > MOST_CHANGED:
        return Load(contents, f"{len(load.touched):,} of its partitions have changed")
    return load


def find_reason(contents: Contents, noted: Noted | None) -> str:
    """Why a table has to be loaded whole; '' where its partitions can be compared."""
    if noted is None or noted.fingerprint is None:
        return "loaded_files does not say from which files it was loaded"
    if noted.is_damaged:
        return "its rows in loaded_files are damaged"
    if noted.rows != noted.noted_rows:
        return f"it has {noted.rows:,} rows, not the {noted.noted_rows:,} that were loaded"
    if noted.fingerprint != contents.fingerprint:
        is_divided = contents.partitions or noted.partitions
        return "its columns or its layout have changed" if is_divided else "its files have changed"
    return ""


def describe_load(load: Load) -> str:
    """What is loaded of one table, in one line."""
    if load.reason:
        return f"{load.contents.name}: loaded whole: {load.reason}"
    counts = ((load.added, "added"), (load.changed, "changed"), (load.removed, "removed"))
    done = ", ".join(f"{len(names):,} {verb}" for names, verb in counts if names)
    return f"{load.contents.name}: {f'partitions: {done}' if done else 'unchanged'}"


# ---- As SQL --------------------------------------------------------------------------------------


def build_statements(whole: Sequence[str], loads: Sequence[Load]) -> list[str]:
    """The transaction that loads, as templates: what is needed of 3_load.sql, and the note.

    The last statement, which counts the rows, stays the last.
    """
    by_table = {load.contents.name: load for load in loads}
    narrowed = [narrow(statement, by_table) for statement in whole]
    notes = [note for load in loads if load.is_needed for note in build_notes(load)]
    *chosen, counts = [statement for statement in narrowed if statement]
    return [*chosen, *notes, counts]


def narrow(statement: str, loads: Mapping[str, Load]) -> str:
    """A statement of 3_load.sql, for the partitions that have to be loaded; '' for none."""
    found = OF_TABLE.match(statement)
    if not found:
        return statement
    load = loads.get(found[2])  # None: loaded_files, which gets its new rows apart
    if load is None or not load.is_needed:
        return ""
    if load.reason:
        return statement
    table = next(table for table in TABLES if table.name == found[2])
    if found[1] == "DELETE FROM":
        return f"{statement}\nWHERE {any_of(build_condition(table, n) for n in load.touched)}"
    if not load.present:
        return ""
    return f"{statement}\nWHERE {any_of(build_lake_condition(name) for name in load.present)}"


def any_of(conditions: Iterable[str | None]) -> str:
    """A condition that holds where one of these does."""
    return "\n    OR ".join(f"({condition})" for condition in conditions)


def build_notes(load: Load) -> list[str]:
    """The statements that note what is loaded of one table; other partitions stay as noted."""
    name, partitions = load.contents.name, load.contents.partitions
    names = sorted(partitions) if load.reason else load.present
    rows = ",\n".join(f"('{name}', '{found}', '{partitions[found]}')" for found in names)
    gone = ", ".join(f"'{found}'" for found in [WHOLE, *load.touched])
    forget = "\n".join(("DELETE FROM ${schema}.loaded_files", f"WHERE table_name = '{name}'"))
    columns = "table_name, partition_name, fingerprint"
    return [
        forget if load.reason else f"{forget} AND partition_name IN ({gone})",
        *([f"INSERT INTO ${{schema}}.loaded_files ({columns})\nVALUES\n{rows}"] if rows else []),
        f"INSERT INTO ${{schema}}.loaded_files ({columns}, row_count)\n"
        f"SELECT '{name}', '{WHOLE}', '{load.contents.fingerprint}', COUNT(*)\n"
        f"FROM ${{schema}}.{name}",
    ]
