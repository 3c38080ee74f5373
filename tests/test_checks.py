"""The checks of staged tables: each damage that a table can take is told, with table and rule."""

from __future__ import annotations

import pytest

import etl
from lake import checks
from lake.layout import date_part
from lake.lines import loaded
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
    return checks.build_source_keys(TABLES, loaded(songs), etl.build_plays(events))


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
    assert found.per_day["songplays"] == {"2018-11-01": 2, "2018-11-02": 1}
    assert found.per_day[checks.MATCHED] == {"2018-11-01": 2, "2018-11-02": 1}
    assert found.per_day["time"] == {"2018-11-01": 2}
