"""Publishing at every step: whatever change of files fails or is the last, no row is lost."""

from __future__ import annotations

import contextlib
import itertools

import pytest

import publishing
from publishing import LockedError
from storage import StorageError
from tests.fault_summary import tried
from tests.faults import (
    KILLS,
    TABLES,
    THROWS,
    Fault,
    Killed,
    SmallLake,
    assert_nothing_lost,
    dead_process,
    lake_rows,
)

YEARS = {"year=1999": 1, "year=2001": 1}
MONTHS = {"year=2018/month=11": 1, "year=2018/month=12": 1}
ARTISTS = {"year=1999/artist_id=AR1": 1, "year=2001/artist_id=AR2": 1}
EMPTY = {table: {} for table in TABLES}

SCENARIOS = {  # the tables before and after
    "first publish": (EMPTY, lake_rows("new", songs=YEARS, songplays={"year=2018/month=11": 2})),
    "replaced and added partitions": (
        lake_rows("old", songs={"year=1999": 1}, songplays={"year=2018/month=11": 1}),
        lake_rows("new", songs=YEARS, songplays=MONTHS),
    ),
    "removed partitions, several files": (
        lake_rows("old", songs=YEARS, songplays={**MONTHS, "year=2018/month=11": 3}),
        lake_rows("new", songs={"year=2001": 2}, songplays={"year=2018/month=12": 3}),
    ),
    "by year, then by year and artist": (
        lake_rows("old", songs=YEARS),
        lake_rows("new", songs=ARTISTS),
    ),
    "by year and artist, then by year": (
        lake_rows("old", songs=ARTISTS),
        lake_rows("new", songs=YEARS),
    ),
    "no partitions, several files": (
        lake_rows("old", users={"": 3}),
        lake_rows("new", users={"": 2}, time=MONTHS),
    ),
}
STORES = {"with an atomic rename": True, "with a rename that copies": False}


@pytest.fixture(autouse=True)
def _runs_of_an_ended_process(monkeypatch):
    """The lock of a run that was killed is that of a dead process, as it would be."""
    process = dead_process()
    monkeypatch.setattr(publishing.os, "getpid", lambda: process)


@pytest.fixture
def new_lake(tmp_path):
    """A function that makes a small lake with tables in it."""
    numbers = itertools.count()

    def make(rows, store):
        lake = SmallLake(tmp_path / f"lake{next(numbers)}", STORES[store])
        lake.put("", rows, "old")
        return lake

    return make


def publish_until_fault(lake, new, fault):
    """Whether the run got to its end."""
    try:
        lake.publish(new, fault)
    except (Killed, StorageError):
        return False
    return True


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_fault_loses_a_row_and_the_next_run_mends_it(new_lake, scenario, store):
    old, new = SCENARIOS[scenario]
    count = Fault()
    new_lake(old, store).publish(new, count)
    for at, kind in itertools.product(range(1, count.changes + 1), (*KILLS, *THROWS)):
        lake, fault = new_lake(old, store), Fault(at, kind)
        ended = publish_until_fault(lake, new, fault)
        assert fault.hit
        assert_nothing_lost(lake, old, new, inside="inside" in kind)
        if lake.lock_is_torn():
            with pytest.raises(LockedError, match="a run that does not give its name is at work"):
                lake.publish(new)
            lake.let_lock_lapse()
        committed = ended or bool(lake.plans()) or lake.tables() == new
        if ended:
            assert kind in THROWS
            assert lake.tables() == new
        if at % 2:
            lake.recover()
            assert lake.tables() == (new if committed else old)
            assert not lake.leftovers()
        lake.publish(new)
        assert lake.tables() == new
        assert not lake.leftovers()
        tried(f"on disk {store}")


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize(
    "scenario", ["removed partitions, several files", "by year, then by year and artist"]
)
def test_no_fault_while_recovering_from_a_fault_loses_a_row(new_lake, scenario, store):
    old, new = SCENARIOS[scenario]
    count = Fault()
    new_lake(old, store).publish(new, count)
    for first, kind in itertools.product(range(1, count.changes + 1), ("inside", "after")):
        for second in itertools.count(1 + first % 5, 5):  # every fifth, but not always the same
            lake, fault = new_lake(old, store), Fault(second, f"killed {kind}")
            publish_until_fault(lake, new, Fault(first, "killed inside"))
            committed = bool(lake.plans()) or lake.tables() == new
            lake.let_lock_lapse()
            with contextlib.suppress(Killed):
                lake.recover(fault)
            if not fault.hit:
                break
            assert_nothing_lost(lake, old, new, inside=True)
            assert lake.tables() == old or committed
            if lake.lock_is_torn():
                lake.let_lock_lapse()
            lake.recover()
            assert lake.tables() == (new if committed else old)
            assert not lake.leftovers()
            tried(f"in recovery, on disk {store}")
