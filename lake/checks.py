"""What has to hold of the staged tables before anything is published.

The rules stand beside each Table in tables.py. Here they become one query, whatever the number of
tables. Each row is read once and makes a few statements: which rules it breaks, which values it
refers to, which it can be referred to by. One shuffle brings together what is stated of the same.
Many small queries would ask the same, but to plan each of them takes Spark longer than its data.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, NamedTuple

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from lake.tables import DATE_PARTS, SONGPLAYS, Table, columns

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

ROWS, MATCHED = "rows", "plays with a song"
SOURCE_KEYS = "keys in the source"
CONTENT = "content"  # of each partition, which goes by a number made of its date parts
PLACES = 10_000
# The hashes of all keys of a table, folded into one number.
KEYS_FOLDED, SOURCE_KEYS_FOLDED = "keys, folded", "keys in the source, folded"
FOLDED = {ROWS: KEYS_FOLDED, SOURCE_KEYS: SOURCE_KEYS_FOLDED}
# Counted by the way; every other measure counts offenders.
FIGURES = (ROWS, MATCHED, SOURCE_KEYS, KEYS_FOLDED, SOURCE_KEYS_FOLDED)
SHRUNK, FALLEN = 0.8, 1.0  # of the last run's rows; percentage points of matched plays

Counts = Mapping[tuple[str, str], int]  # (table, measure) -> count


class DataQualityError(Exception):
    """A staged table breaks a rule: which table, which rule and how often, in one line."""


# ---- The query -----------------------------------------------------------------------------------


def build_checks(
    tables: Sequence[Table],
    staged: Mapping[str, DataFrame],
    source_keys: Mapping[str, DataFrame],
    *,
    fingerprints: bool = False,
) -> DataFrame:
    """The answer that read_checks understands: tally, part, marks, count, folded.

    `source_keys` are the columns of each table's identity, from the source, however often. With
    `fingerprints` it also tells what read_fingerprints wants to know, of every value of every row.
    """
    number = list_tallies(tables).index
    statements = [
        state_rows(tables, table, staged[table.name], fingerprints=fingerprints) for table in tables
    ]
    counted_apart = []
    for table in tables:
        tally, keys = number((table.name, SOURCE_KEYS)), source_keys[table.name]
        if "start_time" in table.identity:
            counted_apart.append(count_keys(table, tally, keys))
        else:
            key = Statement(tally, key=_hash(*table.key), value=_hash(*table.identity))
            statements.append(state(keys, [key]))
    counted = count_statements(tables, functools.reduce(DataFrame.unionByName, statements))
    return functools.reduce(DataFrame.unionByName, [counted, *counted_apart])


def list_tallies(tables: Sequence[Table]) -> list[tuple[str, str]]:
    """What is counted, as (table, measure); a tally is known to the query by its place in here."""
    return [
        (table.name, measure)
        for table in tables
        for measure in (ROWS, SOURCE_KEYS, CONTENT, *list_references(table))
    ]


def list_references(table: Table) -> dict[str, tuple[str, ...]]:
    """The references to be looked up, by the name of their rule: column, parent table and column.

    A column of a table's identity is passed over: the keys of both tables are held against the
    source already, and all the moments of the plays are too many to be looked up once more.
    """
    return {
        f"{column} is in {parent}": (column, *parent.split("."))
        for column, parent in table.references.items()
        if column not in table.identity
    }


def list_marks(table: Table) -> dict[str, str]:
    """What a row is marked for: the measures that it counts for, and when it does, as SQL."""
    rules = {f"{name} is not null": f"{name} IS NOT NULL" for name in (*table.key, *table.required)}
    rules.update(table.rules)
    if "start_time" in columns(table.schema):
        parts = [name for name in table.partition_by if name in DATE_PARTS]
        rules.update({f"{part} is start_time's": f"{part} = {part}(start_time)" for part in parts})
    marks = {name: f"NOT coalesce({rule}, false)" for name, rule in rules.items()}
    return {**marks, MATCHED: "song_id IS NOT NULL"} if table.name == SONGPLAYS.name else marks


class Statement(NamedTuple):
    """What a row adds to a tally, as SQL: under which key, with which marks, and a value."""

    tally: int
    key: str
    marks: str = "0"
    value: str = "0"


def state_rows(
    tables: Sequence[Table], table: Table, rows: DataFrame, *, fingerprints: bool = False
) -> DataFrame:
    """What each row of a staged table states, of itself and as either side of a reference."""
    number = list_tallies(tables).index
    marks = [f"IF({when}, {1 << bit}, 0)" for bit, when in enumerate(list_marks(table).values())]
    day = "UNIX_DATE(DATE(start_time))" if table.name == SONGPLAYS.name else "NULL"
    itself = number((table.name, ROWS))
    made = [Statement(itself, key=day, marks=" + ".join(marks), value=_hash(*table.identity))]
    for child in tables:
        for rule, (column, parent_table, parent_column) in list_references(child).items():
            tally = number((child.name, rule))
            if child == table:
                made.append(Statement(tally, f"IF({column} IS NULL, NULL, {_hash(column)})"))
            if parent_table == table.name:
                made.append(Statement(tally, _hash(parent_column), value="1"))
    if fingerprints:
        made.append(state_content(table, number((table.name, CONTENT))))
    return state(rows, made)


def state_content(table: Table, tally: int) -> Statement:
    """A hash of all that a row holds, under the number of its partition."""
    names = columns(table.schema)
    # The hash of a null leaves its seed as it was: which values are null is hashed as well.
    nulls = " + ".join(f"IF({name} IS NULL, {1 << bit}, 0)" for bit, name in enumerate(names))
    dated = [name for name in table.partition_by if name in DATE_PARTS]
    partition = functools.reduce(lambda number, name: f"{number} * {PLACES} + {name}", dated, "0L")
    return Statement(tally, key=partition, value=_hash(*names, nulls))


def state(rows: DataFrame, statements: Sequence[Statement]) -> DataFrame:
    """One row for each row and statement: tally, key, marks, value."""
    structs = [
        f"struct(INT({tally}) AS tally, BIGINT({key}) AS key, INT({marks}) AS marks, "
        f"BIGINT({value}) AS value)"
        for tally, key, marks, value in statements
    ]
    return rows.selectExpr(f"inline(array({', '.join(structs)}))")


def count_statements(tables: Sequence[Table], statements: DataFrame) -> DataFrame:
    """Rows by part and marks, each key of the source once, and the values that no parent has."""
    tallies = list(enumerate(list_tallies(tables)))
    is_row = F.col("tally").isin([n for n, (_, measure) in tallies if measure in (ROWS, CONTENT)])
    is_key = F.col("tally").isin([n for n, (_, measure) in tallies if measure == SOURCE_KEYS])
    is_orphan = F.col("key").isNotNull() & (F.col("greatest") == 0)
    known = statements.groupBy("tally", "key", "marks").agg(
        F.count(F.lit(1)).alias("stated"),
        F.bit_xor("value").alias("folded"),
        F.max("value").alias("greatest"),
    )
    count = F.when(is_row, F.col("stated")).otherwise((is_key | is_orphan).cast("long"))
    folded = F.when(is_row, F.col("folded")).otherwise(F.col("greatest"))
    return known.groupBy("tally", F.when(is_row, F.col("key")).alias("part"), "marks").agg(
        F.sum(count).alias("count"), F.bit_xor(folded).alias("folded")
    )


def count_keys(table: Table, tally: int, source_keys: DataFrame) -> DataFrame:
    """How many keys a table of events must have, and the hashes of their rows folded into one.

    A table with as many rows whose hashes fold into the same number has each of these keys once:
    none is missing, none is there twice, none is made up. Two plays whose songplay_id is the same
    are one key here and two rows there.
    """
    # Nearly each row has a key of its own: to look for copies before the shuffle finds few.
    together = source_keys.repartition(*table.key)
    due = together.groupBy(*table.key).agg(F.min(F.expr(_hash(*table.identity))).alias("hash"))
    return due.agg(F.count(F.lit(1)).alias("count"), F.bit_xor("hash").alias("folded")).selectExpr(
        f"{tally} AS tally", "BIGINT(NULL) AS part", "0 AS marks", "count", "folded"
    )


def _hash(*names: str) -> str:
    # Two of a million values share a hash in one run of forty million.
    return f"xxhash64({', '.join(names)})"


# ---- Its answer ----------------------------------------------------------------------------------


def read_checks(tables: Sequence[Table], answer: Iterable[Row]) -> tuple[Counts, dict[str, int]]:
    """The counts by table and measure, and the plays per day (UTC)."""
    marks = {table.name: list(list_marks(table)) for table in tables}
    tallies = list_tallies(tables)
    measures = [
        *(tally for tally in tallies if tally[1] != CONTENT),
        *((name, FOLDED[measure]) for name, measure in tallies if measure in FOLDED),
    ]
    counts = dict.fromkeys([*measures, *((n, mark) for n in marks for mark in marks[n])], 0)
    plays_per_day: dict[str, int] = {}
    for tally, day, marked, count, folded in answer:
        table, measure = tallies[tally]
        if measure == CONTENT:
            continue
        counts[table, measure] += count
        if measure in FOLDED:
            counts[table, FOLDED[measure]] ^= folded or 0  # nothing to fold where there is no row
        for bit, mark in enumerate(marks[table]):
            counts[table, mark] += count if marked >> bit & 1 else 0
        if day is not None:
            name = str(date(1970, 1, 1) + timedelta(day))
            plays_per_day[name] = plays_per_day.get(name, 0) + count
    return counts, dict(sorted(plays_per_day.items()))


def read_fingerprints(
    tables: Sequence[Table], answer: Iterable[Row], partitions: Mapping[str, Iterable[str]]
) -> dict[str, dict[str, str]]:
    """What tells the rows of each partition, such as year=2018/month=11, from any others.

    It is their number and a hash of all their values; their order does not count. Partitions that
    have the same date parts, as those of all artists of a year, share one.
    """
    tallies = list_tallies(tables)
    known = {
        (*tallies[tally], number): f"{count} rows, {folded & (1 << 64) - 1:016x}"
        for tally, number, _, count, folded in answer
        if tallies[tally][1] == CONTENT
    }
    return {
        table: {partition: known[table, CONTENT, read_number(partition)] for partition in found}
        for table, found in partitions.items()
    }


def read_number(partition: str) -> int:
    """The number of a partition, from its path; 0 where no date part is in it."""
    parts = dict(part.split("=") for part in partition.split("/") if part)
    dated = [int(parts[name]) for name in parts if name in DATE_PARTS]
    return functools.reduce(lambda number, part: number * PLACES + part, dated, 0)


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
