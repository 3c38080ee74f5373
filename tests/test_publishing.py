"""Publishing at every step: whatever change of files fails or is the last, no row is lost."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import os
import random
import re
import tempfile
import threading
import time
from pathlib import Path
from unittest import mock

import pytest

from lake import lock as lock_module
from lake import paths, publishing
from lake import storage as storage_module
from lake.lock import Lock, LockedError
from lake.publishing import Action, Step
from lake.storage import Disk, HadoopStorage, StorageError, open_storage
from tests.fault_summary import tried
from tests.faults import (
    KINDS,
    TABLES,
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

MIXED = lake_rows("old", songs={"year=1999": 2, "year=2001": 1}, songplays=MONTHS)
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
    "some partitions as they were": (
        MIXED,
        {
            **MIXED,
            "songs": {**MIXED["songs"], "year=2001": ["new"]},
            "users": {"": ["new"]},
            "songplays": {"year=2018/month=11": MIXED["songplays"]["year=2018/month=11"]},
        },
    ),
    "no partitions, several files": (
        lake_rows("old", users={"": 3}),
        lake_rows("new", users={"": 2}, time=MONTHS),
    ),
}
STORES = {  # how it can replace a folder
    "with an exchange of names": {"can_exchange": True},
    "with an atomic rename": {},
    "with a rename that copies": {"atomic_rename": False},
}


@pytest.fixture(autouse=True)
def _runs_of_an_ended_process(monkeypatch):
    """The lock of a run that was killed is that of a dead process, as it would be."""
    process = dead_process()
    monkeypatch.setattr(lock_module.os, "getpid", lambda: process)


@pytest.fixture(autouse=True)
def _without_syncs(monkeypatch):
    """What a sync is for is tested in test_power_cut.py; here they would take most of the time."""
    monkeypatch.setattr(storage_module.os, "fsync", lambda _: None)


@pytest.fixture
def new_lake(tmp_path):
    """A function that makes a small lake with tables in it."""
    numbers = itertools.count()

    def make(rows, store):
        lake = SmallLake(tmp_path / f"lake{next(numbers)}", **STORES[store])
        lake.put("", rows, "old")
        if any(rows.values()):
            lake.note_contents()
        return lake

    return make


def publish_until_fault(lake, new, fault, touched=None):
    """Whether the run got to its end."""
    try:
        lake.publish(new, fault, touched)
    except (Killed, StorageError):
        return False
    return True


def moments(changes):
    """Each change of files with half of the kinds of faults, the other half at the next change."""
    every = itertools.product(range(1, changes + 1), range(len(KINDS)))
    return [(at, KINDS[kind]) for at, kind in every if (at + kind) % 2]


# Where nothing is replaced in place, an exchange of names is an atomic rename.
EXCHANGED = ("replaced and added partitions", "removed partitions, several files")


@pytest.mark.parametrize(
    ("scenario", "store"),
    [
        (scenario, store)
        for scenario in SCENARIOS
        for store in STORES
        if "exchange" not in store or scenario in EXCHANGED
    ],
)
def test_no_fault_loses_a_row_and_the_next_run_mends_it(new_lake, scenario, store):
    old, new = SCENARIOS[scenario]
    count = Fault()
    new_lake(old, store).publish(new, count)
    # Half of the kinds at each change, the other half at the next.
    for at, kind in moments(count.changes):
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
            assert not kind.startswith("killed")
            assert lake.tables() == new
        if at % 4 < 2:
            lake.recover()
            assert lake.tables() == (new if committed else old)
            assert not lake.leftovers()
        lake.publish(new)
        assert lake.tables() == new
        assert not lake.leftovers()
        tried(f"on disk {store}")


@pytest.mark.parametrize("store", ["with an atomic rename", "with a rename that copies"])
@pytest.mark.parametrize(
    "scenario", ["removed partitions, several files", "by year, then by year and artist"]
)
def test_no_fault_while_recovering_from_a_fault_loses_a_row(new_lake, scenario, store):
    old, new = SCENARIOS[scenario]
    count = Fault()
    new_lake(old, store).publish(new, count)
    for first, kind in itertools.product(range(1, count.changes + 1), ("inside", "after")):
        for second in itertools.count(1 + first % 9, 9):  # every ninth, but not always the same
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


# ---- The lock ------------------------------------------------------------------------------------

OLD, NEW = SCENARIOS["removed partitions, several files"]


@pytest.fixture
def lake(new_lake):
    """A small lake with the old tables in it."""
    return new_lake(OLD, "with an atomic rename")


def hold_lock(lake, **changes):
    """LOCK as another run wrote it just now."""
    lock = Lock(lake.storage(), "other", 60)
    holder = {**dataclasses.asdict(lock.holder), "host": "elsewhere", **changes}
    lake.storage().write(paths.LOCK, json.dumps(holder))


def test_a_run_at_work_is_named_with_its_start_and_the_way_out(lake):
    hold_lock(lake, process=7, since="2026-01-01 10:00:00 UTC")
    with pytest.raises(LockedError) as refusal:
        lake.publish(NEW)
    assert str(refusal.value) == (
        "run other (process 7 on elsewhere, since 2026-01-01 10:00:00 UTC) is at work on "
        f"{lake.folder}, last heard of 0 s ago. Wait for it; if it is dead, its lock lapses "
        f"10 minutes after that, or delete {lake.folder}/_etl/LOCK"
    )
    assert lake.tables() == OLD
    assert lake.leftovers() == {"LOCK"}


def test_a_lock_that_lapsed_is_taken_over_and_said_so(lake, capsys):
    hold_lock(lake)
    lake.let_lock_lapse()
    lake.publish(NEW)
    assert "took over the lock of run other, last heard of 3600 s ago" in capsys.readouterr().err
    assert lake.tables() == NEW
    assert not lake.leftovers()


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"pid_namespace": "of a container"}])
def test_only_a_process_that_could_be_seen_here_counts_as_dead(lake, changes):
    here = dataclasses.asdict(Lock(lake.storage(), "other", 60).holder)
    hold_lock(lake, **{**here, **changes})
    with pytest.raises(LockedError):
        lake.publish(NEW)
    hold_lock(lake, **here)
    lake.publish(NEW)
    assert lake.tables() == NEW


def test_of_runs_that_start_at_once_one_gets_the_lock(lake):
    def acquire(number):
        lock = Lock(lake.storage(), f"run{number}", 60)
        barrier.wait()
        try:
            lock.acquire()
        except LockedError:
            return 0
        return 1

    barrier = threading.Barrier(4)
    # Not as processes that have ended: then each would take the lock of the one before.
    alive = mock.patch.object(Lock, "_died_here", return_value=False)
    with concurrent.futures.ThreadPoolExecutor(4) as pool, alive:
        assert sum(pool.map(acquire, range(4))) == 1


@pytest.mark.parametrize("moment", ["write _etl/.*plan.draft", "rename _etl/.*/artists"])
def test_a_run_whose_lock_was_taken_over_stops(lake, moment):
    told = []

    def take_over(what):
        if re.match(moment, what) and not told:
            told.append(what)
            hold_lock(lake)

    with pytest.raises(LockedError, match="run other on elsewhere holds it now"):
        lake.publish(NEW, Fault(before=take_over))
    assert told
    assert bool(lake.plans()) == ("artists" in moment)
    assert lock_module.read_holder(lake.storage()).run == "other"
    assert_nothing_lost(lake, OLD, NEW)


def test_a_run_that_was_paused_asks_before_it_goes_on(lake):
    lock = Lock(lake.storage(), "paused", 60)
    lock._write()
    lock.assert_held()
    hold_lock(lake)
    lock.assert_held()  # by the clock it cannot have been taken over
    later = mock.patch.object(lock_module.time, "time", return_value=lock._refreshed + 31)
    with later, pytest.raises(LockedError):
        lock.assert_held()


def test_a_lock_is_refreshed_while_its_run_lives(lake):
    lock = Lock(lake.storage(), "slow", 0.5)
    with mock.patch.object(lock_module, "SETTLE_SECONDS", 0):
        lock.acquire()
    first = lake.storage().written(paths.LOCK)
    time.sleep(0.5)
    assert lake.storage().written(paths.LOCK) > first
    lock.release()
    assert not lake.storage().exists(paths.LOCK)


# ---- Plans, errors, leftovers --------------------------------------------------------------------


def test_an_error_in_mid_swap_says_what_to_mend_and_how_to_go_on(lake):
    fault = Fault(kind="error before")

    def fail(what):
        if re.match("rename _etl/.*/artists to artists", what):
            fault.at = fault.changes + 1

    fault.before = fail
    with pytest.raises(StorageError) as error:
        lake.publish(NEW, fault)
    assert re.fullmatch(
        r"cannot rename \S+ to \S+: java.io.IOException: injected; run \S+ is committed: once that "
        "is mended, the next run puts the rest in place, and so does --recover",
        str(error.value),
    )


@pytest.fixture
def writes_forbidden():
    """A folder with an _etl that anyone may write to, and a switch to forbid and allow the rest."""
    with tempfile.TemporaryDirectory() as name:  # no one but root gets into pytest's own folders
        folder = Path(name)
        user = os.geteuid()

        @contextlib.contextmanager
        def forbidden():
            (folder / "_etl").mkdir(mode=0o777, exist_ok=True)
            (folder / "_etl").chmod(0o777)
            folder.chmod(0o555)
            if user == 0:
                os.seteuid(65534)  # root may write anywhere
            try:
                yield
            finally:
                os.seteuid(user)
                folder.chmod(0o755)

        yield folder, forbidden


def test_a_lake_that_may_not_be_written_to_is_refused_before_the_commit(writes_forbidden, capsys):
    folder, forbidden = writes_forbidden
    lake = SmallLake(folder)
    lake.publish(OLD)
    (folder / "_etl/reports").chmod(0o777)
    refusal = pytest.raises(StorageError, match=r"cannot move \S+probe to \S+: Permission denied$")
    with forbidden(), refusal:
        lake.publish(NEW)
    assert "nothing was changed" in capsys.readouterr().err
    assert lake.tables() == OLD
    lake.publish(NEW)
    assert lake.tables() == NEW


def test_a_swap_that_is_not_allowed_is_mended_later(lake, capsys):
    fault = Fault(kind="error before")

    def fail(what):
        if re.match("rename users to _etl/.*/retired", what):
            fault.at = fault.changes + 1

    fault.before = fail
    with pytest.raises(StorageError, match=r"cannot rename .*; run .* is committed: .*--recover"):
        lake.publish(NEW, fault)
    assert "is committed" in capsys.readouterr().err
    lake.recover()
    assert lake.tables() == NEW


@pytest.mark.parametrize(
    ("moment", "says", "left"),
    [
        ("write _etl/.*plan.draft", "nothing was changed", OLD),
        ("rename _etl/.*plan.draft", "nothing was changed", OLD),
        ("write _etl/reports", "is committed: what is not in place yet the next run puts", NEW),
    ],
)
def test_an_interrupt_cleans_up_or_says_who_will(lake, capsys, moment, says, left):
    def interrupt(what):
        if re.match(moment, what):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lake.publish(NEW, Fault(before=interrupt))
    assert says in capsys.readouterr().err
    assert lake.tables() == left
    assert bool(lake.leftovers()) == bool(lake.plans()) == (left is NEW)


def test_a_table_of_which_nothing_is_staged_is_not_committed(lake):
    with pytest.raises(StorageError, match="an empty table is not published"):
        lake.publish({**NEW, "users": {}})
    assert lake.tables() == OLD
    assert not lake.leftovers()


DEAD = "20260101T000000Z-dead00"


def put_plan(lake, **put):
    tables = [{"name": name, "put": {"": files}, "remove": []} for name, files in put.items()]
    lake.storage().write(
        f"_etl/{DEAD}/plan.json",
        json.dumps({"run": DEAD, "tables": tables}),
    )


def test_a_plan_that_a_later_run_has_replaced_is_dropped(lake, capsys):
    put_plan(lake, songs=["gone.parquet"], users=["gone.parquet"])
    lake.recover()
    assert f"dropped the plan of run {DEAD}: none of its files is left" in capsys.readouterr().err
    assert lake.tables() == OLD
    assert not lake.leftovers()


def test_a_plan_whose_files_are_lost_in_part_touches_nothing(lake):
    put_plan(lake, songs=["a.parquet", "gone.parquet"])
    lake.put(f"_etl/{DEAD}", {"songs": {"": ["new"]}}, "dead")
    (lake.folder / f"_etl/{DEAD}/songs/part-00000-dead.parquet").rename(
        lake.folder / f"_etl/{DEAD}/songs/a.parquet"
    )
    with pytest.raises(StorageError, match=r"plan.json names are gone; restore them, or delete"):
        lake.recover()
    assert lake.tables() == OLD
    assert (lake.folder / f"_etl/{DEAD}/songs/a.parquet").exists()


@pytest.mark.parametrize("text", ["", "{}", '{"run": "dead", "tables": [{"other": 1}]}'])
def test_a_damaged_plan_is_one_line_and_stays(lake, text):
    lake.storage().write(f"_etl/{DEAD}/plan.json", text)
    with pytest.raises(StorageError, match=rf"cannot read the plan .*/_etl/{DEAD}/plan.json"):
        lake.recover()
    assert (lake.folder / f"_etl/{DEAD}/plan.json").exists()


@pytest.mark.parametrize("store", STORES)
def test_a_folder_without_data_in_the_way_is_put_aside(new_lake, store):
    lake = new_lake({**OLD, "users": {}, "songs": {}}, store)
    (lake.folder / "songs/year=2001").mkdir(parents=True)
    (lake.folder / "users").mkdir(exist_ok=True)
    (lake.folder / "users/_SUCCESS").touch()
    lake.publish(NEW)
    assert lake.tables() == NEW
    assert (lake.folder / "users/_SUCCESS").exists()


def test_only_the_latest_reports_and_rejects_are_kept(lake):
    runs = [f"2026010{day}T000000Z-000000" for day in range(1, 5)]
    for run in (*runs, "mine"):
        lake.storage().write(f"_etl/rejects/{run}/log_data/part.json", "{}")
    for run in (runs[0], runs[2], "0-mine"):
        lake.storage().write(f"_etl/reports/{run}.json", "{}")
    publishing.keep_latest(lake.storage(), 2)
    assert lake.storage().folders("_etl/rejects") == [*runs[2:], "mine"]
    assert lake.storage().files("_etl/reports").keys() == {"0-mine.json", f"{runs[2]}.json"}


# ---- Runs that build only a part anew ------------------------------------------------------------

SOME, MORE = SCENARIOS["some partitions as they were"]
TOUCHED = {
    "songs": {"year=2001"},
    "users": {""},
    "songplays": {"year=2018/month=12"},
}


def changes_of(lake, new, touched):
    """Which folders of tables a run moves files into or deletes."""
    told = []
    lake.publish(new, Fault(before=told.append), touched)
    found = (
        re.fullmatch(r"(?:rename \S+ to|exchange \S+ with|delete) ([a-z]+(?:/\S+)?)", what)
        for what in told
    )
    return {match[1] for match in found if match} - {paths.LOCK}


@pytest.mark.parametrize("store", STORES)
def test_only_what_is_touched_is_replaced_and_what_it_lost_is_removed(new_lake, store):
    lake = new_lake(EMPTY, store)
    lake.publish(SOME)
    before = lake.texts("")
    told = changes_of(lake, MORE, TOUCHED)
    assert told - {"songplays/year=2018/month=12"} == {"songs/year=2001", "users"}
    assert lake.tables() == MORE
    assert not lake.leftovers()
    assert not lake.state_damage()
    untouched = {path for path in before if path.startswith(("time", "artists", "songs/year=1999"))}
    assert untouched <= lake.texts("").keys()


@pytest.mark.parametrize("store", STORES)
def test_no_fault_of_a_run_over_a_part_loses_a_row_or_its_state(new_lake, store):
    count = Fault()
    lake = new_lake(EMPTY, store)
    lake.publish(SOME)
    lake.publish(MORE, count, TOUCHED)
    for at, kind in moments(count.changes):
        lake, fault = new_lake(EMPTY, store), Fault(at, kind)
        lake.publish(SOME)
        publish_until_fault(lake, MORE, fault, TOUCHED)
        assert fault.hit
        assert_nothing_lost(lake, SOME, MORE, inside="inside" in kind)
        lake.let_lock_lapse()
        committed = bool(lake.plans()) or lake.tables() == MORE
        lake.recover()
        assert lake.tables() == (MORE if committed else SOME)
        assert not lake.state_damage()
        lake.publish(MORE, None, TOUCHED)
        assert lake.tables() == MORE
        assert not lake.leftovers()
        assert not lake.state_damage()
        tried(f"of a run over a part, on disk {store}")


def test_a_run_that_had_nothing_to_replace_and_was_killed_is_finished(lake, capsys):
    def die(what):
        if re.match("write _etl/published.json", what):
            raise Killed

    with pytest.raises(Killed):
        lake.publish(OLD, Fault(before=die), {"users": set()})
    assert lake.plans()[0]["tables"] == []
    lake.let_lock_lapse()
    lake.recover()
    assert "finished the swap of run" in capsys.readouterr().err
    assert lake.tables() == OLD
    assert not lake.leftovers()
    assert not lake.state_damage()


def test_parsed_records_that_no_state_names_are_deleted_and_others_stay(lake):
    lake.publish(OLD)
    mine = "_etl/parsed/log_data/mine/part"
    for path in (mine, f"_etl/parsed/log_data/run={DEAD}/part", f"_etl/inputs/{DEAD}.json"):
        lake.storage().write(path, "")
    lake.recover()
    assert not lake.state_damage()
    assert lake.storage().exists(mine)
    assert not lake.storage().exists(f"_etl/parsed/log_data/run={DEAD}")
    assert not lake.storage().exists(f"_etl/inputs/{DEAD}.json")


def test_a_run_that_keeps_no_state_leaves_no_parsed_records(lake):
    lake.publish(OLD)
    lake.publish(NEW, incremental=False)
    assert lake.state_damage() == "no state is noted"
    assert lake.storage().files("_etl/parsed") == {}
    assert lake.storage().files("_etl/inputs") == {}


# ---- Any sequence of runs ------------------------------------------------------------------------


def random_lake(random, version, before=EMPTY):
    """Five tables with one to three folders of one to three rows in one of several layouts.

    Some folders of the lake before have the same rows again.
    """
    layouts = ("", "year={}", "year={}/artist_id=AR{}")
    folders = {}
    for table in TABLES:
        layout = random.choice(layouts)
        names = {layout.format(*random.choices("123", k=2)) for _ in range(3)}
        folders[table] = {name: random.randint(1, 3) for name in names}
    lake = lake_rows(version, **folders)
    for table in TABLES:
        same = [name for name in sorted(before[table]) if random.random() < 0.5]
        lake[table].update((name, before[table][name]) for name in same if name in lake[table])
    return lake


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("seed", range(12))
def test_any_sequence_of_runs_ends_with_the_tables_of_the_last_that_committed(
    new_lake, store, seed
):
    chance = random.Random(seed)
    lake, expected = new_lake(EMPTY, store), EMPTY
    before = expected
    for number in range(6):
        new = random_lake(chance, f"run{number}", expected)
        publish_until_fault(lake, new, Fault(chance.randint(1, 60), chance.choice(KINDS)))
        this_run = f"20260101T{lake.runs:06}Z-000000"
        if lake.tables() == new or [plan["run"] for plan in lake.plans()] == [this_run]:
            before, expected = expected, new  # else it died before, perhaps in recovery
        assert_nothing_lost(lake, before, expected, inside=True)
        lake.let_lock_lapse()
    lake.recover()
    assert lake.tables() == expected
    last = random_lake(chance, "last")
    lake.publish(last)
    assert lake.tables() == last


# ---- Storage: the same on a disk and through Hadoop's FileSystem ---------------------------------


@pytest.fixture(params=["disk", "Hadoop"])
def storage(request, tmp_path):
    """The two kinds of storage, on the same kind of folder."""
    if request.param == "disk":
        return Disk(f"file:{tmp_path}")
    return HadoopStorage(request.getfixturevalue("spark"), str(tmp_path))


def test_a_storage_hides_what_readers_do_not_see(storage):
    hidden = {"_SUCCESS": 4, ".x": 4, "_a/x.parquet": 4}
    visible = {"a=1/x.parquet": 4, "y z.parquet": 4}
    for path in (*visible, *hidden):
        storage.write(f"t/{path}", "text")
    assert storage.files("t") == visible
    assert storage.all_files("t") == {**visible, **hidden}
    assert storage.files("nothing") == {}
    assert storage.folders("t") == ["_a", "a=1"]
    assert storage.folders("nothing") == []


def test_a_storage_writes_reads_and_dates_small_files(storage):
    storage.write("a/b", "Beyoncé")
    storage.write("a/b", "Björk")
    assert storage.read("a/b") == "Björk"
    assert abs(storage.written("a/b") - time.time()) < 60
    assert storage.written("a/c") is None
    assert storage.files("a") == {"b": 6}


def test_a_storage_moves_a_folder_to_where_nothing_is(storage):
    storage.write("new/x", "new")
    storage.rename("new", "deep/down/table")
    assert storage.read("deep/down/table/x") == "new"
    assert not storage.exists("new")
    storage.write("new/x", "newer")
    with pytest.raises(StorageError, match=r"cannot move /.*new to /.*table: "):
        storage.rename("new", "deep/down/table")
    assert storage.files("deep") == {"down/table/x": 3}
    assert storage.read("new/x") == "newer"
    with pytest.raises(StorageError, match="cannot move"):
        storage.rename("nothing", "somewhere")


def test_a_storage_deletes_folders_files_and_nothing(storage):
    storage.write("a/b/c", "")
    storage.write("a/d", "")
    for path in ("a/d", "a/b", "a/b"):
        storage.delete(path)
    assert storage.exists("a")
    assert not storage.exists("a/b")
    assert not storage.exists("a/d")


def test_a_storage_says_in_one_line_what_it_cannot_do(storage):
    storage.write("file", "")
    for change in (storage.read, lambda path: storage.write(path, "")):
        with pytest.raises(StorageError, match=r"^cannot (read|write) /\S+file/below: [^\n]+$"):
            change("file/below")


def test_an_unknown_kind_of_store_is_one_line(spark):
    with pytest.raises(StorageError, match=r"^cannot open ftps://x: .*No FileSystem for scheme"):
        open_storage(spark, "ftps://x")


def test_a_disk_is_reached_without_hadoop(spark, tmp_path):
    assert isinstance(open_storage(spark, str(tmp_path)), Disk)
    assert open_storage(spark, f"{tmp_path}/").path("a") == f"file:{tmp_path}/a"


# ---- Steps that only a rare state asks for -------------------------------------------------------


def test_a_unit_that_is_half_in_place_loses_its_old_files_first_and_then_gets_the_rest():
    steps = publishing.build_steps({"a", "b"}, {"a", "old"}, {"a", "b"})
    assert steps == [Step(Action.DELETE, "old"), Step(Action.MOVE, "b")]
    assert publishing.build_steps({"a"}, {"a"}, set()) == []
    assert publishing.build_steps({"a", "b"}, {"a"}, set()) is None


def test_a_hidden_file_that_was_kept_by_a_unit_half_in_place_follows_it():
    steps = publishing.build_steps({"a"}, {"a", "_here"}, {"_here", ".mine"})
    assert steps == [Step(Action.MOVE, ".mine")]


def test_a_commit_whose_answer_was_lost_is_a_commit(lake):
    fault = Fault(kind="error after")

    def lose_answer(what):
        if re.match("rename _etl/.*plan.draft", what):
            fault.at = fault.changes + 1

    fault.before = lose_answer
    lake.publish(NEW, fault)
    assert fault.hit
    assert lake.tables() == NEW


def test_a_swap_that_finds_something_in_its_way_again_puts_that_aside_too(lake):
    def die(what):
        if re.match("rename _etl/.*/songs/year=2001 to songs", what):
            raise Killed

    with pytest.raises(Killed):
        lake.publish(NEW, Fault(before=die))
    (lake.folder / "songs/year=2001").mkdir(parents=True)
    lake.let_lock_lapse()
    lake.recover()
    assert lake.tables() == NEW


def test_a_folder_that_may_not_be_entered_is_one_line(lake):
    forbidden = mock.patch.object(Path, "exists", side_effect=PermissionError(13, "Forbidden"))
    with forbidden, pytest.raises(StorageError, match=r"^cannot look up /.*/songs: Forbidden$"):
        lake.storage().exists("songs")
