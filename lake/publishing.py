"""How finished tables replace published ones without ever losing a row.

A run stages its tables under <output>/_etl/<run>/, writes one small plan.json there (the commit),
and then swaps the staged tables in. A run that is interrupted before the commit has changed
nothing. After the commit the swap is repeated from the plan until it is done. What a store must be
able to do for that is in storage.py: the same code serves local disk, HDFS and S3.
"""

from __future__ import annotations

import enum
import json
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lake.paths import ETL, KEPT, PUBLISHED, REJECTS, REPORTS, partition_of, plan_path, staged_path
from lake.storage import MissingError, Storage, StorageError

if TYPE_CHECKING:
    from lake.lock import Lock

# ---- Plan, commit, swap --------------------------------------------------------------------------

Fingerprints = Mapping[str, Mapping[str, str]]  # table -> partition -> row count and hash
Content = Mapping[str, Any]  # of a partition: its fingerprint, and its files with their bytes
Contents = Mapping[str, Mapping[str, Content]]  # table -> partition -> content


@dataclass(frozen=True)
class TablePlan:
    """What the swap of one table does: the files of each unit to put in place, units to remove.

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
    """The swap of one table: the whole table where its rename is atomic, else each partition.

    A table whose layout has changed is swapped as a whole on every store, so that a reader never
    finds both layouts in one table.
    """
    new, old = _by_partition(staged), _by_partition(published)
    if atomic_rename or _layout(new) != _layout(old):
        return TablePlan(name, {"": sorted(staged)}, ())
    put = {partition: files for partition, files in new.items() if partition not in unchanged}
    return TablePlan(name, put, sorted(set(old) - set(new)))


def build_plan(
    storage: Storage, run: str, tables: Sequence[str], fingerprints: Fingerprints
) -> tuple[Plan, Contents]:
    """The plan that replaces the published tables by a run's staged ones.

    Also returns what the published partitions will hold then. Where there are fingerprints, the
    plan leaves out each partition whose published rows equal the staged ones.
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
        contents[table] = {**build_contents(new, rows), **unchanged}
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
    # Checked after the draft is written: a run that takes the lock over from now on deletes the
    # draft, and then our rename fails.
    lock.assert_held(ask=True)
    try:
        storage.rename(draft, final)
    except StorageError:
        if not storage.exists(final):  # the rename may have worked and only its answer been lost
            raise


def swap(storage: Storage, lock: Lock, plan: Plan) -> None:
    """Put every unit of the plan in place; it can be repeated after a crash at any point."""
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
            take_step(storage, step, run, target)
    for unit in table.remove:
        lock.assert_held()
        retire(storage, run, f"{table.name}/{unit}")


class Action(enum.Enum):
    """How one step of a swap changes files."""

    RETIRE = enum.auto()  # take the old unit away
    MOVE = enum.auto()  # move a staged file, or the whole unit, to its place
    DELETE = enum.auto()  # delete a file that the new unit does not have


@dataclass(frozen=True)
class Step:
    """One step of a unit's swap; without a file it concerns the whole unit."""

    action: Action
    file: str = ""


def build_steps(planned: set[str], published: set[str], staged: set[str]) -> list[Step] | None:
    """The steps left to do for one unit, by where its files are; None if a file is nowhere."""
    if not planned <= published | staged:
        return None
    if not planned & published:
        # Retire even a folder without data: a rename would move the new one into it.
        return [Step(Action.RETIRE), Step(Action.MOVE)]
    # On S3 a rename copies file by file and can stop half-way: the other files follow one by one.
    stale = [Step(Action.DELETE, file) for file in sorted(published - planned)]
    return stale + [Step(Action.MOVE, file) for file in sorted(planned - published)]


def take_step(storage: Storage, step: Step, run: str, target: str) -> None:
    """Carry out one step on the unit at target."""
    path = f"{target}/{step.file}".rstrip("/")
    if step.action is Action.RETIRE:
        retire(storage, run, target)
    elif step.action is Action.DELETE:
        storage.delete(path)
    else:
        storage.rename(staged_path(run, path), path)


def retire(storage: Storage, run: str, path: str) -> None:
    """Remove an old unit, if there is one: by a rename where that is atomic, else by a delete."""
    if not storage.atomic_rename:
        storage.delete(path)
    elif storage.exists(path):
        aside = secrets.token_hex(3)  # a repeated swap may retire the same unit again
        storage.rename(path, f"{ETL}/{run}/retired/{aside}/{path}")


# ---- Partitions that can stay as they are --------------------------------------------------------


def find_unchanged(
    staged: Mapping[str, int],
    published: Mapping[str, int],
    fingerprints: Mapping[str, str],
    known: Mapping[str, Content],
) -> dict[str, Content]:
    """The published partitions whose rows and file sizes equal the staged ones.

    A note about a partition counts only while the files that it names are still there, unchanged.
    """
    new, old = build_contents(staged, fingerprints), build_contents(published, fingerprints)
    unchanged = {
        partition: content
        for partition, content in old.items()
        if content == known.get(partition) and _sizes(content) == _sizes(new.get(partition, {}))
    }
    # finish() drops a plan none of whose files exist, so it would drop a plan that only removes
    # partitions. Such a plan puts one unchanged partition in place as well.
    if unchanged.keys() == new.keys() and not _by_partition(published).keys() <= new.keys():
        return dict(list(unchanged.items())[1:])
    return unchanged


def describe_unchanged(plan: Plan, contents: Contents) -> str:
    """How many of all partitions a plan leaves as they are."""
    put = [len(contents[table.name] if "" in table.put else table.put) for table in plan.tables]
    total = sum(map(len, contents.values()))
    return f"{total - sum(put):,} of {total:,} partitions were up to date"


def build_contents(files: Mapping[str, int], fingerprints: Mapping[str, str]) -> dict[str, Content]:
    """For each partition the fingerprint of its rows, and its files with their bytes."""
    contents: dict[str, Content] = {
        partition: {"rows": rows, "files": {}} for partition, rows in fingerprints.items()
    }
    for file, size in files.items():
        if partition_of(file) in contents:
            contents[partition_of(file)]["files"][file] = size
    return {partition: content for partition, content in contents.items() if content["files"]}


def read_contents(storage: Storage) -> Contents:
    """What the last run noted about the published partitions; nothing if that is damaged."""
    try:
        tables = json.loads(storage.read(PUBLISHED))
        return {table: dict(partitions) for table, partitions in tables.items()}
    except (MissingError, ValueError, TypeError, AttributeError):
        return {}


def write_contents(storage: Storage, contents: Contents) -> None:
    """Note what is published now; the next run swaps every partition that has no true note."""
    if any(contents.values()):
        storage.write(PUBLISHED, json.dumps(contents))


# ---- After a run that was interrupted ------------------------------------------------------------


def recover(storage: Storage, lock: Lock) -> list[str]:
    """Finish every committed swap and delete what dead runs staged; returns a line a commit."""
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
    """Finish the swap of a committed run, unless none of its planned files is left."""
    found = (
        table.files
        & {*storage.files(table.name), *storage.files(staged_path(plan.run, table.name))}
        for table in plan.tables
    )
    if plan.tables and not any(found):
        # A later run has replaced all of it; only deleting this plan had failed.
        return f"dropped the plan of run {plan.run}: none of its files is left"
    swap(storage, lock, plan)
    return f"finished the swap of run {plan.run}, which was interrupted after its commit"


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
    """Delete a run's staging area, the plan first: a plan must not outlive the files it names."""
    storage.delete(plan_path(run))
    storage.delete(f"{ETL}/{run}")


def keep_latest(storage: Storage, keep: int) -> None:
    """Delete the reports and rejects of all runs but the latest ones."""
    reports = {report.removesuffix(".json") for report in storage.files(REPORTS)}
    rejects = set(storage.folders(REJECTS))  # a killed run has rejects but no report
    for run in sorted(reports | rejects)[:-keep]:
        storage.delete(f"{REPORTS}/{run}.json")
        storage.delete(f"{REJECTS}/{run}")


def read_plan(storage: Storage, run: str) -> Plan:
    """The commit record of a run."""
    try:
        plan = json.loads(storage.read(plan_path(run)))
        return Plan(plan["run"], [TablePlan(**table) for table in plan["tables"]])
    except (ValueError, KeyError, TypeError):
        raise StorageError(
            f"cannot read the plan {storage.path(plan_path(run))}: it is damaged, or of another "
            "version of this job. Move the tables beside it into place by hand, or delete it, then "
            "run again"
        ) from None


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
    """The names of the partition columns, such as {'year/month'}."""
    return {re.sub(r"=[^/]*", "", partition) for partition in partitions}
