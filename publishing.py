"""How finished tables replace published ones without ever losing a row.

A run stages its tables under <output>/_etl/<run>/, writes one small plan.json there (the commit),
and then swaps the staged tables in. What was interrupted before the commit changed nothing; what
was interrupted after it is repeated from the plan until it is done. All of it uses Hadoop's
FileSystem, so that local disk, HDFS and S3 are served by the same code.
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from py4j.protocol import Py4JError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ETL = "_etl"  # hidden from every reader: engines pass over names that begin with an underscore
LOCK = f"{ETL}/LOCK"
REPORTS = f"{ETL}/reports"
REJECTS = f"{ETL}/rejects"
KEPT = ("reports", "rejects")  # the folders in _etl that are no run's staging area

# Stores where renaming a folder is one atomic step. S3 copies and deletes, object by object.
ATOMIC_RENAME = ("file", "hdfs", "viewfs")


class StorageError(Exception):
    """One file operation failed: which, where and why, in one line."""


class LockedError(Exception):
    """Another run is at work on this output, or has taken this run's lock over."""


class Storage:
    """The files of one lake; paths are relative to its root and use forward slashes."""

    def __init__(self, spark: SparkSession, root: str) -> None:
        # PySpark has no public door to Hadoop's files.
        self._jvm: Any = spark._jvm
        context: Any = spark.sparkContext._jsc
        self.root = root
        with _one_line("open", root):
            path = self._path("")
            self._filesystem = path.getFileSystem(context.hadoopConfiguration())
            self.root = str(self._filesystem.makeQualified(path).toString())
            self.atomic_rename = str(self._filesystem.getUri().getScheme()) in ATOMIC_RENAME

    def path(self, relative: str) -> str:
        """The full path of a file or folder, as Spark reads and writes it."""
        return f"{self.root.rstrip('/')}/{relative}" if relative else self.root

    def exists(self, relative: str) -> bool:
        """Whether a file or a folder is there."""
        with _one_line("look up", self.path(relative)):
            return bool(self._filesystem.exists(self._path(relative)))

    def files(self, relative: str) -> set[str]:
        """The data files below a folder, relative to it; none where there is no such folder."""
        if not self.exists(relative):
            return set()
        with _one_line("list", self.path(relative)):
            # Two calls into the JVM however many files there are, and on S3 one request a thousand.
            listing = self._filesystem.listFiles(self._path(relative), True)
            statuses = self._jvm.org.apache.hadoop.util.functional.RemoteIterators.toList(listing)
            paths = re.findall(r"\{path=(.*?); isDirectory=", str(statuses.toString()))
        start = len(self.path(relative))
        return {path[start + 1 :] for path in paths if not re.search(r"/[._]", path[start:])}

    def folders(self, relative: str) -> list[str]:
        """The names of the folders directly in a folder, in order."""
        if not self.exists(relative):
            return []
        with _one_line("list", self.path(relative)):
            statuses = self._filesystem.listStatus(self._path(relative))
            return sorted(str(s.getPath().getName()) for s in statuses if s.isDirectory())

    def size(self, relative: str) -> int:
        """The bytes of everything in a folder."""
        with _one_line("measure", self.path(relative)):
            return int(self._filesystem.getContentSummary(self._path(relative)).getLength())

    def age(self, relative: str) -> float | None:
        """Seconds since a file was written; None where there is none."""
        if not self.exists(relative):
            return None
        with _one_line("look up", self.path(relative)):
            status = self._filesystem.getFileStatus(self._path(relative))
            return time.time() - float(status.getModificationTime()) / 1000

    def read(self, relative: str) -> str:
        """A small text file."""
        with _one_line("read", self.path(relative)):
            stream = self._filesystem.open(self._path(relative))
            with contextlib.closing(stream):
                return str(self._jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8"))

    def write(self, relative: str, content: str) -> None:
        """Write or replace a small text file."""
        with _one_line("write", self.path(relative)):
            stream = self._filesystem.create(self._path(relative), True)
            with contextlib.closing(stream):
                stream.write(bytearray(content.encode()))

    def rename(self, source: str, target: str) -> None:
        """Move a file or a folder to where nothing is yet, making the folders above it."""
        with _one_line("move to", self.path(target)):
            self._filesystem.mkdirs(self._path(target).getParent())
            moved = self._filesystem.rename(self._path(source), self._path(target))
        if not moved:
            raise StorageError(
                f"cannot move {self.path(source)} to {self.path(target)}: the file system refused; "
                "check that both folders may be written to"
            )

    def delete(self, relative: str) -> None:
        """Remove a file, or a folder with all in it; nothing there is fine."""
        with _one_line("delete", self.path(relative)):
            self._filesystem.delete(self._path(relative), True)

    def _path(self, relative: str) -> Any:  # noqa: ANN401 (a Java object)
        return self._jvm.org.apache.hadoop.fs.Path(self.path(relative))


# ---- The lock: one run at a time ----------------------------------------------------------------


@dataclass(frozen=True)
class Holder:
    """Who holds the lock, as LOCK says."""

    run: str
    host: str
    process: int


class Lock:
    """The right to publish, held while LOCK names this run and was refreshed a short while ago."""

    def __init__(self, storage: Storage, run: str, lease_seconds: float) -> None:
        self.storage = storage
        self.holder = Holder(run, socket.gethostname(), os.getpid())
        self.lease_seconds = lease_seconds
        self._refreshed = 0.0
        self._stop = threading.Event()
        self._heartbeat = threading.Thread(target=self._keep_refreshing, daemon=True)

    def acquire(self) -> str | None:
        """Take the lock, or raise LockedError; returns the dead run that it was taken over from."""
        found, age = read_holder(self.storage), self.storage.age(LOCK)
        if age is not None:
            self._refuse_if_alive(found, age)
        self._write()
        time.sleep(0.05)  # Hadoop has no create-if-absent that holds on S3: of two, the last stays
        self.assert_held(ask=True)
        self._heartbeat.start()
        return found.run if found else None

    def assert_held(self, *, ask: bool = False) -> None:
        """Raise LockedError unless the lock is ours for sure; `ask` reads it, the rest is a clock.

        A run that was paused finds its lease over by the clock and must stop before it touches a
        file: another one may have taken the lock, and published.
        """
        if ask or time.time() - self._refreshed > self.lease_seconds / 2:
            holder = read_holder(self.storage)
            if holder != self.holder:
                other = f"run {holder.run} on {holder.host}" if holder else "nobody"
                raise LockedError(
                    f"the lock on {self.storage.root} was taken over: {other} holds it now. "
                    "This run stops; look at that run's report before you start another"
                )

    def release(self) -> None:
        """Stop refreshing, and delete LOCK if it is still ours."""
        self._stop.set()
        if self._heartbeat.is_alive():
            self._heartbeat.join()
        if read_holder(self.storage) == self.holder:
            self.storage.delete(LOCK)

    def _refuse_if_alive(self, holder: Holder | None, age: float) -> None:
        if age > self.lease_seconds or (holder and self._died_here(holder)):
            return
        who = f"run {holder.run} (process {holder.process} on {holder.host})" if holder else "a run"
        raise LockedError(
            f"{who} is at work on {self.storage.root}, last heard of {age:.0f} s ago. Wait for it; "
            f"if it is dead, its lock lapses {self.lease_seconds / 60:g} minutes after that, or "
            f"delete {self.storage.path(LOCK)}"
        )

    def _died_here(self, holder: Holder) -> bool:
        """Whether the holder was a process of this host, on its own disk, and is gone."""
        if not self.storage.root.startswith("file:") or holder.host != self.holder.host:
            return False
        try:
            os.kill(holder.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def _write(self) -> None:
        self.storage.write(LOCK, json.dumps(asdict(self.holder)))
        self._refreshed = time.time()

    def _keep_refreshing(self) -> None:
        while not self._stop.wait(self.lease_seconds / 10):
            # A failed refresh is not the end: the next may succeed, and the lease tells in time.
            with contextlib.suppress(StorageError, LockedError):
                self.assert_held(ask=True)
                self._write()


def read_holder(storage: Storage) -> Holder | None:
    """Who LOCK names; None where there is no lock, or where it is being written just now."""
    if not storage.exists(LOCK):
        return None
    try:
        return Holder(**json.loads(storage.read(LOCK)))
    except (StorageError, ValueError, TypeError):
        return None


# ---- Plan, commit, swap -------------------------------------------------------------------------


@dataclass(frozen=True)
class TablePlan:
    """What one table's swap does: the files of each unit to put in place, the units to remove.

    A unit is a partition such as year=2018/month=11, or '' for the whole table.
    """

    name: str
    put: Mapping[str, Sequence[str]]
    remove: Sequence[str]


@dataclass(frozen=True)
class Plan:
    """One run's commit record: once it is written, the staged tables are the tables."""

    run: str
    tables: Sequence[TablePlan]


def build_table_plan(
    name: str, staged: set[str], published: set[str], *, atomic_rename: bool
) -> TablePlan:
    """The swap of one table, as a whole where that is one step, else partition by partition.

    A changed layout is swapped as a whole everywhere: no reader ever finds both in one table.
    """
    new, old = _by_partition(staged), _by_partition(published)
    if atomic_rename or _layout(new) != _layout(old):
        return TablePlan(name, {"": sorted(staged)}, ())
    return TablePlan(name, new, sorted(set(old) - set(new)))


def build_plan(storage: Storage, run: str, tables: Sequence[str]) -> Plan:
    """The plan that puts a run's staged tables in the place of the published ones."""
    return Plan(
        run,
        [
            build_table_plan(
                table,
                storage.files(f"{ETL}/{run}/{table}"),
                storage.files(table),
                atomic_rename=storage.atomic_rename,
            )
            for table in tables
        ],
    )


def commit(storage: Storage, plan: Plan) -> None:
    """Write the plan in one atomic step; from here on the new tables are the ones that count."""
    draft, final = f"{ETL}/{plan.run}/plan.draft", plan_path(plan.run)
    storage.write(draft, json.dumps(asdict(plan)))
    try:
        storage.rename(draft, final)
    except StorageError:
        if not storage.exists(final):  # an answer can be lost after the rename took effect
            raise


def swap(storage: Storage, lock: Lock, plan: Plan) -> None:
    """Put every unit of the plan in place; can be repeated from any point where it broke off."""
    for table in plan.tables:
        swap_table(storage, lock, plan.run, table)


def swap_table(storage: Storage, lock: Lock, run: str, table: TablePlan) -> None:
    """Put one table's units in place and remove those that the new table does not have."""
    published = _by_unit(storage.files(table.name), table)
    staged = _by_unit(storage.files(f"{ETL}/{run}/{table.name}"), table)
    for unit, planned in table.put.items():
        old = published.get(unit, set())
        steps = build_steps(set(planned), old, staged.get(unit, set()))
        if steps is None:
            raise StorageError(
                f"{storage.path(table.name)}/{unit} cannot be put in place: files that "
                f"{storage.path(plan_path(run))} names are gone; restore them, or delete "
                "that plan and run again"
            )
        for step in steps:
            lock.assert_held()
            _do(storage, step, run, f"{table.name}/{unit}".rstrip("/"))
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
        return [Step("retire"), Step("move")]
    # Where a rename copies file by file it can stop half-way: the rest follows file by file.
    stale = [Step("delete", file) for file in sorted(published - planned)]
    return stale + [Step("move", file) for file in sorted(planned - published)]


def retire(storage: Storage, run: str, path: str) -> None:
    """Take an old unit away, if there is one: aside where that is one step, else by deleting it."""
    if not storage.atomic_rename:
        storage.delete(path)
    elif storage.exists(path):
        storage.rename(path, f"{ETL}/{run}/retired/{path}")


def recover(storage: Storage, lock: Lock) -> list[str]:
    """Finish every committed swap and drop what dead runs staged; returns the runs finished."""
    finished = []
    for run in storage.folders(ETL):
        if run not in KEPT and storage.exists(plan_path(run)):
            swap(storage, lock, read_plan(storage, run))
            finished.append(run)
    for run in storage.folders(ETL):
        if run not in (*KEPT, lock.holder.run):
            drop_staging(storage, run)
    return finished


def abandon(storage: Storage, run: str) -> str:
    """Clean up after a run that failed; returns what became of the published tables."""
    try:
        if storage.exists(plan_path(run)):
            return (
                f"run {run} is committed, but not all of it is in place: the next run finishes "
                "it, and so does --recover; until then a reader can meet old and new side by side"
            )
        drop_staging(storage, run)
    except StorageError as error:
        return (
            f"run {run} could not clean up ({error}); if it was committed, the next run, or "
            "--recover, finishes it, else the published tables are as they were"
        )
    return "the published tables are as they were: nothing was changed"


def drop_staging(storage: Storage, run: str) -> None:
    """Remove a run's staging area, its plan first: a plan may never outlive what it names."""
    storage.delete(plan_path(run))
    storage.delete(f"{ETL}/{run}")


def keep_latest(storage: Storage, keep: int) -> None:
    """Delete the reports and rejects of all runs but the latest ones."""
    reports = sorted(storage.files(REPORTS))
    for report in reports[:-keep]:
        storage.delete(f"{REPORTS}/{report}")
        storage.delete(f"{REJECTS}/{report.removesuffix('.json')}")


def plan_path(run: str) -> str:
    """Where a run's commit record is."""
    return f"{ETL}/{run}/plan.json"


def read_plan(storage: Storage, run: str) -> Plan:
    """The commit record of a run."""
    plan = json.loads(storage.read(plan_path(run)))
    return Plan(plan["run"], [TablePlan(**table) for table in plan["tables"]])


def new_run() -> str:
    """A name for this run that sorts by time."""
    now = datetime.now(timezone.utc)
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def _do(storage: Storage, step: Step, run: str, target: str) -> None:
    staged = f"{ETL}/{run}/{target}"
    if step.verb == "retire":
        retire(storage, run, target)
    elif step.verb == "delete":
        storage.delete(f"{target}/{step.file}")
    else:
        tail = f"/{step.file}" if step.file else ""
        storage.rename(f"{staged}{tail}", f"{target}{tail}")


def _by_partition(files: set[str]) -> dict[str, list[str]]:
    partitions: dict[str, list[str]] = {}
    for file in sorted(files):
        folder, _, name = file.rpartition("/")
        partitions.setdefault(folder, []).append(name)
    return partitions


def _by_unit(files: set[str], table: TablePlan) -> dict[str, set[str]]:
    if "" in table.put:
        return {"": files}
    return {unit: set(names) for unit, names in _by_partition(files).items()}


def _layout(partitions: Mapping[str, Sequence[str]]) -> set[str]:
    """The partition columns, as in {'year/month'}."""
    return {re.sub(r"=[^/]*", "", partition) for partition in partitions}


@contextlib.contextmanager
def _one_line(verb: str, path: str) -> Iterator[None]:
    try:
        yield
    except Py4JError as error:
        java = getattr(error, "java_exception", None)
        cause = str(java.toString()) if java else str(error)
        raise StorageError(f"cannot {verb} {path}: {' '.join(cause.split())}") from None
