"""What must hold of the staged tables before anything is published.

Three queries ask for it, whatever the rules of the tables are. Of a table that is built anew in
part they ask for that part:

- build_day_counts reads each table once: its rows, and how many of them break each rule.
- build_source_key_counts counts the keys that the source has, and so the rows that must be there.
- build_orphan_counts looks for references to rows that do not exist.

A table is complete and its keys are unique if it has as many rows as the source has keys, and the
XOR of the hashes of its keys equals that of the source. For example, let the source have the users
7 and 8. Staged rows 7, 7, 8 are three and not two. Staged rows 7, 7 are two, but
hash(7) ^ hash(7) = 0 is not hash(7) ^ hash(8).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from lake.tables import ARTISTS, DATE_PARTS, SONGPLAYS, SONGS, Table

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


class DataQualityError(Exception):
    """A staged table breaks a rule: which table, which rule and how often, in one line."""


class Findings(NamedTuple):
    """What the queries found out about the staged tables."""

    counts: Counts
    per_day: dict[str, dict[str, int]]  # table, or MATCHED -> ISO date in UTC -> rows


# ---- The queries ---------------------------------------------------------------------------------


def build_day_counts(table: Table, rows: DataFrame) -> DataFrame:
    """One row per day of a table with a start_time, else one row.

    Columns: table, day, rows, keys_hash, matched, and broken (in the order of list_rules).
    """
    is_fact = table.name == SONGPLAYS.name
    broken = [f"count_if(NOT coalesce({rule}, false))" for rule in list_rules(table).values()]
    day = "DATE(start_time)" if "start_time" in table.columns else "DATE(NULL)"
    return rows.groupBy(F.expr(f"{day} AS day")).agg(
        F.lit(table.name).alias("table"),
        F.count(F.lit(1)).alias("rows"),
        F.expr(f"bit_xor({hash_of(table.identity)}) AS keys_hash"),
        F.expr(f"{'count(song_id)' if is_fact else '0L'} AS matched"),
        F.expr(f"CAST(array({', '.join(broken)}) AS ARRAY<BIGINT>) AS broken"),
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


def build_source_keys(
    tables: Iterable[Table],
    songs: DataFrame,
    plays: DataFrame,
    restrict: Callable[[Table, DataFrame], DataFrame] = lambda _, rows: rows,
) -> dict[str, DataFrame]:
    """The identity of each row that each table must have, as often as the source holds it.

    restrict leaves out the plays that are in no part of a table which is built anew.
    """
    sources = {SONGS.name: songs, ARTISTS.name: songs}
    return {
        table.name: restrict(table, sources.get(table.name, plays)).select(*table.identity)
        for table in tables
    }


# ---- Their answers -------------------------------------------------------------------------------


def read_findings(
    tables: Sequence[Table],
    staged: Mapping[str, DataFrame],
    source_keys: Mapping[str, DataFrame],
) -> Findings:
    """Run the three queries and bring their answers together."""
    with cached(tables, staged) as frames:
        days = union(build_day_counts(table, frames[table.name]) for table in tables).collect()
        references = [
            build_orphan_counts(table, rule, frames)
            for table in tables
            for rule in list_references(table)
        ]
        orphans = union(references).collect() if references else []
    keys = union(build_source_key_counts(t, source_keys[t.name]) for t in tables).collect()
    counts = {
        **sum_day_counts(tables, days),
        **{(table, SOURCE_KEYS): count for table, count, _ in keys},
        **{(table, SOURCE_KEYS_HASH): key_hash or 0 for table, _, key_hash in keys},
        **{(table, rule): count for table, rule, count in orphans},
    }
    return Findings(counts, list_per_day(days))


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


def sum_day_counts(tables: Sequence[Table], days: Iterable[Row]) -> dict[Any, int]:
    """The counts of whole tables, from those of their days."""
    rules = {table.name: list(list_rules(table)) for table in tables}
    counts = {
        (table, measure): 0
        for table, names in rules.items()
        for measure in (ROWS, KEYS_HASH, MATCHED, *names)
    }
    for found in days:
        counts[found.table, ROWS] += found.rows
        counts[found.table, KEYS_HASH] ^= found.keys_hash
        counts[found.table, MATCHED] += found.matched
        for rule, broken in zip(rules[found.table], found.broken):
            counts[found.table, rule] += broken
    return counts


def list_per_day(days: Iterable[Row]) -> dict[str, dict[str, int]]:
    """The rows per day in UTC of each table that has days, and the plays with a song."""
    found: dict[str, dict[str, int]] = {}
    for counted in sorted((row for row in days if row.day is not None), key=lambda row: row.day):
        found.setdefault(counted.table, {})[str(counted.day)] = counted.rows
        if counted.table == SONGPLAYS.name:
            found.setdefault(MATCHED, {})[str(counted.day)] = counted.matched
    return found


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
