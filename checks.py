"""What has to hold of the staged tables before anything is published.

The rules stand beside each Table in tables.py. Here they become three questions, whatever the
number of tables: is each row sound, are the keys those of the source, does each reference resolve.
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

ROWS, MATCHED = "rows", "plays with a song"
SOURCE_KEYS = "keys in the source"
# The hashes of all keys of a table, folded into one number.
KEYS_FOLDED, SOURCE_KEYS_FOLDED = "keys, folded", "keys in the source, folded"
# Counted by the way; every other measure counts offenders.
FIGURES = (ROWS, MATCHED, SOURCE_KEYS, KEYS_FOLDED, SOURCE_KEYS_FOLDED)
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
    """One row per table and measure: table, measure, count; a rule's count is how many break it.

    `source_keys` are the columns of each table's identity, from the source, however often.
    """
    checks = [check_references(tables, staged)]
    for table in tables:
        checks.append(check_rows(table, staged[table.name]))
        checks.append(check_keys(table, source_keys[table.name]))
    return functools.reduce(DataFrame.unionByName, checks)


def check_rows(table: Table, rows: DataFrame) -> DataFrame:
    """All that one pass over a table can tell: its rows, its nulls, its own rules, its keys."""
    rules = {f"{name} is not null": f"{name} IS NOT NULL" for name in (*table.key, *table.required)}
    rules.update(table.rules)
    if "start_time" in rows.columns:
        parts = [name for name in table.partition_by if name in DATE_PARTS]
        rules.update({f"{part} is start_time's": f"{part} = {part}(start_time)" for part in parts})
    counts = [
        F.count(F.lit(1)).alias(ROWS),
        F.bit_xor(F.xxhash64(*table.identity)).alias(KEYS_FOLDED),
        *(
            F.count_if(~F.coalesce(F.expr(rule), F.lit(False))).alias(name)
            for name, rule in rules.items()
        ),
    ]
    if table.name == SONGPLAYS.name:
        counts.append(F.count("song_id").alias(MATCHED))
    return measures(table.name, rows.agg(*counts))


def check_keys(table: Table, source_keys: DataFrame) -> DataFrame:
    """How many keys a table must have, and the hashes of their rows folded into one number.

    A table with as many rows whose hashes fold into the same number has each of these keys once:
    none is missing, none is there twice, none is made up. Two plays whose songplay_id is the same
    are one key here and two rows there.
    """
    due = source_keys.groupBy(*table.key).agg(F.min(F.xxhash64(*table.identity)).alias("hash"))
    counts = due.agg(
        F.count(F.lit(1)).alias(SOURCE_KEYS), F.bit_xor("hash").alias(SOURCE_KEYS_FOLDED)
    )
    return measures(table.name, counts)


def check_references(tables: Sequence[Table], staged: Mapping[str, DataFrame]) -> DataFrame:
    """How many values of a column are not in the table and column that it refers to.

    A column of a table's identity is passed over: the keys of both tables are held against the
    source already, and all the moments of the plays are too many to be looked up once more.
    """
    references = [
        (table.name, column, parent)
        for table in tables
        for column, parent in table.references.items()
        if column not in table.identity
    ]
    sides: dict[str, list[str]] = {}  # by table: one that has several is read once for them all
    for number, (child, column, parent) in enumerate(references):
        parent_table, _, parent_column = parent.partition(".")
        for table, key, is_parent in ((child, column, False), (parent_table, parent_column, True)):
            side = f"(INT({number}) AS reference, {key} AS key, {is_parent} AS is_parent)"
            sides.setdefault(table, []).append(side)
    values = functools.reduce(
        DataFrame.unionByName,
        [
            staged[table].selectExpr(f"inline(array({', '.join(map('struct'.__add__, sides))}))")
            for table, sides in sides.items()
        ],
    )
    known = values.dropna().groupBy("reference", "key").agg(F.max("is_parent").alias("is_known"))
    orphans = known.groupBy("reference").agg(F.count_if(~F.col("is_known")).alias("count"))
    names = [
        F.struct(F.lit(child).alias("table"), F.lit(f"{column} is in {parent}").alias("measure"))
        for child, column, parent in references
    ]
    named = orphans.withColumn("name", F.array(*names)[F.col("reference")])
    return named.select("name.*", "count")


def build_plays_per_day(songplays: DataFrame) -> DataFrame:
    """One row per day (UTC) with plays, in the columns of the checks, to ride on their query."""
    per_day = songplays.groupBy(F.to_date("start_time").alias("day")).agg(
        F.count(F.lit(1)).alias("count")
    )
    day = F.col("day").cast("string").alias("measure")
    return per_day.select(F.lit(PLAYS_PER_DAY).alias("table"), day, "count")


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
    tables = [table for table, measure in counts if measure == ROWS]
    broken += [amiss for table in tables if (amiss := find_amiss(table, counts))]
    if broken:
        raise DataQualityError("; ".join(broken))


def find_amiss(table: str, counts: Counts) -> str:
    """What is wrong with a table's rows as a whole; '' if it has each key of the source once."""
    rows, due = counts[table, ROWS], counts[table, SOURCE_KEYS]
    if not rows:
        return f"{table}: no row is staged, and an empty table is not published"
    if rows != due:
        return f"{table}: {rows:,} rows are staged where the source has {due:,}"
    if counts[table, KEYS_FOLDED] != counts[table, SOURCE_KEYS_FOLDED]:
        return f"{table}: some of its {rows:,} keys are missing, twice or made up"
    return ""


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
