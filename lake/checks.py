"""What must hold of the staged tables before anything is published.

Three queries ask for it, whatever the rules of the tables are:

- build_partition_counts reads each table once: its rows, and how many of them break each rule.
- build_source_key_counts counts the keys that the source has, and so the rows that must be there.
- build_orphan_counts looks for references to rows that do not exist.

A table is complete and its keys are unique if it has as many rows as the source has keys, and the
XOR of the hashes of its keys equals that of the source. For example, let the source have the users
7 and 8. Staged rows 7, 7, 8 are three and not two. Staged rows 7, 7 are two, but
hash(7) ^ hash(7) = 0 is not hash(7) ^ hash(8).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from lake.tables import ARTISTS, DATE_PARTS, SONGPLAYS, SONGS, TIME, USERS, Table

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

# The measures of a table that are no rule: a rule counts rows that break it and must be 0.
ROWS, KEYS_HASH = "rows", "hash of the keys"
SOURCE_KEYS, SOURCE_KEYS_HASH = "keys in the source", "hash of the keys in the source"
MATCHED = "plays with a song"
MEASURES = (ROWS, KEYS_HASH, SOURCE_KEYS, SOURCE_KEYS_HASH, MATCHED)
# A table that keeps less than this share of the rows of the last run is worth a warning.
SHRUNK_SHARE = 0.8
FALLEN_POINTS = 1.0  # so is a fall of the matched plays by more than this, in percentage points

Counts = Mapping[tuple[str, str], int]  # (table, measure or rule) -> count
DateParts = tuple[int, ...]  # the values of a partition's date columns, such as (2018, 11)


class DataQualityError(Exception):
    """A staged table breaks a rule: which table, which rule and how often, in one line."""


class Findings(NamedTuple):
    """What the queries found out about the staged tables."""

    counts: Counts
    plays_per_day: dict[str, int]  # by ISO date in UTC
    fingerprints: Mapping[tuple[str, DateParts], str]  # by table and date parts


# ---- The queries ---------------------------------------------------------------------------------


def build_partition_counts(table: Table, rows: DataFrame, *, content: bool = False) -> DataFrame:
    """One row per combination of date parts, and for songplays per day.

    Columns: table, parts, day, rows, keys_hash, matched, broken (in the order of list_rules) and
    content_hash, which is taken of all values only if `content` asks for it.
    """
    parts = ", ".join(date_parts_of(table))
    is_fact = table.name == SONGPLAYS.name
    broken = [f"count_if(NOT coalesce({rule}, false))" for rule in list_rules(table).values()]
    grouped = rows.groupBy(
        F.expr(f"CAST(array({parts}) AS ARRAY<INT>) AS parts"),
        F.expr(f"{'DATE(start_time)' if is_fact else 'DATE(NULL)'} AS day"),
    )
    return grouped.agg(
        F.lit(table.name).alias("table"),
        F.count(F.lit(1)).alias("rows"),
        F.expr(f"bit_xor({hash_of(table.identity)}) AS keys_hash"),
        F.expr(f"{'count(song_id)' if is_fact else '0L'} AS matched"),
        F.expr(f"CAST(array({', '.join(broken)}) AS ARRAY<BIGINT>) AS broken"),
        F.expr(f"bit_xor({hash_of_content(table) if content else '0L'}) AS content_hash"),
    )


def date_parts_of(table: Table) -> list[str]:
    """The partition columns of a table that are parts of a date."""
    return [name for name in table.partition_by if name in DATE_PARTS]


def list_rules(table: Table) -> dict[str, str]:
    """What must hold of each row: the name of a rule, and the rule as SQL."""
    rules = {f"{name} is not null": f"{name} IS NOT NULL" for name in (*table.key, *table.required)}
    rules.update(table.rules)
    if "start_time" in table.columns:
        rules.update(
            {
                f"{part} is start_time's": f"{part} = {part}(start_time)"
                for part in date_parts_of(table)
            }
        )
    return rules


def hash_of(names: Sequence[str]) -> str:
    """A 64-bit hash as SQL; of a million values, two share one in one run of forty million."""
    return f"xxhash64({', '.join(names)})"


def hash_of_content(table: Table) -> str:
    """A hash of all values of a row as SQL, and of which of them are null.

    Spark's hash of a null is its seed, so that (a, null) and (null, a) would have the same hash.
    """
    names = list(table.columns)
    nulls = " + ".join(f"IF({name} IS NULL, {1 << bit}, 0)" for bit, name in enumerate(names))
    return hash_of([*names, nulls])


def build_source_key_counts(table: Table, source: DataFrame) -> DataFrame:
    """One row: table, keys and keys_hash that a table must have, by the rows of its source.

    Keys are told apart by the table's key alone. So two plays with the same songplay_id are one
    key here but two rows in the table, and the check fails.
    """
    if "start_time" in table.identity:
        # Almost every row has its own key: aggregating before the shuffle would merge few of them.
        source = source.repartition(*table.key)
    keys = source.groupBy(*table.key).agg(F.expr(f"min({hash_of(table.identity)}) AS hash"))
    return keys.select(
        F.lit(table.name).alias("table"), F.count(F.lit(1)).alias("keys"), F.expr("bit_xor(hash)")
    )


def build_orphan_counts(table: Table, rule: str, staged: Mapping[str, DataFrame]) -> DataFrame:
    """One row: table, rule, and how many rows of the table refer to a parent that is not there."""
    column, parent, parent_column = list_references(table)[rule]
    parents = staged[parent].select(F.col(parent_column).alias(column))
    # Grouped first: a fact table has many rows and few different values.
    children = staged[table.name].groupBy(column).agg(F.count(F.lit(1)).alias("rows"))
    orphans = children.join(parents, column, "left_anti").filter(F.col(column).isNotNull())
    return orphans.agg(F.coalesce(F.sum("rows"), F.lit(0)).alias("rows")).select(
        F.lit(table.name).alias("table"), F.lit(rule).alias("rule"), "rows"
    )


def list_references(table: Table) -> dict[str, tuple[str, str, str]]:
    """The references to look up, by the name of their rule: column, parent table, parent's column.

    A column of the table's identity is left out: the keys of both tables are compared with the
    source already, and to look up the start_time of every play would be the largest join of all.
    """
    parents = {column: parent.split(".") for column, parent in table.references.items()}
    return {
        f"{column} is in {parent}.{parent_column}": (column, parent, parent_column)
        for column, (parent, parent_column) in parents.items()
        if column not in table.identity
    }


def build_source_keys(songs: DataFrame, plays: DataFrame) -> dict[str, DataFrame]:
    """The identity of each row that each table must have, as often as the source holds it."""
    return {
        table.name: source.select(*table.identity)
        for source, tables in ((songs, (SONGS, ARTISTS)), (plays, (USERS, TIME, SONGPLAYS)))
        for table in tables
    }


# ---- Their answers -------------------------------------------------------------------------------


def read_findings(
    tables: Sequence[Table],
    staged: Mapping[str, DataFrame],
    source_keys: Mapping[str, DataFrame],
    *,
    content: bool = False,
) -> Findings:
    """Run the three queries and bring their answers together."""
    with cached(tables, staged) as frames:
        partitions = union(
            build_partition_counts(table, frames[table.name], content=content) for table in tables
        ).collect()
        orphans = union(
            build_orphan_counts(table, rule, frames)
            for table in tables
            for rule in list_references(table)
        ).collect()
    keys = union(build_source_key_counts(t, source_keys[t.name]) for t in tables).collect()
    counts = {
        **sum_partition_counts(tables, partitions),
        **{(table, SOURCE_KEYS): count for table, count, _ in keys},
        **{(table, SOURCE_KEYS_HASH): key_hash or 0 for table, _, key_hash in keys},
        **{(table, rule): count for table, rule, count in orphans},
    }
    return Findings(counts, sum_plays_per_day(partitions), read_fingerprints(partitions))


@contextmanager
def cached(
    tables: Sequence[Table], staged: Mapping[str, DataFrame]
) -> Iterator[dict[str, DataFrame]]:
    """The staged tables, in memory those that others refer to: S3 is asked for them only once."""
    parents = {parent for table in tables for _, parent, _ in list_references(table).values()}
    frames = {name: rows.cache() if name in parents else rows for name, rows in staged.items()}
    try:
        yield frames
    finally:
        for name in parents:
            frames[name].unpersist()


def union(frames: Iterable[DataFrame]) -> DataFrame:
    """The rows of all frames: one query, which Spark plans faster than several."""
    return functools.reduce(DataFrame.unionByName, frames)


def sum_partition_counts(tables: Sequence[Table], partitions: Iterable[Row]) -> dict[Any, int]:
    """The counts of whole tables, from those of their partitions."""
    rules = {table.name: list(list_rules(table)) for table in tables}
    counts = {
        (table, measure): 0
        for table, names in rules.items()
        for measure in (ROWS, KEYS_HASH, MATCHED, *names)
    }
    for found in partitions:
        counts[found.table, ROWS] += found.rows
        counts[found.table, KEYS_HASH] ^= found.keys_hash
        counts[found.table, MATCHED] += found.matched
        for rule, broken in zip(rules[found.table], found.broken):
            counts[found.table, rule] += broken
    return counts


def sum_plays_per_day(partitions: Iterable[Row]) -> dict[str, int]:
    """The plays per day in UTC, in order."""
    plays: dict[str, int] = {}
    for found in partitions:
        if found.day is not None:
            plays[str(found.day)] = plays.get(str(found.day), 0) + found.rows
    return dict(sorted(plays.items()))


def read_fingerprints(partitions: Iterable[Row]) -> dict[tuple[str, DateParts], str]:
    """The number of rows and the XOR of their hashes, by table and date parts."""
    rows: dict[tuple[str, DateParts], int] = {}
    hashes: dict[tuple[str, DateParts], int] = {}
    for found in partitions:
        place = (found.table, tuple(found.parts))
        rows[place] = rows.get(place, 0) + found.rows
        hashes[place] = hashes.get(place, 0) ^ found.content_hash
    return {
        place: f"{count} rows, {hashes[place] & (1 << 64) - 1:016x}"
        for place, count in rows.items()
    }


def date_parts_in(partition: str) -> DateParts:
    """The date parts of a partition's path: (2018, 11) for year=2018/month=11."""
    parts = dict(part.split("=") for part in partition.split("/") if part)
    return tuple(int(value) for name, value in parts.items() if name in DATE_PARTS)


# ---- The verdict ---------------------------------------------------------------------------------


def check_schema(table: Table, written: StructType) -> None:
    """Raise DataQualityError unless a file holds the columns and types of the table."""
    found = {column.name: column.dataType.simpleString().upper() for column in written}
    due = {n: kind for n, kind in table.columns.items() if n not in table.partition_by}
    if found != due:
        raise DataQualityError(f"{table.name}: the staged files hold {found}, expected {due}")


def check_counts(counts: Counts) -> None:
    """Raise DataQualityError naming every broken rule and every table with wrong rows."""
    broken = [
        f"{table}: the rule '{rule}' fails for {count:,} rows"
        for (table, rule), count in counts.items()
        if count and rule not in MEASURES
    ]
    tables = [table for table, measure in counts if measure == ROWS]
    broken += [fault for table in tables if (fault := find_fault(table, counts))]
    if broken:
        raise DataQualityError("; ".join(broken))


def find_fault(table: str, counts: Counts) -> str:
    """What is wrong with the rows of a table as a whole; '' if they are those of the source."""
    rows, due = counts[table, ROWS], counts[table, SOURCE_KEYS]
    if not rows:
        return f"{table}: no row is staged, and an empty table is not published"
    if rows != due:
        return f"{table}: {rows:,} rows are staged, but the source has {due:,} keys"
    if counts[table, KEYS_HASH] != counts[table, SOURCE_KEYS_HASH]:
        return f"{table}: some of its {rows:,} keys are missing, duplicate or not in the source"
    return ""


def find_shrinkage(
    rows: Mapping[str, int], matched: int, previous_rows: Mapping[str, int], previous_matched: int
) -> list[str]:
    """What has become much less since the last published run, which no rule forbids."""
    warnings = [
        f"{table} shrank from {previous_rows[table]:,} to {count:,} rows"
        for table, count in rows.items()
        if count < SHRUNK_SHARE * previous_rows.get(table, 0)
    ]
    now = 100 * matched / rows[SONGPLAYS.name]
    before = 100 * previous_matched / max(previous_rows.get(SONGPLAYS.name, 0), 1)
    if now < before - FALLEN_POINTS:
        warnings.append(f"plays with a song fell from {before:.1f} to {now:.1f} %")
    return warnings
