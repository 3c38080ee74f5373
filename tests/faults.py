"""Faults for publishing: a store that dies or throws at any of its changes, and a small lake on it.

The files of a small lake are text, one row each. What etl.py would stage with Spark is put there by
hand; everything else of a run is etl.py's own code on the project's own storage.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import etl
from lake import lock, paths, published
from lake import run as lake_run
from lake.report import Report
from lake.storage import Disk, Storage, StorageError

Folders = Mapping[str, list[str]]  # folder relative to a table -> the rows in it
Lake = Mapping[str, Folders]  # table -> its folders

TABLES = tuple(table.name for table in etl.TABLES)
KINDS = (
    *("killed before", "killed inside", "killed after"),
    *("error before", "error inside", "error after"),  # after: only the answer is lost
)


class Killed(BaseException):
    """Stands for SIGKILL: nothing that the run would still do with files happens."""


@dataclass
class Fault:
    """What happens at the nth change of files; by default nothing, and the changes are counted.

    `before` is told of every change before it happens.
    """

    at: int = -1
    kind: str = "killed before"
    changes: int = 0
    dead: bool = False
    hit: list[str] = field(default_factory=list)
    before: Callable[[str], None] = lambda _: None


class FaultyStorage:
    """A storage with a fault; on a disk it can also rename a folder as S3 does, file by file."""

    def __init__(self, storage: Storage, fault: Fault, *, atomic_rename: bool) -> None:
        self.storage = storage
        self.fault = fault
        self.atomic_rename = atomic_rename
        self.root = storage.root

    def __getattr__(self, name: str):
        """Whatever only looks: as the real storage does it, unless the process is dead."""
        self._check_alive()
        return getattr(self.storage, name)

    def write(self, relative: str, content: str) -> None:
        """Write, or only a half of it; a store that copies does not show a file before its end."""

        def half() -> None:
            if self.atomic_rename:
                self.storage.write(relative, content[: len(content) // 2])

        self._change(lambda: self.storage.write(relative, content), half, f"write {relative}")

    def rename(self, source: str, target: str) -> None:
        """Rename, or only begin to."""

        def half() -> None:
            if not self.atomic_rename:
                copy_half(self.local(source), self.local(target))

        what = f"rename {source} to {target}"
        self._change(lambda: self.storage.rename(source, target), half, what)

    def delete(self, relative: str) -> None:
        """Delete, or only every other file."""

        def half() -> None:
            files = sorted(path for path in self.local(relative).rglob("*") if path.is_file())
            for file in files[::2]:
                file.unlink()

        self._change(lambda: self.storage.delete(relative), half, f"delete {relative}")

    def local(self, relative: str) -> Path:
        """A path on the disk."""
        return Path(self.storage.path(relative).removeprefix("file:"))

    def _change(self, change: Callable[[], None], half: Callable[[], None], what: str) -> None:
        self._check_alive()
        self.fault.before(what)
        self.fault.changes += 1
        if self.fault.changes != self.fault.at:
            change()
            return
        self.fault.hit.append(what)
        ending, moment = self.fault.kind.split()
        {"before": lambda: None, "inside": half, "after": change}[moment]()
        if ending == "killed":
            self.fault.dead = True
            raise Killed
        raise StorageError(f"cannot {what}: java.io.IOException: injected")

    def _check_alive(self) -> None:
        if self.fault.dead:
            raise Killed


def copy_half(source: Path, target: Path) -> None:
    """A folder's rename as S3 does it, broken off: one file is moved, and one is in both places."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for file in files[:2]:
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    if len(files) > 1:
        files[0].unlink()


# ---- A small lake --------------------------------------------------------------------------------


LEFT = {"reports", "rejects", "published.json"}


def fingerprints(rows: Lake) -> dict[str, dict[str, str]]:
    """What tells the rows of each folder from others."""
    return {
        table: {folder: str(sorted(rows)) for folder, rows in folders.items()}
        for table, folders in rows.items()
    }


def lake_rows(version: str, **folders: Mapping[str, int]) -> dict[str, dict[str, list[str]]]:
    """All five tables; a folder has so many rows, and a table that is not named has one row."""
    return {
        table: {
            folder: [f"{version} {folder} {number}" for number in range(rows)]
            for folder, rows in folders.get(table, {"": 1}).items()
        }
        for table in TABLES
    }


@dataclass
class SmallLake:
    """A lake of text files on the disk, with an atomic rename or with one that copies."""

    folder: Path
    atomic_rename: bool = True
    runs: int = 0

    def storage(self) -> Storage:
        """The project's own storage of this lake."""
        return Disk(f"file:{self.folder}")

    def put(self, below: str, lake: Lake, run: str) -> None:
        """Write tables as Spark does: file names carry the run; here each row is a file."""
        for table, folders in lake.items():
            for folder, rows in folders.items():
                path = self.folder / below / table / folder
                path.mkdir(parents=True, exist_ok=True)
                for number, row in enumerate(rows):
                    (path / f"part-{number:05}-{run}.parquet").write_text(row)

    def note_contents(self, rows: Lake) -> None:
        """Note what is published as a run that had published it would."""
        files = {table: self.storage().files(table) for table in TABLES}
        rows = fingerprints(rows) if not self.atomic_rename else {key: {} for key in TABLES}
        contents = {table: published.build_contents(files[table], rows[table]) for table in TABLES}
        published.write_contents(self.storage(), contents)

    def texts(self, below: str) -> dict[str, str]:
        """All that a reader finds below a folder: path -> text; names with _ or . are hidden."""
        start = self.folder / below
        found = {path.relative_to(start): path for path in start.rglob("*") if path.is_file()}
        return {
            path.as_posix(): file.read_text()
            for path, file in found.items()
            if not any(part.startswith(("_", ".")) for part in path.parts)
        }

    def tables(self, below: str = "") -> dict[str, dict[str, list[str]]]:
        """The rows by table and folder."""
        found: dict[str, dict[str, list[str]]] = {table: {} for table in TABLES}
        for path, text in sorted(self.texts(below).items()):
            table, _, file = path.partition("/")
            if table in found:
                found[table].setdefault(file.rpartition("/")[0], []).append(text)
        return {
            table: {folder: sorted(rows) for folder, rows in folders.items()}
            for table, folders in found.items()
        }

    def plans(self) -> list[dict]:
        """The plans that stand."""
        paths = sorted(self.folder.glob("_etl/*/plan.json"))
        return [json.loads(path.read_text()) for path in paths]

    def leftovers(self) -> set[str]:
        """What is in _etl beside what a run leaves there."""
        return {path.name for path in self.folder.glob("_etl/[!.]*")} - LEFT

    def lock_is_torn(self) -> bool:
        """Whether LOCK is there and names no one: its writer died in the middle of it."""
        return lock.lock_age(self.storage(), "asks") is not None and (
            lock.read_holder(self.storage()) is None
        )

    def let_lock_lapse(self) -> None:
        """Let LOCK, if there is one, be as old as if nobody had refreshed it for an hour."""
        if (self.folder / paths.LOCK).exists():
            os.utime(self.folder / paths.LOCK, (time.time() - 3600,) * 2)

    def publish(self, rows: Lake, fault: Fault | None = None, **settings: object) -> None:
        """One whole run that stages these rows."""
        with self._without_spark(rows, fault or Fault()):
            etl.run_job(mock.Mock(), self._config(settings), Report(self._run()))

    def recover(self, fault: Fault | None = None) -> None:
        """One run with --recover."""
        with self._without_spark({}, fault or Fault()):
            etl.recover(mock.Mock(), self._config({}), Report(self._run()))

    @contextlib.contextmanager
    def _without_spark(self, rows: Lake, fault: Fault) -> Iterator[None]:
        storage = FaultyStorage(self.storage(), fault, atomic_rename=self.atomic_rename)

        def stage(run: lake_run.Run, _: object) -> None:
            self.put(f"_etl/{run.report.run}", rows, run.report.run)

        staged = {
            "set_what_results_depend_on": lambda *_: None,
            **dict.fromkeys(
                ("look_at_sources", "read_source", "loaded", "plan_layout"), lambda *_: None
            ),
            **dict.fromkeys(("build_plays", "build_tables"), lambda *_: None),
            "stage_tables": stage,
            "check_tables": lambda *_: {} if self.atomic_rename else fingerprints(rows),
        }
        with (
            mock.patch.multiple(etl, **staged),
            mock.patch.object(lake_run, "open_storage", return_value=storage),
            mock.patch.multiple(lock, SETTLE_SECONDS=0, SETTLE_SECONDS_ON_S3=0),
        ):
            yield

    def _config(self, settings: Mapping[str, object]) -> SimpleNamespace:
        known = {"output": str(self.folder), "song_data": "", "log_data": "", "keep_reports": 2}
        return SimpleNamespace(**{**known, "lock_minutes": 10, "partitions": {}, **settings})

    def _run(self) -> str:
        self.runs += 1
        return f"20260101T{self.runs:06}Z-000000"


def dead_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


# ---- What must hold after any fault --------------------------------------------------------------


def assert_nothing_lost(lake: SmallLake, old: Lake, new: Lake, *, inside: bool = False) -> None:
    """Every unit is all old, all new, or missing while a plan names it and all of it is staged.

    A unit is a table where a rename is atomic, else a partition. Only there, and only inside of a
    change, can a reader meet a part of its rows; never old and new ones, and never none for good.
    """
    found, plans = lake.tables(), lake.plans()
    if not plans:
        assert found in (old, new)
        return
    (plan,) = plans
    staged = lake.tables(f"_etl/{plan['run']}")
    for table in set(TABLES) - {planned["name"] for planned in plan["tables"]}:
        assert found[table] == old[table] == new[table]
    for planned in plan["tables"]:
        table = planned["name"]
        units = [""] if "" in planned["put"] else sorted({*old[table], *new[table]})
        for unit in units:
            named = unit in planned["put"] or unit in planned["remove"]
            states = [unit_rows(lake[table], unit, planned) for lake in (found, old, new, staged)]
            assert_unit_is_whole(*states, named=named, parts=inside and not lake.atomic_rename)


def unit_rows(folders: Folders, unit: str, planned: dict) -> set[str]:
    """The rows of one partition, or of the whole table where the plan swaps it as a whole."""
    whole = "" in planned["put"]
    return {f"{name}: {row}" for name in folders for row in folders[name] if whole or name == unit}


def assert_unit_is_whole(
    found: set[str], old: set[str], new: set[str], staged: set[str], *, named: bool, parts: bool
) -> None:
    """The rule above for one unit; nothing of the new rows may be in neither place."""
    assert new <= found | staged, f"lost {new - found - staged}"
    if found in (old, new):
        return
    assert named, f"{found} is neither old nor new, and no plan names it"
    assert not found or (parts and (found < old or found < new)), f"a reader meets {found}"
    assert found or staged == new, f"missing, and staged is only {staged}"
