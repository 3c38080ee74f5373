"""What the job keeps for itself may be empty, cut or foreign, and a lost lock deletes nothing."""

from __future__ import annotations

import json
import os
import re
import time
from unittest import mock

import pytest

from lake import paths, steps
from lake import run as lake_run
from lake.lock import Lock, LockedError
from lake.published import read_last_report, read_note, read_report
from lake.report import Report
from lake.storage import StorageError
from tests.faults import Fault, Killed, SmallLake, dead_process, lake_rows

OLD = lake_rows("old", songs={"year=1999": 1, "year=2001": 1})
NEW = lake_rows("new", songs={"year=2001": 2}, songplays={"year=2018/month=11": 1})
OTHER = lake_rows("other", songs={"year=2003": 1})
DAMAGES = ["", "{", '{"status": "published"}', "[]", "7", '"text"', "\x00\x00", '{"tables": {}}']


@pytest.fixture(autouse=True)
def _runs_of_an_ended_process(monkeypatch):
    process = dead_process()
    monkeypatch.setattr("lake.lock.os.getpid", lambda: process)


@pytest.fixture
def lake(tmp_path):
    """A small lake, published once."""
    lake = SmallLake(tmp_path / "lake")
    lake.publish(OLD)
    return lake


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_report_is_passed_over_with_one_warning(lake, damage, capsys):
    lake.storage().write("_etl/reports/20270101T000000Z-ffffff.json", damage)
    lake.storage().write("_etl/reports/zzz.json", damage)
    lake.storage().write("_etl/reports/notes.txt", "mine")
    last = read_last_report(lake.storage())
    assert last["run"] == "20260101T000001Z-000000"
    told = capsys.readouterr().err
    assert told.count("warning: passed over 2 damaged reports in ") == 1
    assert told.endswith("/_etl/reports, such as zzz.json\n")


def test_shrinkage_is_measured_against_the_last_report_that_is_whole(lake):
    report = Report("20260101T000002Z-000000", status="published")
    report.tables = {"users": {"rows": 100}, "songplays": {"rows": 9}}
    lake.storage().write(f"_etl/reports/{report.run}.json", report.as_json())
    lake.storage().write("_etl/reports/20260101T000003Z-000000.json", "")
    now = Report("20260101T000004Z-000000", tables={"users": {"rows": 1}, "songplays": {"rows": 9}})
    run = mock.Mock(storage=lake.storage(), report=now)
    steps.warn_of_shrinkage(run)
    assert now.warnings == ["users shrank from 100 to 1 rows"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_note_of_what_is_published_is_rebuilt(lake, damage, capsys):
    lake.storage().write(paths.PUBLISHED, damage)
    lake.publish(NEW)
    assert capsys.readouterr().err.count("is damaged or of another version") == 1
    assert lake.tables() == NEW
    assert read_note(lake.storage())


# ---- Recovery ------------------------------------------------------------------------------------


def publish_until(lake, rows, moment, error):
    fault = Fault(kind="killed before")

    def end(what):
        if re.match(moment, what) and error is Killed:
            fault.at = fault.changes + 1
        elif re.match(moment, what):
            raise error

    fault.before = end
    with pytest.raises(error):
        lake.publish(rows, fault)


@pytest.mark.parametrize(
    "moment", ["rename users to", "write _etl/published", "write _etl/reports"]
)
def test_recovery_writes_the_report_of_the_run_that_it_finishes(lake, moment):
    publish_until(lake, NEW, moment, Killed)
    lake.let_lock_lapse()
    lake.recover()
    report = read_report(lake.storage(), "20260101T000002Z-000000")
    assert report["status"] == "published"
    assert report["finished"]
    assert not lake.leftovers()


def test_recovery_leaves_a_report_that_is_there(lake):
    publish_until(lake, NEW, "delete _etl/2026.*/plan.json", Killed)
    before = read_report(lake.storage(), "20260101T000002Z-000000")
    lake.let_lock_lapse()
    lake.recover()
    after = read_report(lake.storage(), "20260101T000002Z-000000")
    assert {**after, "finished": ""} == {**before, "finished": ""}
    assert "swap" in after["seconds"]


def test_the_plan_of_an_older_version_is_finished(lake):
    publish_until(lake, NEW, "rename users to", Killed)
    (path,) = lake.folder.glob("_etl/*/plan.json")
    plan = json.loads(path.read_text())
    path.write_text(json.dumps({key: plan[key] for key in ("run", "tables")}))
    lake.let_lock_lapse()
    lake.recover()
    assert lake.tables() == NEW
    lake.publish(OLD)
    assert lake.tables() == OLD


@pytest.mark.parametrize(
    ("first", "says"),
    [
        ("rename _etl/.*/users to users", "is committed: what is not in place yet the next run"),
        (
            "write _etl/.*plan.draft",
            "the next run deletes what it staged, or finishes it if it was",
        ),
    ],
)
def test_a_second_interrupt_says_what_becomes_of_the_run(lake, capsys, first, says):
    again = mock.patch.object(lake_run, "clean_up", side_effect=KeyboardInterrupt)
    with again:
        publish_until(lake, NEW, first, KeyboardInterrupt)
    told = capsys.readouterr().err
    assert says in told
    assert "and so does --recover" in told
    lake.recover()
    assert lake.tables() == (NEW if "users" in first else OLD)
    assert not lake.leftovers()


def test_drafts_of_killed_writes_are_removed_once_they_are_old(lake):
    drafts = [
        lake.folder / "_etl" / name
        for name in (".LOCK.e6a6db", ".published.json.0a1b2c", "reports/.x.json.0a1b2c")
    ]
    mine = lake.folder / "_etl" / ".LOCK.mine"
    for path in (*drafts, mine):
        path.write_text("")
    lake.recover()
    assert all(path.exists() for path in drafts)
    for path in (*drafts, mine):
        os.utime(path, (time.time() - 3600,) * 2)
    lake.recover()
    assert not any(path.exists() for path in drafts)
    assert mine.exists()


# ---- A run that lost its lock --------------------------------------------------------------------


def take_over(lake, rows):
    """Publish by another run, as it may when the lease of this one has lapsed."""
    lake.let_lock_lapse()
    other = SmallLake(lake.folder, runs=70)
    other.publish(rows)


@pytest.mark.parametrize(
    "moment",
    [
        "rename songs/year=2001 to _etl/.*/retired",
        "rename _etl/.*/songs/year=2001 to songs",
        "rename users to _etl/.*/retired",
        "rename _etl/.*/users to users",
        "rename songplays to _etl",
    ],
)
def test_a_run_paused_in_mid_swap_gives_the_other_runs_table_back(lake, moment, capsys):
    taken = []

    def pause(what):
        if re.match(moment, what) and not taken:
            taken.append(what)
            take_over(lake, OTHER)

    with pytest.raises((LockedError, StorageError)):
        lake.publish(NEW, Fault(before=pause))
    assert taken
    assert lake.tables() == OTHER
    told = capsys.readouterr().err
    assert "has lost its lock, so it deletes nothing" in told
    assert "nothing was changed" not in told
    lake.publish(NEW)
    assert lake.tables() == NEW
    assert not lake.leftovers()


def test_a_run_whose_lock_is_held_by_a_run_at_work_deletes_nothing(lake):
    def take(what):
        if re.match("rename _etl/.*/artists to artists", what):
            Lock(lake.storage(), "20260101T000099Z-000000", 60)._write()
            (lake.folder / "artists").mkdir(exist_ok=True)
            (lake.folder / "artists/part-0.parquet").write_text("the other's")

    with pytest.raises((LockedError, StorageError)):
        lake.publish(NEW, Fault(before=take))
    kept = [path.read_text() for path in lake.folder.glob("_etl/*/retired/**/*.parquet")]
    assert any("old" in text for text in kept)
    assert lake.plans()


def test_a_failure_after_the_publish_is_not_called_a_failed_one(lake, capsys):
    with (
        mock.patch.object(lake_run.publishing, "keep_latest", side_effect=StorageError("no")),
        pytest.raises(StorageError),
    ):
        lake.publish(NEW)
    assert "has published its tables; only old reports may be left" in capsys.readouterr().err
    assert lake.tables() == NEW
