"""A run touches only what this job wrote: sources, foreign files, links and mounts stay."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from unittest import mock

import pytest

import etl
from lake import ownership, paths, storage
from lake.locations import find_overlap
from lake.published import ForeignFilesError
from lake.storage import HadoopStorage, StorageError
from tests.factories import event, song, write_input
from tests.faults import Fault, Killed, SmallLake, dead_process, lake_rows

OLD = lake_rows("old", songs={"year=1999": 1, "year=2001": 1}, songplays={"year=2018/month=11": 2})
NEW = lake_rows(
    "new", songs={"year=2001": 1}, time={"year=2018": 1}, songplays={"year=2018/month=12": 3}
)
FOLDERS = ("songs", "artists", "_etl")


@pytest.fixture(autouse=True)
def _runs_of_an_ended_process(monkeypatch):
    monkeypatch.setattr("lake.lock.os.getpid", dead_process)


# ---- Sources and output --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("/lake/songs", "/lake"),
        ("/lake/songs/", "/lake/"),
        ("/lake", "/lake"),
        ("/", "/lake"),
        ("/lake/songs/raw/2018", "/lake"),
        ("/lake/_etl/reports", "/lake"),
        ("/in/../lake/songs", "/lake"),
        ("file:/lake/songs", "/lake"),
        ("file:///lake/songs", "/x/../lake"),
        ("/lake/s*", "/lake"),
        ("/la?e/*/*.json", "/lake"),
        ("/{lake,other}/songs", "/lake"),
        ("s3://b/lake/songs", "s3a://b/lake"),
        ("s3a://b", "s3://b/lake"),
        ("s3n://b/lake//songs", "s3://b/lake/"),
        ("hdfs://n/lake/songs", "hdfs://n/lake"),
    ],
)
def test_a_source_in_or_around_the_tables_overlaps(source, output):
    found = find_overlap({"song_data": "/elsewhere", "log_data": source}, output, FOLDERS)
    assert found
    assert found[0] == "log_data"


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("/lake/raw", "/lake"),
        ("/lake/songs2", "/lake"),
        ("/songs", "/lake"),
        ("s3://b/lake/songs", "s3://c/lake"),
        ("s3://b/lake/songs", "/lake"),
        ("hdfs://n/lake/songs", "hdfs://m/lake"),
        ("/in/*/songs", "/lake"),
    ],
)
def test_a_source_beside_the_tables_does_not(source, output):
    assert find_overlap({"song_data": source}, output, FOLDERS) is None


def test_links_are_followed_before_paths_are_compared(tmp_path):
    (tmp_path / "lake" / "songs").mkdir(parents=True)
    (tmp_path / "in").symlink_to(tmp_path / "lake" / "songs")
    sources = {"song_data": str(tmp_path / "in")}
    assert find_overlap(sources, str(tmp_path / "lake"), FOLDERS) == ("song_data", "songs")


def test_input_in_the_place_of_a_table_is_a_usage_error_and_stays(tmp_path, capsys):
    write_input(tmp_path, [song()], [event()])
    lake = tmp_path / "ov"
    (tmp_path / "song_data").rename(tmp_path / "in")
    lake.mkdir()
    (tmp_path / "in").rename(lake / "songs")
    (tmp_path / "log_data").rename(lake / "logs")
    before = sorted(lake.rglob("*"))
    flags = [f"--song-data={lake}/songs", f"--log-data={lake}/logs", f"--output={lake}"]
    assert etl.main(flags) == 2
    assert (
        f"song_data = {lake}/songs overlaps with {lake}/songs, which the job replaces"
        in capsys.readouterr().err.splitlines()[-1]
    )
    assert sorted(lake.rglob("*")) == before


# ---- Foreign files -------------------------------------------------------------------------------


@pytest.fixture(params=[True, False], ids=["with an atomic rename", "with a rename that copies"])
def lake(request, tmp_path):
    """A small lake, empty yet."""
    return SmallLake(tmp_path / "lake", request.param)


def write(lake, *files):
    for file in files:
        (lake.folder / file).parent.mkdir(parents=True, exist_ok=True)
        (lake.folder / file).write_text("mine")


def all_files(lake, start="*"):
    return {
        path.relative_to(lake.folder).as_posix()
        for path in lake.folder.rglob(start)
        if path.is_file()
    }


def test_a_first_publish_into_folders_with_files_is_refused_before_it_reads(lake):
    write(lake, "songs/mp3/a.mp3", "users/private.txt")
    with (
        mock.patch.object(lake, "put", side_effect=AssertionError("it has read and staged")),
        pytest.raises(ForeignFilesError) as refusal,
    ):
        lake.publish(NEW)
    assert str(refusal.value) == (
        f"{lake.folder}/songs holds files that this job did not write, mp3/a.mp3 and 0 more: "
        "choose another output or move them"
    )
    assert {"songs/mp3/a.mp3", "users/private.txt"} <= all_files(lake)
    assert not lake.leftovers()


@pytest.mark.parametrize("file", ["songs/year=1900/mine.parquet", "artists/README.txt"])
def test_rows_that_no_run_wrote_stop_a_run_over_a_published_lake(lake, file):
    lake.publish(OLD)
    write(lake, file)
    table, name = file.split("/", 1)
    with pytest.raises(ForeignFilesError, match=rf"/{table} holds files .*, {name} and 0 more"):
        lake.publish(NEW)
    (lake.folder / file).unlink()
    assert lake.tables() == OLD
    lake.publish(NEW)
    assert lake.tables() == NEW


def test_rows_that_arrive_during_a_run_stop_it_before_the_commit(lake):
    def arrive(what):
        if re.match("write _etl/.*/probe", what):
            write(lake, "users/late.parquet")

    lake.publish(OLD)
    fault = Fault(before=arrive)
    if not lake.atomic_rename:
        lake.storage().write("users/late.parquet", "mine")
    with pytest.raises(ForeignFilesError, match=r"users holds .*, late.parquet and 0 more"):
        lake.publish(NEW, fault)
    assert not lake.plans()
    assert "users/late.parquet" in all_files(lake)


HIDDEN = (
    "songs/.hidden/x",
    "songs/year=2001/.note",
    "songs/year=1999/_mine/x",
    "artists/_SUCCESS",
    "songplays/.h/deep/er",
    "_etl/myfolder/q",
    "_etl/notes.txt",
    "_etl/rejects/mine/r",
    "other/file.txt",
)


def test_hidden_and_other_files_stay_through_a_publish(lake):
    lake.publish(OLD)
    write(lake, *HIDDEN)
    lake.publish(NEW)
    lake.publish(OLD)
    assert lake.tables() == OLD
    assert set(HIDDEN) <= all_files(lake)


def test_hidden_files_stay_whatever_step_of_a_publish_is_the_last(lake, tmp_path):
    for at in range(1, 1000):
        victim = SmallLake(tmp_path / f"lake{at}", lake.atomic_rename)
        victim.publish(OLD)
        write(victim, *HIDDEN)
        fault = Fault(at, ("killed before", "killed inside", "killed after")[at % 3])
        try:
            victim.publish(NEW, fault)
        except Killed:
            victim.let_lock_lapse()
            victim.recover()
            victim.publish(NEW)
        assert victim.tables() == NEW
        assert set(HIDDEN) <= all_files(victim)
        if not fault.hit:
            break
    assert at > 20


def test_what_is_published_is_noted_file_by_file_with_its_bytes(lake):
    lake.publish(OLD)
    note = json.loads(lake.storage().read(paths.PUBLISHED))
    assert note["version"] == 3
    noted = {
        f"{table}/{file}": size
        for table, partitions in note["tables"].items()
        for content in partitions.values()
        for file, size in content["files"].items()
    }
    assert noted == {
        file: (lake.folder / file).stat().st_size
        for file in all_files(lake)
        if not file.startswith("_etl")
    }


@pytest.mark.parametrize("note", [None, "", "[]", '{"songs": {}}', '{"version": 2, "tables": 1}'])
def test_a_lake_of_an_older_version_is_taken_as_this_jobs_own(lake, note, capsys):
    lake.publish(OLD)
    (lake.folder / paths.PUBLISHED).unlink()
    if note is not None:
        lake.storage().write(paths.PUBLISHED, note)
    lake.publish(NEW)
    assert "files that look like this job's are taken as its own" in capsys.readouterr().err
    assert lake.tables() == NEW
    (lake.folder / paths.PUBLISHED).unlink()
    write(lake, "songs/mine.parquet", "songs/raw/part-0.parquet")
    with pytest.raises(ForeignFilesError, match=r"songs holds .*, mine.parquet and 1 more"):
        lake.publish(OLD)


# ---- Links and mounts ----------------------------------------------------------------------------


def replace_by_link(folder, elsewhere):
    """Move a folder away and leave a link to it."""
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


def test_a_table_that_is_a_link_is_refused_and_stays(lake, tmp_path):
    lake.publish(OLD)
    replace_by_link(lake.folder / "songs", tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=rf"/songs is a link to {tmp_path}/elsewhere: this job"):
        lake.publish(NEW)
    assert (lake.folder / "songs").is_symlink()
    assert len(list((tmp_path / "elsewhere").rglob("*.parquet"))) == 2
    assert not lake.leftovers()


def test_a_link_that_leads_nowhere_in_the_place_of_a_table_is_refused(lake):
    lake.folder.mkdir()
    (lake.folder / "users").symlink_to("nowhere")
    with pytest.raises(StorageError, match="/users is a link to nowhere: this job"):
        lake.publish(NEW)
    assert not lake.leftovers()


def test_a_file_in_the_place_of_a_table_is_refused(lake):
    write(lake, "users")
    with pytest.raises(StorageError, match="/users is a file: this job"):
        lake.publish(NEW)


def test_a_mount_point_is_refused(lake, monkeypatch):
    lake.publish(OLD)
    mounted = str(lake.folder / "time")
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == mounted)
    with pytest.raises(StorageError, match="/time is a mount point: this job"):
        lake.publish(NEW)
    assert lake.tables() == OLD


@pytest.mark.parametrize("system", ["Linux", "another"])
def test_a_mount_point_deep_in_a_table_is_refused_before_the_run_reads(
    lake, monkeypatch, tmp_path, system
):
    lake.publish(OLD)
    mounted = lake.folder / "songplays/year=2018/month=11"
    (lake.folder / "_etl" / "parsed").mkdir(exist_ok=True)
    points = ["/", "/proc", str(lake.folder), f"{lake.folder}/_etl/parsed", str(mounted)]
    lines = [f"22 1 8:0 / {point} rw - ext4 /dev/sda rw\n" for point in points[:4]]
    monkeypatch.setattr(storage, "MOUNTS", tmp_path / "mounts")
    if system == "Linux":
        storage.MOUNTS.write_text("".join(lines))
    lake.publish(OLD)
    if system == "Linux":
        mounted = mounted.with_name("month=12 of b")
        point = str(mounted).replace(" ", "\\040")
        storage.MOUNTS.write_text("".join([*lines, f"23 22 8:0 /x {point} rw - ext4 /x rw\n"]))
    else:
        monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(mounted))
    says = rf"/songplays holds a mount point, year=2018/{mounted.name}: this job replaces"
    with (
        mock.patch.object(lake, "put", side_effect=AssertionError("it has read and staged")),
        pytest.raises(StorageError, match=says),
    ):
        lake.publish(NEW)
    assert lake.tables() == OLD


def test_a_partition_that_is_a_link_is_refused_and_stays(lake, tmp_path):
    lake.publish(OLD)
    replace_by_link(lake.folder / "songs/year=2001", tmp_path / "elsewhere")
    with pytest.raises(ForeignFilesError, match=r"/songs holds .*, year=2001 and 0 more"):
        lake.publish(NEW)
    assert (lake.folder / "songs/year=2001").is_symlink()
    assert len(list((tmp_path / "elsewhere").glob("*.parquet"))) == 1
    assert not lake.plans()


def test_tables_on_another_file_system_than_the_staging_area_are_refused(tmp_path):
    shared_memory = Path("/dev/shm")
    if shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.fail("this test needs /dev/shm to be a file system of its own")
    lake = SmallLake(tmp_path / "lake")
    lake.publish(OLD)
    own = shared_memory / f"etl-{os.getpid()}-{tmp_path.name}"
    (lake.folder / "_etl").rename(tmp_path / "aside")
    own.mkdir()
    try:
        (lake.folder / "_etl").symlink_to(own)
        for path in (tmp_path / "aside").iterdir():
            os.system(f"cp -r {path} {own}/")
        with pytest.raises(StorageError, match=r"/songs is on another file system than \S+/_etl"):
            lake.publish(NEW)
        assert lake.tables() == OLD
        assert not lake.plans()
    finally:
        os.system(f"rm -r {own}")


def test_where_a_staged_file_cannot_be_moved_to_the_tables_nothing_is_committed(lake):
    if not lake.atomic_rename:
        return
    lake.publish(OLD)
    fault = Fault(kind="error before")

    def fail(what):
        if re.match(r"rename _etl/.*/probe", what):
            fault.at = fault.changes + 1

    fault.before = fail
    with pytest.raises(StorageError, match=r"cannot rename .*probe"):
        lake.publish(NEW, fault)
    assert lake.tables() == OLD
    assert not lake.leftovers()


def test_hadoops_file_systems_say_so_where_a_file_is_in_the_place_of_a_table(spark, tmp_path):
    (tmp_path / "songs").write_text("mine")
    with pytest.raises(StorageError, match=f"^{tmp_path}/songs is a file: this job"):
        ownership.refuse_obstacles(HadoopStorage(spark, str(tmp_path)), ["songs", "artists"])
