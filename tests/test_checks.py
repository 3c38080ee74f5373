"""The checks of staged tables: each damage that a table can take is told, with table and rule."""

from __future__ import annotations

import datetime

import pytest
from pyspark.sql import functions as F

import etl
from lake import checks
from lake.layout import date_part
from lake.lines import loaded
from lake.parsing import columns
from lake.tables import partitioned_tables
from tests.factories import TS, event, log_data, song, song_data

TABLES = partitioned_tables(
    {"songs": ("year",), "time": ("year", "month"), "songplays": ("year", "month")}
)
SONGS = [song(), song(song_id="SO2", artist_id="AR2", title="Second")]
EVENTS = [event(), event(ts=TS + 1), event(userId="8", level="paid"), event(userId="8")]


@pytest.fixture(scope="module")
def sources(spark):
    """Both sources, with an event that was delivered twice, parsed once."""
    songs = song_data(spark, *SONGS).cache()
    return songs, log_data(spark, *EVENTS).cache()


@pytest.fixture(scope="module")
def sound(sources):
    """The tables as they have to be, computed once."""
    built = etl.build_tables(*sources)
    for table in TABLES:
        for part in set(table.partition_by) - set(built[table.name].columns):
            built[table.name] = built[table.name].withColumn(part, date_part(part))
    return {name: frame.cache() for name, frame in built.items()}


@pytest.fixture(scope="module")
def keys(sources):
    """The identity of each row that each table must have."""
    songs, events = sources
    return checks.build_source_keys(loaded(songs), etl.build_plays(events))


def broken_rules(keys, staged):
    """What the checks say of staged tables, one complaint after another; '' of sound ones."""
    try:
        checks.check_counts(checks.read_findings(TABLES, staged, keys).counts)
    except checks.DataQualityError as error:
        return str(error)
    return ""


def with_value(frame, where, column, value):
    """A frame with one column changed in some of its rows."""
    changed = f"IF({where}, {value}, {column})"
    return frame.selectExpr(*(f"{changed} AS {c}" if c == column else c for c in frame.columns))


def test_sound_tables_break_no_rule(keys, sound):
    assert broken_rules(keys, sound) == ""


@pytest.mark.parametrize("table", [table.name for table in TABLES])
def test_a_row_that_is_there_twice_is_told(keys, sound, table):
    twice = sound[table].unionByName(sound[table].limit(1))
    assert f"{table}: " in broken_rules(keys, {**sound, table: twice})


@pytest.mark.parametrize("table", [table.name for table in TABLES])
def test_a_missing_row_is_told(keys, sound, table):
    less = sound[table].orderBy(*sound[table].columns).limit(sound[table].count() - 1)
    assert f"{table}: " in broken_rules(keys, {**sound, table: less})


@pytest.mark.parametrize("table", [table.name for table in TABLES])
def test_one_key_twice_in_the_place_of_another_is_told(keys, sound, table):
    first = sound[table].limit(1).collect()
    rows = sound[table].sparkSession.createDataFrame(
        first * sound[table].count(), sound[table].schema
    )
    assert f"{table}: some of its" in broken_rules(keys, {**sound, table: rows})


def test_a_table_without_a_row_is_told(keys, sound):
    empty = {**sound, "users": sound["users"].limit(0)}
    assert "users: no row is staged" in broken_rules(keys, empty)


@pytest.mark.parametrize(
    ("table", "column", "parent"),
    [
        (table.name, column, parent)
        for table in TABLES
        for column, parent in table.references.items()
        if column != "start_time"
    ],
)
def test_a_reference_to_nothing_is_told(keys, sound, table, column, parent):
    orphaned = with_value(sound[table], "true", column, "'nobody'")
    said = broken_rules(keys, {**sound, table: orphaned})
    rows = sound[table].count()
    assert f"{table}: the rule '{column} is in {parent}' fails for {rows} rows" in said


def test_a_play_at_a_moment_that_time_does_not_have_is_told(keys, sound):
    moved = with_value(sound["songplays"], "true", "start_time", "start_time + INTERVAL 1 SECOND")
    said = broken_rules(keys, {**sound, "songplays": moved})
    assert "songplays: some of its 3 keys are missing, duplicate or not in the source" in said


def test_two_plays_whose_songplay_id_is_the_same_are_told(keys, sound):
    one_id = with_value(sound["songplays"], "true", "songplay_id", "7L")
    same = with_value(keys["songplays"], "true", "songplay_id", "7L")
    said = broken_rules({**keys, "songplays": same}, {**sound, "songplays": one_id})
    assert "songplays: 3 rows are staged, but the source has 1 keys" in said


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("songs.artist_id", "NULL", "artist_id is not null"),
        ("users.level", "'gold'", "level is free or paid"),
        ("time.weekday", "8", "weekday is 1 to 7"),
        ("time.month", "12", "month is start_time's"),
        ("songplays.user_id", "NULL", "user_id is not null"),
        ("songplays.year", "2019", "year is start_time's"),
    ],
)
def test_a_broken_rule_is_told_with_its_count(keys, sound, column, value, rule):
    table, _, column = column.partition(".")
    broken = with_value(sound[table], "true", column, value)
    said = broken_rules(keys, {**sound, table: broken})
    assert f"{table}: the rule '{rule}' fails for {sound[table].count()} rows" in said


def test_plays_are_counted_by_their_day(keys, sound):
    next_day = "start_time + INTERVAL 1 DAY"
    moved = with_value(sound["songplays"], "user_id = '8'", "start_time", next_day)
    found = checks.read_findings(TABLES, {**sound, "songplays": moved}, keys)
    assert found.plays_per_day == {"2018-11-01": 2, "2018-11-02": 1}


# ---- Fingerprints --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_years(sound):
    """Sound tables, but that the second song is of another year."""
    return {**sound, "songs": with_value(sound["songs"], "song_id = 'SO2'", "year", "2001")}


def fingerprints(keys, staged):
    """The fingerprints by table and date parts, of tables that are sound besides."""
    found = checks.read_findings(TABLES, staged, keys, content=True)
    checks.check_counts(found.counts)
    return found.fingerprints


def test_a_fingerprint_tells_a_partitions_rows_whatever_their_order(keys, two_years):
    known = fingerprints(keys, two_years)
    assert {place: text[:7] for place, text in known.items()} == {
        ("songs", (1999,)): "1 rows,",
        ("songs", (2001,)): "1 rows,",
        ("artists", ()): "2 rows,",
        ("users", ()): "2 rows,",
        ("time", (2018, 11)): "2 rows,",
        ("songplays", (2018, 11)): "3 rows,",
    }

    other = {
        name: frame.coalesce(1).sortWithinPartitions(F.desc(frame.columns[0]))
        for name, frame in two_years.items()
    }
    other["songs"] = with_value(other["songs"], "year = 2001", "title", "'Third'")
    then = fingerprints(keys, other)

    assert {place for place in known if then[place] != known[place]} == {("songs", (2001,))}


@pytest.mark.parametrize(
    ("partition", "parts"),
    [("", ()), ("year=2018/month=11", (2018, 11)), ("year=2001/artist_id=AR1", (2001,))],
)
def test_the_date_parts_of_a_partition_are_in_its_path(partition, parts):
    assert checks.date_parts_in(partition) == parts


def variants(schema):
    """A row of a schema, and rows like it with one value changed or null, or one moved further."""
    some = {
        **{"STRING": ("some", "other"), "DOUBLE": (0.5, 0.25), "INT": (1, 2), "BIGINT": (1, 2)},
        "TIMESTAMP": [datetime.datetime(2018, 11, 1, 0, 0, 0, n) for n in (1000, 2000)],  # noqa: DTZ001
    }
    kinds = list(columns(schema).values())
    row = [some[kind][0] for kind in kinds]
    changed = {
        (*row[:place], value, *row[place + 1 :])
        for place, kind in enumerate(kinds)
        for value in (*some[kind], None)
    }
    moved = {
        tuple(row[here] if place == here else None for place in range(len(row)))
        for here in range(len(row))
    }
    return sorted(changed | moved, key=str)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_fingerprint_is_of_every_value_and_of_where_nulls_are(spark, table):
    rows = spark.createDataFrame(variants(table.schema), table.schema)
    hashes = {row[0] for row in rows.selectExpr(checks.hash_of_content(table)).collect()}
    assert len(hashes) == rows.count() > 3 * len(rows.columns)
