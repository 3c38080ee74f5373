"""Which partitions a load into Redshift replaces, and the SQL for them."""

from __future__ import annotations

import pytest

from aws.catalog import build_published
from aws.loaded import (
    MOST_CHANGED,
    MOST_PARTITIONS,
    build_condition,
    build_contents,
    build_load,
    build_noted,
    build_statements,
)
from lake.tables import SONGPLAYS, SONGS, USERS

FIRST = "loaded_files does not say from which files it was loaded"


def contents(table, *folders, etag="1"):
    files = {f"{folder}/part-0".lstrip("/"): etag for folder in folders}
    return build_contents(build_published(table, f"s3://b/{table.name}/", files))


def noted(found, rows=3):
    """The rows of loaded_files after a load of this, as the query gives them."""
    about = {"*": found.fingerprint, **found.partitions}
    marks = [(name, mark, rows if name == "*" else 0) for name, mark in about.items()]
    return build_noted([[found.name, *mark, rows] for mark in marks])[found.name]


def days(count):
    return [f"year={1000 + day // 28}/month=2/day={day % 28 + 1}" for day in range(count)]


@pytest.mark.parametrize(
    ("name", "first", "after"),
    [
        ("year=2018", "2018-01-01", "2019-01-01"),
        ("year=2018/month=11", "2018-11-01", "2018-12-01"),
        ("year=2018/month=12", "2018-12-01", "2019-01-01"),
        ("year=2024/month=2/day=29", "2024-02-29", "2024-03-01"),
        ("year=2018/month=12/day=31", "2018-12-31", "2019-01-01"),
    ],
)
def test_a_partition_by_parts_of_start_time_is_a_range(name, first, after):
    condition = build_condition(SONGPLAYS, name)
    assert condition == f"start_time >= '{first}' AND start_time < '{after}'"


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (SONGPLAYS, "month=11"),
        (SONGPLAYS, "month=11/year=2018"),
        (SONGPLAYS, "year=2018/month=13"),
        (SONGPLAYS, "year=2023/month=2/day=29"),
        (SONGPLAYS, "year=9999"),
        (SONGPLAYS, "year=9999/month=12/day=31"),
        (SONGPLAYS, "year=__HIVE_DEFAULT_PARTITION__"),
        (SONGPLAYS, "year=2018' OR 1=1"),
        (SONGPLAYS, ""),
        (SONGS, "year=2018/artist_id=A"),
        (SONGS, "artist_id=A"),
        (USERS, ""),
        (USERS, "year=2018"),
    ],
)
def test_other_partitions_are_known_to_be_unknown(table, name):
    assert build_condition(table, name) is None


def test_songs_by_year_are_found_by_their_year_even_the_unknown_one():
    assert build_condition(SONGS, "year=0") == "year = 0"


def test_a_table_by_artist_is_loaded_whole_when_any_file_changes():
    before = contents(SONGS, "year=1/artist_id=A", "year=2/artist_id=B")
    after = contents(SONGS, "year=1/artist_id=A", "year=2/artist_id=C")
    assert not before.partitions
    assert not build_load(before, noted(before)).is_needed
    assert build_load(after, noted(before)).reason == "its files have changed"


def test_a_file_that_is_replaced_under_its_name_is_a_change():
    before = contents(SONGS, "year=1", etag="1")
    assert build_load(contents(SONGS, "year=1", etag="2"), noted(before)).changed == ["year=1"]


def test_many_changed_partitions_are_loaded_as_one_table():
    before = contents(SONGPLAYS, "year=1/month=1/day=1")
    some, more = (
        build_load(contents(SONGPLAYS, *days(count)), noted(before))
        for count in (MOST_CHANGED - 1, MOST_CHANGED)
    )
    assert (some.reason, len(some.touched)) == ("", MOST_CHANGED)
    assert more.reason == "101 of its partitions have changed"


def test_what_is_noted_fits_into_a_statement_of_the_data_api():
    most, more = (contents(SONGPLAYS, *days(MOST_PARTITIONS + extra)) for extra in (0, 1))
    load = build_load(most, None)
    sent = build_statements(["SELECT 1"], [load])
    assert (load.reason, len(most.partitions)) == (FIRST, MOST_PARTITIONS)
    assert 50_000 < max(map(len, sent)) < 100_000
    assert not more.partitions


def test_a_partition_that_is_new_is_deleted_too_for_another_load_may_have_added_it():
    before = contents(SONGPLAYS, "year=2018/month=1")
    load = build_load(contents(SONGPLAYS, "year=2018/month=1", "year=2018/month=2"), noted(before))
    delete, *_ = build_statements(["DELETE FROM ${schema}.songplays", "SELECT 1"], [load])
    assert delete.endswith("WHERE (start_time >= '2018-02-01' AND start_time < '2018-03-01')")
