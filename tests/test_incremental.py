"""The edges of a run that reads only what is new: when it does, and what it leaves alone."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import etl
from configs import DL_CFG
from lake import parsed, paths, work
from lake.accounting import FileFacts, Outcome
from lake.inputs import (
    KnownFile,
    SourceState,
    State,
    find_changes,
    read_state,
    settle_version,
    write_state,
)
from lake.parsed import MOST_FOLDERS, find_folders_to_compact
from lake.storage import Disk, Version
from tests.factories import TS, event, read_lake, read_report, song, write_input

DAY = 86_400_000
SOURCES = ("song_data", "log_data")
SECOND = 10**9
NOW = 1_700_000_000 * SECOND + 123_456_789


def known(version: Version, run: str = "run") -> KnownFile:
    """A file that a run has read."""
    return KnownFile(version, run, FileFacts([Outcome("loaded", None, 1, 0, 0)], {"2018-11-01": 1}))


# ---- Which files have changed --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "is_changed"),
    [
        (Version(7, 5), Version(7, 5), False),
        (Version(7, 5), Version(8, 5), True),
        (Version(7, 5), Version(7, 6), True),
        (Version(7, 0, "one"), Version(7, 0, "one"), False),
        (Version(7, 0, "one"), Version(7, 0, "other"), True),  # S3: same size, same second
        (Version(7, 5, "11"), Version(7, 5, "12"), True),  # a disk: another file of this name
    ],
)
def test_a_file_has_changed_if_its_bytes_time_or_identity_have(before, after, is_changed):
    changes = find_changes({"a": after}, {"a": known(before)})
    assert bool(changes) == is_changed
    assert changes.to_parse == changes.outdated == (["a"] if is_changed else [])


def test_a_renamed_file_is_new_and_gone():
    changes = find_changes({"b": Version(7, 5, "1")}, {"a": known(Version(7, 5, "1"))})
    assert (changes.new, changes.changed, changes.gone) == (["b"], [], ["a"])


@pytest.mark.parametrize(
    ("changed", "is_noted"),
    [
        (NOW - 21_000_000, True),
        (NOW - 19_000_000, False),  # within a tick of the disk's clock
        (NOW + SECOND, False),  # while a long listing went on
        (NOW + 5 * SECOND + 19_000_000, False),
        (NOW + 5 * SECOND + 21_000_000, True),  # by a clock that is ahead: not read for ever
        (NOW + 10**6 * SECOND, True),
        (NOW // SECOND * SECOND - SECOND, False),  # whole seconds: a coarse clock, perhaps
        (NOW // SECOND * SECOND - 2 * SECOND, True),
    ],
)
def test_a_file_that_changes_while_it_is_listed_is_read_once_more(changed, is_noted):
    version = Version(7, changed, "11")
    noted = settle_version(version, NOW, NOW + 5 * SECOND)
    assert (noted == version) == is_noted
    assert bool(find_changes({"a": version}, {"a": known(noted)})) != is_noted


def test_a_version_with_an_etag_needs_no_clock():
    version = Version(7, 0, "etag")
    assert settle_version(version, 0, NOW) == version


def test_two_files_of_one_size_and_time_that_swap_their_names_have_changed(tmp_path):
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    for path in (one, other):
        path.write_text(path.stem[:3])
        os.utime(path, ns=(NOW, NOW))
    before = Disk(f"file:{tmp_path}").versions()
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    after = Disk(f"file:{tmp_path}").versions()
    files = {file: known(version) for file, version in before.items()}
    assert len(find_changes(after, files).changed) == 2


def test_100_000_files_are_compared_within_seconds(tmp_path):
    storage = Disk(f"file:{tmp_path}")
    files = {
        f"file:/input/song_data/A/B/C/TR{number:06}.json": known(Version(300, NOW + number, "1"))
        for number in range(100_000)
    }
    state = State(run="run", sources={"song_data": SourceState(files)})
    write_state(storage, state)
    listed = {file: found.version for file, found in files.items()}
    listed["file:/input/song_data/new.json"] = Version(1, 1, "2")
    start = time.process_time()
    read = read_state(storage, "run")
    changes = find_changes(listed, read.source("song_data").files)
    seconds = time.process_time() - start
    size = (tmp_path / paths.inputs_path("run")).stat().st_size
    print(f"100,000 files: state read and compared in {seconds:.2f} CPU seconds ({size:,} bytes)")
    new = ["file:/input/song_data/new.json"]
    assert (changes.new, changes.changed, changes.gone) == (new, [], [])
    assert read == state
    assert seconds < 10


# ---- Parsed folders ------------------------------------------------------------------------------


def folders_of(sizes, dead=()):
    """A source with a folder for each size, each with the records of one file."""
    return SourceState(
        {run: known(Version(1, 1), run) for run in sizes},
        {run: {"part": size} for run, size in sizes.items()},
        {run: ["gone", "gone too"] for run in dead},
    )


def test_up_to_16_folders_stay_as_they_are():
    sizes = {f"run{number:02}": number for number in range(MOST_FOLDERS)}
    assert find_folders_to_compact(folders_of(sizes)) == []


def test_of_more_folders_the_smaller_half_is_compacted():
    sizes = {f"run{number:02}": 100 - number for number in range(MOST_FOLDERS + 1)}
    chosen = find_folders_to_compact(folders_of(sizes))
    assert chosen == [f"run{number:02}" for number in range(9, 17)]


def test_a_folder_that_is_mostly_dead_is_compacted():
    assert find_folders_to_compact(folders_of({"one": 1, "two": 2}, dead=["two"])) == ["two"]


# ---- The real job --------------------------------------------------------------------------------

SONGS = [song(), song(song_id="SO2", artist_id="AR2", title="Second", year=0)]
EVENTS = [
    event(itemInSession=1),
    event(itemInSession=2, ts=TS + 30 * DAY, song="Second"),
    event(itemInSession=3, ts=TS + 61 * DAY, userId="8"),
]


def age(folder: Path) -> None:
    """Let all input be an hour old, so that none is read once more for being fresh."""
    for path in folder.glob("*_data/**/*.json"):
        os.utime(path, (time.time() - 3600,) * 2)


@pytest.fixture(scope="module")
def published(spark, tmp_path_factory):
    """An input folder whose lake was published once, and a copy of what it holds."""
    folder = tmp_path_factory.mktemp("published")
    flags = write_input(folder, SONGS, EVENTS)
    age(folder)
    assert etl.main(flags) == 0
    shutil.copytree(folder / "lake", folder / "copy")
    kept = {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.glob("*_data/**/*.json")
    }
    return SimpleNamespace(folder=folder, flags=flags, log=folder / "log_data", input=kept)


@pytest.fixture
def lake(published):
    """The same as it was published: its input's files are the same to the disk as well."""
    shutil.rmtree(published.folder / "lake")
    shutil.copytree(published.folder / "copy", published.folder / "lake")
    for path in set(published.folder.glob("*_data/**/*.json")) - published.input.keys():
        path.unlink()
    for path, (content, changed) in published.input.items():
        path.write_bytes(content)  # in place: it stays the same file
        os.utime(path, ns=(changed, changed))
    return published


def write_log(lake, name, *events):
    """A log file of an hour ago."""
    path = lake.log / name
    path.write_text("".join(f"{json.dumps(told)}\n" for told in events))
    os.utime(path, (time.time() - 3600,) * 2)
    return path


def run(lake, *flags):
    """One run; what its report says of itself."""
    assert etl.main([*lake.flags, *flags]) == 0
    return read_report(lake.folder)["this_run"]


def stamps(folder):
    """Which files there are, as a disk tells them apart."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_one_more_day_changes_only_its_month_the_users_and_the_jobs_own_files(lake, spark):
    before = stamps(lake.folder / "lake")
    write_log(lake, "new.json", event(itemInSession=9, ts=TS + 31 * DAY))
    told = run(lake)
    assert told["files"]["log_data"] == {"new": 1, "changed": 0, "gone": 0}
    assert told["read"] == {"song_data": 0, "log_data": 1}
    assert told["rebuilt"] == {"users": 1, "time": 1, "songplays": 1}
    after = stamps(lake.folder / "lake")
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    tables = {path.rpartition("/")[0] for path in changed if not path.startswith("_etl/")}
    assert tables == {"users", "time/year=2018/month=12", "songplays/year=2018/month=12"}
    kept = [path for path in before if path.startswith("_etl/parsed/")]
    assert kept
    assert not set(kept) & changed, "records that were parsed before are not written again"
    assert len(read_lake(spark, lake.folder / "lake")["songplays"]) == 4


def test_with_a_partition_for_each_day_only_the_touched_days_are_rebuilt(spark, tmp_path):
    config = tmp_path / "dl.cfg"
    by_month = "= year, month  "
    config.write_text(DL_CFG.read_text().replace(by_month, "= year, month, day  "))
    events = [event(itemInSession=n, ts=TS + n * DAY) for n in range(3)]
    flags = [f"--config={config}", *write_input(tmp_path, SONGS, events)]
    lake = SimpleNamespace(folder=tmp_path, flags=flags, log=tmp_path / "log_data")
    age(tmp_path)
    run(lake)
    before = stamps(tmp_path / "lake" / "songplays")
    write_log(lake, "new.json", event(itemInSession=9, ts=TS + DAY))
    assert run(lake)["rebuilt"] == {"users": 1, "time": 1, "songplays": 1}
    after = stamps(tmp_path / "lake" / "songplays")
    same = {path for path, stamp in before.items() if after.get(path) == stamp}
    assert (len(before), len(same), len(after)) == (3, 2, 3)
    assert len(read_lake(spark, tmp_path / "lake")["songplays"]) == 4


def test_a_run_with_nothing_new_writes_its_report_and_nothing_else(lake):
    before = stamps(lake.folder / "lake")
    assert run(lake)["read"] == {"song_data": 0, "log_data": 0}
    after = stamps(lake.folder / "lake")
    reports = {path for path in after if path.startswith("_etl/reports/")}
    assert read_report(lake.folder)["status"] == "unchanged"
    assert {path: after[path] for path in after.keys() - reports} == {
        path: before[path] for path in before.keys() - reports
    }
    assert {path.name for path in (lake.folder / "lake/_etl").iterdir()} == {
        *("published.json", "inputs", "parsed", "reports")
    }


def test_a_touched_file_with_equal_content_is_told_as_changed_and_changes_no_row(lake, spark):
    before = read_lake(spark, lake.folder / "lake")
    (log,) = lake.log.rglob("*.json")
    os.utime(log, (time.time() - 1800,) * 2)
    assert run(lake)["files"]["log_data"] == {"new": 0, "changed": 1, "gone": 0}
    assert read_lake(spark, lake.folder / "lake") == before
    assert run(lake)["files"]["log_data"] == {"new": 0, "changed": 0, "gone": 0}


def test_a_file_with_a_time_in_the_future_is_read_once(lake):
    path = write_log(lake, "new.json", event(itemInSession=9))
    os.utime(path, (time.time() + 86_400,) * 2)
    assert run(lake)["read"]["log_data"] == 1
    assert run(lake)["read"]["log_data"] == 0


def test_a_file_written_at_the_moment_of_the_run_is_read_once_more(lake, monkeypatch):
    path = write_log(lake, "new.json", event(itemInSession=9))
    changed = path.stat().st_mtime_ns
    monkeypatch.setattr("lake.listing.time.time_ns", lambda: changed + 10_000_000)
    assert run(lake)["read"]["log_data"] == 1
    monkeypatch.undo()
    assert run(lake)["files"]["log_data"] == {"new": 0, "changed": 1, "gone": 0}
    assert run(lake)["read"]["log_data"] == 0


def test_what_a_file_has_grown_by_while_it_was_read_is_read_by_the_next_run(
    lake, spark, monkeypatch
):
    path = write_log(lake, "new.json", event(itemInSession=9))
    listed = work.list_sources

    def list_and_grow(of_run):
        listings = listed(of_run)
        with path.open("a") as file:
            file.write(json.dumps(event(itemInSession=10)) + "\n")
        os.utime(path, (time.time() - 1800,) * 2)
        return listings

    monkeypatch.setattr(work, "list_sources", list_and_grow)
    run(lake)
    monkeypatch.undo()
    assert run(lake)["files"]["log_data"]["changed"] == 1
    assert len(read_lake(spark, lake.folder / "lake")["songplays"]) == 5
    assert read_report(lake.folder)["sources"]["log_data"]["loaded"] == 5


def test_many_small_runs_are_compacted_and_no_row_changes(lake, spark, monkeypatch):
    monkeypatch.setattr(parsed, "MOST_FOLDERS", 1)
    for number in range(10, 12):
        write_log(lake, f"{number}.json", event(itemInSession=number, ts=TS + number * DAY))
        run(lake)
    found = read_lake(spark, lake.folder / "lake")
    assert len(found["songplays"]) == 5
    assert len(list((lake.folder / "lake/_etl/parsed/log_data").iterdir())) == 2
    assert run(lake, "--full")["full"] == "--full asks for it"
    assert read_lake(spark, lake.folder / "lake") == found


# ---- When all is read ----------------------------------------------------------------------------


def shown(lake, capsys, *flags):
    """What --dry-run prints; it changes nothing."""
    before = stamps(lake.folder)
    capsys.readouterr()
    assert etl.main([*lake.flags, "--dry-run", *flags]) == 0
    assert stamps(lake.folder) == before
    return capsys.readouterr().out.splitlines()


def test_a_dry_run_says_what_would_be_read_and_rebuilt_and_changes_nothing(lake, capsys):
    assert shown(lake, capsys) == ["nothing is new: a run would change nothing"]
    write_log(lake, "new.json", event(itemInSession=9))
    (old,) = lake.log.rglob("2018-11-01*")
    with old.open("a") as file:
        file.write("\n")
    months = "year=2018/month=11, year=2018/month=12, year=2019/month=1"
    assert shown(lake, capsys) == [
        f"log_data: new: {lake.log}/new.json",
        f"log_data: changed: {old}",
        "users: all of it",
        f"time: {months}: plays of changed and gone files",
        f"songplays: {months}: plays of changed and gone files",
        "time, songplays: the partitions of the new plays, known when they are read",
    ]


def break_rules(lake, monkeypatch):
    monkeypatch.setattr(etl, "find_rules", lambda _: "other")
    return [], "the job's rules have changed since the last run"


def change_layout(lake, _):
    flags = ["--partition-songs=year,artist_id"]
    return flags, "[partitions] or max_rows_per_file has changed since the last run"


def change_limit(lake, monkeypatch):
    monkeypatch.setenv("SPARKIFY_ETL_MAX_ROWS_PER_FILE", "5")
    return [], "[partitions] or max_rows_per_file has changed since the last run"


def lose_state(lake, _):
    (state,) = (lake.folder / "lake/_etl/inputs").iterdir()
    state.unlink()
    return [], "no state of an earlier run can be read"


def cut_state(lake, _):
    (state,) = (lake.folder / "lake/_etl/inputs").iterdir()
    state.write_text(state.read_text()[:-9])
    return [], "no state of an earlier run can be read"


def lose_note(lake, _):
    (lake.folder / "lake" / paths.PUBLISHED).unlink()
    return [], "no state of an earlier run can be read"


def cut_parsed(lake, _):
    path = min((lake.folder / "lake/_etl/parsed/log_data").rglob("part*"))
    path.write_bytes(path.read_bytes()[:-1])
    below = path.relative_to(lake.folder / "lake")
    return [], f"{below} is not as it was written"


def lose_table_file(lake, _):
    (path,) = (lake.folder / "lake/users").glob("part*")
    path.unlink()
    return [], f"users/{path.name} is not as it was published"


def keep_off(lake, monkeypatch):
    monkeypatch.setenv("SPARKIFY_ETL_INCREMENTAL", "no")
    return [], "incremental = no"


CAUSES = (
    *(break_rules, change_layout, change_limit, lose_state, cut_state, lose_note),
    *(cut_parsed, lose_table_file, keep_off),
)


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.__name__)
def test_why_all_is_read_is_said_in_one_line(lake, cause, monkeypatch, capsys):
    flags, reason = cause(lake, monkeypatch)
    assert shown(lake, capsys, *flags) == [
        *(
            f"song_data: new: {path}"
            for path in sorted((lake.folder / "song_data").rglob("*.json"))
        ),
        *(f"log_data: new: {path}" for path in sorted(lake.log.rglob("*.json"))),
        f"all tables are built anew: {reason}",
    ]


@pytest.mark.parametrize("cause", [cut_parsed, lose_table_file], ids=lambda cause: cause.__name__)
def test_what_is_damaged_is_mended_by_a_full_run(lake, spark, cause, monkeypatch, capsys):
    before = read_lake(spark, lake.folder / "lake")
    _, reason = cause(lake, monkeypatch)
    capsys.readouterr()
    assert run(lake)["full"] == reason
    assert f"all 3 files are read: {reason}" in capsys.readouterr().err
    assert read_lake(spark, lake.folder / "lake") == before
    assert run(lake)["full"] == ""


def test_without_incremental_no_state_is_left_and_the_next_run_reads_all(lake, monkeypatch, capsys):
    monkeypatch.setenv("SPARKIFY_ETL_INCREMENTAL", "no")
    assert run(lake)["full"] == "incremental = no"
    own = lake.folder / "lake/_etl"
    assert not list(own.glob("inputs/*"))
    assert not list(own.glob("parsed/*/*"))
    monkeypatch.undo()
    assert shown(lake, capsys)[-1].endswith("no state of an earlier run can be read")
