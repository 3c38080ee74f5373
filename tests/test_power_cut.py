"""A power cut at any moment of a run, on a model of a disk, leaves old or new tables whole.

The model is that of a file system with an ordered journal (ext4, XFS). Changes of names reach the
disk in the order in which they were made, up to some point since the last fsync: any such point may
be what a cut leaves. The bytes of a file reach it for sure by an fsync of that file; else the file
has its size and holds zeros. One state more is that of a disk without a journal: a name reaches it
by an fsync of its folder alone.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pytest

from lake import storage
from lake.published import read_last_report
from lake.storage import StorageError
from tests.fault_summary import tried
from tests.faults import Fault, SmallLake, assert_nothing_lost, dead_process, lake_rows

OLD = lake_rows("old", songs={"year=1999": 1, "year=2001": 1}, songplays={"year=2018/month=11": 2})
NEW = lake_rows(
    "new", songs={"year=2001": 1}, time={"year=2018": 1}, songplays={"year=2018/month=12": 3}
)

State = dict[str, tuple[int, bytes]]  # path -> number of the file on the disk, and its bytes


@dataclass
class Disk:
    """What a folder held after each change since the last fsync, and which files were synced."""

    folder: Path
    states: list[State] = field(default_factory=list)
    synced: dict[int, bytes] = field(default_factory=dict)
    before_sync: Callable[[], None] = lambda: None
    # Of a disk without a journal: what each folder holds there, and whether that is a folder.
    names: dict[int, dict[str, tuple[int, bool]]] = field(default_factory=dict)
    held: dict[int, int] = field(default_factory=dict)

    def look(self) -> None:
        """Keep what the folder holds now."""
        state = self.read()
        if not self.states or state != self.states[-1]:
            self.states.append(state)

    def read(self) -> State:
        """Each file with its number and bytes; an empty folder is of no interest here."""
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        return {
            path.relative_to(self.folder).as_posix(): (path.stat().st_ino, path.read_bytes())
            for path in paths
        }

    def fsync(self, descriptor: int) -> None:
        """Stands for os.fsync: the names as they are now are on the disk, and this file's bytes."""
        self.look()
        if len(self.states) > 1:
            self.before_sync()
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_file():
            self.synced[path.stat().st_ino] = path.read_bytes()
        elif path.is_relative_to(self.folder):
            self.keep_names(path)
        self.states = [self.read()]

    def keep_names(self, folder: Path) -> None:
        """Let the names in a folder reach the disk without a journal."""
        entries = list(os.scandir(folder))
        for entry in entries:  # held open, so that no other file gets the number of a deleted one
            if entry.inode() not in self.held:
                self.held[entry.inode()] = os.open(entry.path, os.O_RDONLY)
        self.names[folder.stat().st_ino] = {e.name: (e.inode(), e.is_dir()) for e in entries}

    def without_journal(self, folder: int, at: str = "") -> State:
        """What a disk without a journal holds below a folder."""
        state = {}
        for name, (number, is_folder) in self.names.get(folder, {}).items():
            if is_folder:
                state.update(self.without_journal(number, f"{at}{name}/"))
            else:
                state[f"{at}{name}"] = number, self.synced.get(number, b"?")
        return state

    def after_power_cuts(self, at: Path) -> Iterator[SmallLake]:
        """A lake as each of the states that a cut can leave now."""
        without_journal = self.without_journal(self.folder.stat().st_ino)
        for number, state in enumerate([*self.states, without_journal]):
            folder = at / str(number)
            for name, (inode, content) in state.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                kept = self.synced.get(inode)
                (folder / name).write_bytes(content if kept == content else bytes(len(content)))
            yield SmallLake(folder, runs=5)


@pytest.fixture(autouse=True)
def _a_rebooted_machine(monkeypatch):
    process = dead_process()
    monkeypatch.setattr("lake.lock.os.getpid", lambda: process)


@pytest.fixture
def published(tmp_path):
    """A lake with the old tables, all of it on the disk."""
    lake = SmallLake(tmp_path / "lake")
    lake.publish(OLD)
    disk = Disk(lake.folder)
    disk.synced = dict(disk.read().values())
    for folder in (lake.folder, *(path for path in lake.folder.rglob("*") if path.is_dir())):
        disk.keep_names(folder)
    yield lake, disk
    for descriptor in disk.held.values():
        os.close(descriptor)


def cut_and_check(disk, at, new=NEW, *, after_exit=False):
    """Cut the power in every way that is possible now; the next run finds old or new tables."""
    for lake in disk.after_power_cuts(at):
        found = lake.tables()
        assert b"\0" not in "".join(lake.texts("").values()).encode(), "a table lost its bytes"
        assert_nothing_lost(lake, OLD, new)
        if after_exit:
            assert found == new
            assert read_last_report(lake.storage())["run"].startswith("20260101T000002Z")
        committed = bool(lake.plans()) or found == new
        lake.let_lock_lapse()
        lake.recover()
        assert lake.tables() == (new if committed else OLD)
        assert not lake.state_damage()
        records = [path.read_text() for path in lake.folder.glob("_etl/parsed/*/*/*")]
        assert all(text.startswith("records of") for text in records), "parsed records are zeros"
        lake.publish(new)
        assert lake.tables() == new
        assert not lake.leftovers()
        shutil.rmtree(lake.folder)
        tried("by a power cut, on a model of a disk")


PART = {
    **OLD,
    "songs": {**OLD["songs"], "year=2001": ["other"]},
    "users": {"": ["other"]},
    "songplays": {"year=2018/month=12": ["other"]},
}
TOUCHED = {
    **{"songs": {"year=2001"}, "users": {""}},
    "songplays": {"year=2018/month=11", "year=2018/month=12"},
}
RUNS = {"of all tables": (NEW, None), "of a part": (PART, TOUCHED)}


@pytest.mark.parametrize("can_exchange", [False, True], ids=["renames", "exchanges"])
@pytest.mark.parametrize("run", RUNS)
def test_a_power_cut_at_any_moment_of_a_run_loses_no_row(published, tmp_path, run, can_exchange):
    lake, disk = published
    lake.can_exchange = can_exchange
    new, touched = RUNS[run]
    moments = []

    def cut(what="fsync"):
        if threading.current_thread() is not threading.main_thread():
            return  # a slow run refreshes its lock meanwhile: one cut at a time
        disk.look()
        moments.append(what)
        with mock.patch.object(storage.os, "fsync"):
            cut_and_check(disk, tmp_path / "after-cut", new)

    disk.before_sync = cut
    with mock.patch.object(storage.os, "fsync", disk.fsync):
        lake.publish(new, Fault(before=cut), touched)
        disk.look()
        assert len(moments) >= 12
        assert any(what.startswith("delete") for what in moments)
        with mock.patch.object(storage.os, "fsync"):
            cut_and_check(disk, tmp_path / "after-cut", new, after_exit=True)


def test_a_run_without_syncs_would_be_found_out(published, tmp_path):
    lake, disk = published

    def cut(_):
        disk.look()
        cut_and_check(disk, tmp_path / "after-cut")

    with (
        mock.patch.object(storage.os, "fsync"),
        pytest.raises((AssertionError, StorageError, ValueError)),
    ):
        lake.publish(NEW, Fault(before=cut))
