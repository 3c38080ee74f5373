"""How finished tables replace published ones without ever losing a row.

A run stages its tables under <output>/_etl/<run>/, writes one small plan.json there (the commit),
and then swaps the staged tables in. What was interrupted before the commit changed nothing; what
was interrupted after it is repeated from the plan until it is done. What a store has to be able
to do for that stands in storage.py: local disk, HDFS and S3 are served by the same code.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lake.storage import MissingError, Storage, StorageError

ETL = "_etl"  # hidden from every reader: engines pass over names that begin with an underscore
LOCK = f"{ETL}/LOCK"
REPORTS = f"{ETL}/reports"
REJECTS = f"{ETL}/rejects"
PUBLISHED = f"{ETL}/published.json"
KEPT = ("reports", "rejects")  # the folders in _etl that are no run's staging area


class LockedError(Exception):
    """Another run is at work on this output, or has taken this run's lock over."""


# ---- The lock: one run at a time ----------------------------------------------------------------

# Hadoop has no create-if-absent that holds on every store: of two runs that write LOCK at once the
# last one stays, and both look again after a time that is long beside one of the store's answers.
SETTLE_SECONDS = {True: 0.3, False: 2.0}  # where a rename is atomic; on S3


@dataclass(frozen=True)
class Holder:
    """Who holds the lock, as LOCK says."""

    run: str
    host: str
    process: int
    processes: str  # which processes the number is one of: containers number their own
    since: str


class Lock:
    """The right to publish, held while LOCK names this run and was refreshed a short while ago."""

    def __init__(self, storage: Storage, run: str, lease_seconds: float) -> None:
        now = datetime.now(timezone.utc)
        self.storage = storage
        self.holder = Holder(
            run, socket.gethostname(), os.getpid(), _processes(), f"{now:%Y-%m-%d %H:%M:%S} UTC"
        )
        self.lease_seconds = lease_seconds
        self._refreshed = 0.0
        self._refreshing = threading.Lock()
        self._stop = threading.Event()
        self._heartbeat = threading.Thread(target=self._keep_refreshing, daemon=True)

    def acquire(self) -> str | None:
        """Take the lock, or raise LockedError; tells of the dead run that it was taken over from.

        What is written here stands until release(), which is right to call whatever becomes of it.
        """
        taken_over = None
        age = lock_age(self.storage, self.holder.run)
        if age is not None:
            with contextlib.suppress(StorageError):
                taken_over = read_holder(self.storage)
            self._refuse_if_alive(taken_over, age)
        self._write()
        time.sleep(SETTLE_SECONDS[self.storage.atomic_rename])
        self.assert_held(ask=True)
        self._heartbeat.start()
        if age is None:
            return None
        dead = f"run {taken_over.run}" if taken_over else "a run that LOCK does not name"
        return f"took over the lock of {dead}, last heard of {age:.0f} s ago"

    def assert_held(self, *, ask: bool = False) -> None:
        """Raise LockedError unless the lock is ours for sure; `ask` reads it, the rest is a clock.

        A run that was paused finds its lease over by the clock and must stop before it touches a
        file: another one may have taken the lock, and published.
        """
        # The clock of the day, not a monotonic one: that stands still while a laptop sleeps.
        if not ask and abs(time.time() - self._refreshed) < self.lease_seconds / 2:
            return
        with self._refreshing:  # else this reads what the heartbeat is just writing
            holder = read_holder(self.storage)
            if holder != self.holder:
                other = f"run {holder.run} on {holder.host} holds" if holder else "nobody holds"
                raise LockedError(
                    f"the lock on {self.storage.root} was taken from this run: {other} it now. "
                    "This run stops; see what became of the other before you start a new one"
                )
            self._write()

    def assert_not_taken(self) -> None:
        """Raise LockedError if LOCK is gone or another run's; one that is torn tells nothing."""
        if read_holder(self.storage) or not self.storage.exists(LOCK):
            self.assert_held(ask=True)

    def release(self) -> None:
        """Stop refreshing, and delete LOCK if it is still ours; if that fails, it lapses."""
        self._stop.set()
        if self._heartbeat.is_alive():
            self._heartbeat.join()
        with contextlib.suppress(StorageError):
            if read_holder(self.storage) == self.holder:
                self.storage.delete(LOCK)

    def _refuse_if_alive(self, holder: Holder | None, age: float) -> None:
        if age > self.lease_seconds or (holder and self._died_here(holder)):
            return
        who = (
            f"run {holder.run} (process {holder.process} on {holder.host}, since {holder.since})"
            if holder
            else "a run that does not give its name"
        )
        raise LockedError(
            f"{who} is at work on {self.storage.root}, last heard of {max(age, 0):.0f} s ago. Wait "
            f"for it; if it is dead, its lock lapses {self.lease_seconds / 60:g} minutes after "
            f"that, or delete {self.storage.path(LOCK)}"
        )

    def _died_here(self, holder: Holder) -> bool:
        """Whether the holder was a process of this host, on its own disk, and is gone."""
        here = (holder.host, holder.processes) == (self.holder.host, self.holder.processes)
        if not here or not self.storage.root.startswith("file:"):
            return False
        try:
            os.kill(holder.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def _write(self) -> None:
        # The lease counts from before the write: others count from when the store has done it.
        now = time.time()
        self.storage.write(LOCK, json.dumps(asdict(self.holder)))
        self._refreshed = now

    def _keep_refreshing(self) -> None:
        while not self._stop.wait(self.lease_seconds / 10):
            # A failed refresh is not the end: the next may succeed, and the lease tells in time.
            with contextlib.suppress(StorageError, LockedError):
                self.assert_held(ask=True)


def read_holder(storage: Storage) -> Holder | None:
    """Who LOCK names; None where there is no lock, or where it is being written just now."""
    try:
        return Holder(**json.loads(storage.read(LOCK)))
    except (MissingError, ValueError, TypeError):
        return None


def lock_age(storage: Storage, run: str) -> float | None:
    """Seconds since LOCK was refreshed; None where there is no lock.

    Both moments are the store's: this machine's clock may be minutes off.
    """
    refreshed = storage.written(LOCK)
    if refreshed is None:
        return None
    storage.write(f"{ETL}/{run}/clock", "")
    now = storage.written(f"{ETL}/{run}/clock")
    storage.delete(f"{ETL}/{run}")
    return (now or time.time()) - refreshed


def _processes() -> str:
    """The set of processes that this one's number belongs to; '' where a host has only one."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


# ---- Plan, commit, swap -------------------------------------------------------------------------

Fingerprints = Mapping[str, Mapping[str, str]]  # table -> partition -> what tells its rows
Content = Mapping[str, Any]  # of a partition: its fingerprint as rows, its files with their bytes
Contents = Mapping[str, Mapping[str, Content]]  # table -> partition -> content


@dataclass(frozen=True)
class TablePlan:
    """What one table's swap does: the files of each unit to put in place, the units to remove.

    A unit is a partition such as year=2018/month=11, or '' for the whole table.
    """

    name: str
    put: Mapping[str, Sequence[str]]
    remove: Sequence[str]

    @property
    def files(self) -> set[str]:
        """All files of the new table, relative to its folder."""
        return {f"{unit}/{file}".lstrip("/") for unit, files in self.put.items() for file in files}


@dataclass(frozen=True)
class Plan:
    """One run's commit record: once it is written, the staged tables are the tables."""

    run: str
    tables: Sequence[TablePlan]


def build_table_plan(
    name: str,
    staged: Collection[str],
    published: Collection[str],
    *,
    unchanged: Collection[str],
    atomic_rename: bool,
) -> TablePlan:
    """The swap of one table, as a whole where that is one step, else partition by partition.

    A changed layout is swapped as a whole everywhere: no reader ever finds both in one table.
    """
    new, old = _by_partition(staged), _by_partition(published)
    if atomic_rename or _layout(new) != _layout(old):
        return TablePlan(name, {"": sorted(staged)}, ())
    put = {partition: files for partition, files in new.items() if partition not in unchanged}
    return TablePlan(name, put, sorted(set(old) - set(new)))


def build_plan(
    storage: Storage, run: str, tables: Sequence[str], fingerprints: Fingerprints
) -> tuple[Plan, Contents]:
    """The plan that puts a run's staged tables in the place of the published ones.

    With it comes what the published partitions hold once it is carried out. It leaves alone those
    that hold the staged rows already, as far as there are fingerprints to tell them by.
    """
    staged = {table: storage.files(staged_path(run, table)) for table in tables}
    for table, files in staged.items():
        if not files:
            raise StorageError(
                f"nothing is staged in {storage.path(staged_path(run, table))}: another process "
                "has removed it, and an empty table is not published"
            )
    known = read_contents(storage) if fingerprints else {}
    planned, contents = [], {}
    for table, new in staged.items():
        old, rows = storage.files(table), fingerprints.get(table, {})
        unchanged = find_unchanged(new, old, rows, known.get(table, {}))
        contents[table] = {**describe(new, rows), **unchanged}
        planned.append(
            build_table_plan(
                table, new, old, unchanged=unchanged, atomic_rename=storage.atomic_rename
            )
        )
    return Plan(run, [table for table in planned if table.put]), contents


def commit(storage: Storage, lock: Lock, plan: Plan) -> None:
    """Write the plan in one atomic step; from here on the new tables are the ones that count."""
    draft, final = f"{ETL}/{plan.run}/plan.draft", plan_path(plan.run)
    storage.write(draft, json.dumps(asdict(plan)))
    # After the draft: whoever takes the lock over from now on removes it, and the rename fails.
    lock.assert_held(ask=True)
    try:
        storage.rename(draft, final)
    except StorageError:
        if not storage.exists(final):  # an answer can be lost after the rename took effect
            raise


def swap(storage: Storage, lock: Lock, plan: Plan) -> None:
    """Put every unit of the plan in place; can be repeated from any point where it broke off."""
    try:
        for table in plan.tables:
            lock.assert_held(ask=True)
            swap_table(storage, lock, plan.run, table)
    except StorageError as error:
        raise StorageError(
            f"{error}; run {plan.run} is committed: once that is mended, the next run puts the "
            "rest in place, and so does --recover"
        ) from None


def swap_table(storage: Storage, lock: Lock, run: str, table: TablePlan) -> None:
    """Put one table's units in place and remove those that the new table does not have."""
    published = _by_unit(storage.files(table.name), table)
    staged = _by_unit(storage.files(staged_path(run, table.name)), table)
    for unit, planned in table.put.items():
        target = f"{table.name}/{unit}".rstrip("/")
        steps = build_steps(set(planned), published.get(unit, set()), staged.get(unit, set()))
        if steps is None:
            raise StorageError(
                f"cannot put {storage.path(target)} in place: files that "
                f"{storage.path(plan_path(run))} names are gone; restore them, or delete that "
                "plan and run again"
            )
        for step in steps:
            lock.assert_held()
            _do(storage, step, run, target)
    for unit in table.remove:
        lock.assert_held()
        retire(storage, run, f"{table.name}/{unit}")


@dataclass(frozen=True)
class Step:
    """One mutating step of a unit's swap: retire the old unit, move one file or the whole unit."""

    verb: str  # retire, move or delete
    file: str = ""


def build_steps(planned: set[str], published: set[str], staged: set[str]) -> list[Step] | None:
    """What is left to do for one unit, from what is where; None if a planned file is nowhere."""
    if not planned <= published | staged:
        return None
    if not planned & published:
        # Whatever is at its place goes, even a folder without data: a rename would move into it.
        return [Step("retire"), Step("move")]
    # Where a rename copies file by file it can stop half-way: the rest follows file by file.
    stale = [Step("delete", file) for file in sorted(published - planned)]
    return stale + [Step("move", file) for file in sorted(planned - published)]


def _do(storage: Storage, step: Step, run: str, target: str) -> None:
    path = f"{target}/{step.file}".rstrip("/")
    if step.verb == "retire":
        retire(storage, run, target)
    elif step.verb == "delete":
        storage.delete(path)
    else:
        storage.rename(staged_path(run, path), path)


def retire(storage: Storage, run: str, path: str) -> None:
    """Take an old unit away, if there is one: aside where that is one step, else by deleting it."""
    if not storage.atomic_rename:
        storage.delete(path)
    elif storage.exists(path):
        aside = secrets.token_hex(3)  # a swap that is repeated may find something here again
        storage.rename(path, f"{ETL}/{run}/retired/{aside}/{path}")


# ---- What is published already, and can stay ----------------------------------------------------


def find_unchanged(
    staged: Mapping[str, int],
    published: Mapping[str, int],
    fingerprints: Mapping[str, str],
    known: Mapping[str, Content],
) -> dict[str, Content]:
    """The published partitions that hold the staged rows, in as many and as large files.

    What is known of a partition counts only while its files are still those that it is known of.
    """
    new, old = describe(staged, fingerprints), describe(published, fingerprints)
    unchanged = {
        partition: content
        for partition, content in old.items()
        if content == known.get(partition) and _sizes(content) == _sizes(new.get(partition, {}))
    }
    # By the files that it puts in place recovery tells a plan to finish from one that is outdated:
    # a plan that removes a partition has to put one.
    if unchanged.keys() == new.keys() and not _by_partition(published).keys() <= new.keys():
        return dict(list(unchanged.items())[1:])
    return unchanged


def tell_unchanged(plan: Plan, contents: Contents) -> str:
    """How many partitions a plan leaves alone, of how many."""
    put = [len(contents[table.name] if "" in table.put else table.put) for table in plan.tables]
    total = sum(map(len, contents.values()))
    return f"{total - sum(put):,} of {total:,} partitions were up to date"


def describe(files: Mapping[str, int], fingerprints: Mapping[str, str]) -> dict[str, Content]:
    """What each partition holds: the fingerprint of its rows, and its files with their bytes."""
    contents: dict[str, Content] = {
        partition: {"rows": rows, "files": {}} for partition, rows in fingerprints.items()
    }
    for file, size in files.items():
        if partition_of(file) in contents:
            contents[partition_of(file)]["files"][file] = size
    return {partition: content for partition, content in contents.items() if content["files"]}


def read_contents(storage: Storage) -> Contents:
    """What the last run has published, as it noted; nothing where that is missing or damaged."""
    try:
        tables = json.loads(storage.read(PUBLISHED))
        return {table: dict(partitions) for table, partitions in tables.items()}
    except (MissingError, ValueError, TypeError, AttributeError):
        return {}


def write_contents(storage: Storage, contents: Contents) -> None:
    """Note what is published now; what is not noted, or not any more true, is swapped next time."""
    if any(contents.values()):
        storage.write(PUBLISHED, json.dumps(contents))


# ---- After a run that broke off -----------------------------------------------------------------


def recover(storage: Storage, lock: Lock) -> list[str]:
    """Finish every committed swap and drop what dead runs staged; tells of each commit found."""
    told = []
    for run in storage.folders(ETL):
        if run in (*KEPT, lock.holder.run):
            continue
        if storage.exists(plan_path(run)):
            told.append(finish(storage, lock, read_plan(storage, run)))
        lock.assert_held()
        drop_staging(storage, run)
    return told


def finish(storage: Storage, lock: Lock, plan: Plan) -> str:
    """Finish the swap of a committed run, unless nothing of what it planned is left."""
    found = (
        table.files
        & {*storage.files(table.name), *storage.files(staged_path(plan.run, table.name))}
        for table in plan.tables
    )
    if plan.tables and not any(found):
        # A later run has replaced it all, and only the plan's removal had failed.
        return f"dropped the plan of run {plan.run}: none of its files is left"
    swap(storage, lock, plan)
    return f"finished the swap of run {plan.run}, which had broken off after its commit"


def abandon(storage: Storage, run: str) -> str:
    """Clean up after a run that failed; returns what became of the published tables."""
    try:
        if storage.exists(plan_path(run)):
            return (
                f"run {run} is committed: what is not in place yet the next run puts there, and so "
                "does --recover; until then a reader can meet old and new side by side"
            )
        drop_staging(storage, run)
    except StorageError as error:
        return (
            f"run {run} could not clean up ({error}): the next run does, and so does --recover; "
            "if it was committed they finish it, else the published tables are as they were"
        )
    return "the published tables are as they were: nothing was changed"


def drop_staging(storage: Storage, run: str) -> None:
    """Remove a run's staging area, its plan first: a plan may never outlive what it names."""
    storage.delete(plan_path(run))
    storage.delete(f"{ETL}/{run}")


def keep_latest(storage: Storage, keep: int) -> None:
    """Delete the reports and rejects of all runs but the latest ones."""
    reports = {report.removesuffix(".json") for report in storage.files(REPORTS)}
    rejects = set(storage.folders(REJECTS))  # a killed run leaves them without a report
    for run in sorted(reports | rejects)[:-keep]:
        storage.delete(f"{REPORTS}/{run}.json")
        storage.delete(f"{REJECTS}/{run}")


def staged_path(run: str, table: str) -> str:
    """Where a run stages a table."""
    return f"{ETL}/{run}/{table}"


def plan_path(run: str) -> str:
    """Where a run's commit record is."""
    return f"{ETL}/{run}/plan.json"


def read_plan(storage: Storage, run: str) -> Plan:
    """The commit record of a run."""
    try:
        plan = json.loads(storage.read(plan_path(run)))
        return Plan(plan["run"], [TablePlan(**table) for table in plan["tables"]])
    except (ValueError, KeyError, TypeError):
        raise StorageError(
            f"cannot make sense of {storage.path(plan_path(run))}: it is damaged, or of another "
            f"version of this job; move what is staged beside it into place, or delete it, and run "
            "again"
        ) from None


def new_run() -> str:
    """A name for this run that sorts by time."""
    now = datetime.now(timezone.utc)
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def partition_of(file: str) -> str:
    """The partition that a file of a table is in, such as year=2018/month=11; '' if in none."""
    return file.rpartition("/")[0]


def _by_partition(files: Collection[str]) -> dict[str, list[str]]:
    partitions: dict[str, list[str]] = {}
    for file in sorted(files):
        partitions.setdefault(partition_of(file), []).append(file.rpartition("/")[2])
    return partitions


def _sizes(content: Mapping[str, Any]) -> list[int]:
    return sorted(content.get("files", {}).values())


def _by_unit(files: Collection[str], table: TablePlan) -> dict[str, set[str]]:
    if "" in table.put:
        return {"": set(files)}
    return {unit: set(names) for unit, names in _by_partition(files).items()}


def _layout(partitions: Mapping[str, Sequence[str]]) -> set[str]:
    """The partition columns, as in {'year/month'}."""
    return {re.sub(r"=[^/]*", "", partition) for partition in partitions}
