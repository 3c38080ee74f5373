"""What has to hold of the staged tables before anything is published.

The rules stand beside each Table in tables.py; here they become one pass over each table, and one
query for all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from tables import DATE_PARTS, SONGPLAYS, Table, columns

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

ROWS, SOURCE_KEYS, MATCHED = "rows", "keys in the source", "plays with a song"
FIGURES = (ROWS, SOURCE_KEYS, MATCHED)  # counted by the way; every other measure counts offenders
PLAYS_PER_DAY = "plays per day"  # in the place of a table's name, where no rule is meant
SHRUNK, FALLEN = 0.8, 1.0  # of the last run's rows; percentage points of matched plays

Counts = Mapping[tuple[str, str], int]  # (table, measure) -> count


class DataQualityError(Exception):
    """A staged table breaks a rule: which table, which rule and how often, in one line."""


def build_checks(
    tables: Sequence[Table],
    staged: Mapping[str, DataFrame],
    source_keys: Mapping[str, DataFrame],
) -> DataFrame:
    """One row per table and measure: table, measure, count; a rule's count is how many break it."""
    checks = [
        measures(name, keys.distinct().agg(F.count(F.lit(1)).alias(SOURCE_KEYS)))
        for name, keys in source_keys.items()
    ]
    for table in tables:
        checks.append(check_rows(table, staged[table.name]))
        checks += [
            check_reference(table.name, staged, column, parent)
            for column, parent in table.references.items()
        ]
    return functools.reduce(DataFrame.unionByName, checks)


def check_rows(table: Table, rows: DataFrame) -> DataFrame:
    """All that one pass over a table can tell: its rows, its key, its nulls, its own rules."""
    rules = {f"{name} is not null": f"{name} IS NOT NULL" for name in (*table.key, *table.required)}
    rules.update(table.rules)
    if "start_time" in rows.columns:
        parts = [name for name in table.partition_by if name in DATE_PARTS]
        rules.update({f"{part} is start_time's": f"{part} = {part}(start_time)" for part in parts})
    broken = [
        F.count_if(~F.coalesce(F.expr(rule), F.lit(False))).alias(name)
        for name, rule in rules.items()
    ]
    repeated = F.count(F.lit(1)) - F.count_distinct(*table.key)
    counts = [F.count(F.lit(1)).alias(ROWS), repeated.alias("key is unique"), *broken]
    if table.name == SONGPLAYS.name:
        counts.append(F.count("song_id").alias(MATCHED))
    return measures(table.name, rows.agg(*counts))


def check_reference(
    name: str, staged: Mapping[str, DataFrame], column: str, parent: str
) -> DataFrame:
    """How many values of a column are not in the table and column that it refers to."""
    parent_table, _, parent_column = parent.partition(".")
    known = staged[parent_table].select(F.col(parent_column).alias(column))
    used = staged[name].select(column).dropna().distinct()
    orphans = used.join(known, on=column, how="left_anti")
    return measures(name, orphans.agg(F.count(F.lit(1)).alias(f"{column} is in {parent}")))


def build_plays_per_day(songplays: DataFrame) -> DataFrame:
    """One row per day (UTC) with plays, in the columns of the checks, to ride on their query."""
    day = F.date_format("start_time", "yyyy-MM-dd").alias("measure")
    counts = songplays.groupBy(day).agg(F.count(F.lit(1)).alias("count"))
    return counts.select(F.lit(PLAYS_PER_DAY).alias("table"), "measure", "count")


def measures(name: str, counts: DataFrame) -> DataFrame:
    """A row of counts turned into one row per count."""
    pairs = [
        F.struct(F.lit(measure).alias("measure"), F.col(f"`{measure}`").alias("count"))
        for measure in counts.columns
    ]
    return counts.select(F.lit(name).alias("table"), F.inline(F.array(*pairs)))


def check_schema(table: Table, written: StructType) -> None:
    """Raise DataQualityError unless a file holds the columns and types of the table's contract."""
    found = {column.name: column.dataType.simpleString().upper() for column in written}
    due = {n: kind for n, kind in columns(table.schema).items() if n not in table.partition_by}
    if found != due:
        raise DataQualityError(f"{table.name}: the staged files hold {found}, due is {due}")


def check_counts(counts: Counts) -> None:
    """Raise DataQualityError naming every rule that is broken, and every row lost or multiplied."""
    broken = [
        f"{table}: the rule '{measure}' fails for {count:,} rows"
        for (table, measure), count in counts.items()
        if count and measure not in FIGURES
    ]
    for (table, measure), due in counts.items():
        rows = counts[table, ROWS]
        if measure == SOURCE_KEYS and rows != due:
            broken.append(f"{table}: {rows:,} rows are staged where the source has {due:,}")
        if measure == ROWS and not rows:
            broken.append(f"{table}: no row is staged, and an empty table is not published")
    if broken:
        raise DataQualityError("; ".join(broken))


def find_shrinkage(
    rows: Mapping[str, int], matched: int, previous_rows: Mapping[str, int], previous_matched: int
) -> list[str]:
    """What looks wrong beside the last published run, though no rule forbids it."""
    warnings = [
        f"{table} shrank from {previous_rows[table]:,} to {count:,} rows"
        for table, count in rows.items()
        if count < SHRUNK * previous_rows.get(table, 0)
    ]
    now = 100 * matched / rows[SONGPLAYS.name]
    before = 100 * previous_matched / max(previous_rows.get(SONGPLAYS.name, 0), 1)
    if now < before - FALLEN:
        warnings.append(f"plays with a song fell from {before:.1f} to {now:.1f} %")
    return warnings
