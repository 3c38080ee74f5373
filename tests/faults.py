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
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest import mock

import etl
from lake import inputs, lock, parsed, paths, published, steps, work
from lake import run as lake_run
from lake.accounting import FileFacts, Outcome
from lake.report import Report
from lake.storage import Disk, Storage, StorageError, Version

if TYPE_CHECKING:
    from lake.sources import Source

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

    def __init__(
        self, storage: Storage, fault: Fault, *, atomic_rename: bool, can_exchange: bool = False
    ) -> None:
        self.storage = storage
        self.fault = fault
        self.atomic_rename = atomic_rename
        self.can_exchange = can_exchange
        self.root = storage.root

    def __getattr__(self, name: str):
        """Whatever only looks: as the real storage does it, unless the process is dead."""
        self.refuse_if_dead()
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

    def exchange(self, one: str, other: str) -> bool:
        """Let two folders change places, if the store can; there is no half of it."""
        if not self.can_exchange:
            return False
        done: list[bool] = []
        what = f"exchange {one} with {other}"
        self._change(lambda: done.append(self.storage.exchange(one, other)), lambda: None, what)
        return done[0]

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
        self.refuse_if_dead()
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

    def refuse_if_dead(self) -> None:
        """Raise Killed if the process is dead."""
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


LEFT = {"reports", "rejects", "published.json", "inputs", "parsed"}
Touched = Mapping[str, set[str]]  # table -> its folders that a run builds anew


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
    can_exchange: bool = False  # two folders their places, in one step
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

    def put_parsed(self, folder: str, text: str) -> None:
        """Write parsed records, as Spark does, to a file of a folder."""
        path = self.folder / folder / "part-0.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def note_contents(self) -> None:
        """Note what is published as a run that had published it would."""
        contents = {
            table: published.build_contents(self.storage().files(table)) for table in TABLES
        }
        published.write_note(self.storage(), published.Note(contents, ""))

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

    def publish(
        self,
        rows: Lake,
        fault: Fault | None = None,
        touched: Touched | None = None,
        **settings: object,
    ) -> None:
        """One run that stages these rows: of all tables, or of the folders that are touched."""
        with self._without_spark(rows, fault or Fault(), touched):
            etl.run_job(mock.Mock(), self._config(settings), Report(self._run()))

    def recover(self, fault: Fault | None = None) -> None:
        """One run with --recover."""
        with self._without_spark({}, fault or Fault()):
            etl.recover(mock.Mock(), self._config({}), Report(self._run()))

    def state_damage(self) -> str:
        """What is wrong with the state of the input that is noted; '' if nothing."""
        note = published.read_note(self.storage())
        if not note or not note.inputs:
            return "no state is noted"
        state = inputs.read_state(self.storage(), note.inputs)
        return parsed.find_damage(self.storage(), state.sources) if state else "it cannot be read"

    @contextlib.contextmanager
    def _without_spark(
        self, rows: Lake, fault: Fault, touched: Touched | None = None
    ) -> Iterator[None]:
        storage = FaultyStorage(
            self.storage(),
            fault,
            atomic_rename=self.atomic_rename,
            can_exchange=self.can_exchange,
        )

        def find_work(run: lake_run.Run, earlier: work.Published, _: object) -> work.Work:
            known = inputs.read_state(storage, earlier.note.inputs) if touched is not None else None
            known = replace(known or inputs.State(), run=run.report.run)
            run.report.this_run = {}
            return work.Work(known, "some of it, or all", {}, {})  # there is always work here

        def read(run: lake_run.Run, source: Source, found: work.Work) -> steps.Parsed:
            storage.refuse_if_dead()
            name, path = source.name, paths.parsed_path(source.name, run.report.run)
            self.put_parsed(path, f"records of {name}, parsed by {run.report.run}")
            before, facts = (
                found.known.source(name),
                FileFacts([Outcome("loaded", None, 1, 0, 0)], {}),
            )
            known = inputs.KnownFile(Version(1, 1), run.report.run, facts)
            folders = {**before.folders, run.report.run: storage.files(path)}
            files = {**before.files, f"input of {run.report.run}": known}
            return steps.Parsed(mock.Mock(), inputs.SourceState(files, folders, {}))

        def stage(run: lake_run.Run, *_: object) -> None:
            some = {
                table: {
                    at: of for at, of in folders.items() if touched is None or at in touched[table]
                }
                for table, folders in rows.items()
                if touched is None or table in touched
            }
            self.put(f"_etl/{run.report.run}", some, run.report.run)

        def check(run: lake_run.Run, *_: object) -> inputs.Figures:
            run.report.tables = {table: {"rows": 1} for table in TABLES}
            return inputs.Figures()

        rebuild = mock.Mock(
            tables=touched or TABLES, partitions=lambda table: touched and touched[table.name]
        )
        staged = {
            "find_work": find_work,
            "read_source": read,
            "find_rebuild": lambda *_: rebuild,
            "stage_tables": stage,
            "check_tables": check,
            **dict.fromkeys(
                ("set_what_results_depend_on", "find_rules", "find_matches", "plan_layout"),
                lambda *_: "",
            ),
            **dict.fromkeys(
                ("loaded", "build_plays", "build_tables", "build_matches"), lambda *_: None
            ),
        }
        with (
            mock.patch.multiple(etl, **staged),
            mock.patch.object(lake_run, "open_storage", return_value=storage),
            mock.patch.multiple(lock, SETTLE_SECONDS=0, SETTLE_SECONDS_ON_S3=0),
        ):
            yield

    def _config(self, settings: Mapping[str, object]) -> SimpleNamespace:
        known = {"output": str(self.folder), "song_data": "", "log_data": "", "keep_reports": 2}
        known = {**known, "lock_minutes": 10, "partitions": {}, "incremental": True}
        return SimpleNamespace(**{**known, **settings})

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
