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
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lake.parsed import drop_unused
from lake.paths import (
    ETL,
    INPUTS,
    REJECTS,
    REPORTS,
    folders_above,
    inputs_path,
    is_hidden,
    is_run,
    parsed_path,
    partition_of,
    plan_path,
    readable,
    staged_path,
)
from lake.published import (
    Contents,
    Note,
    build_contents,
    read_report,
    refuse_foreign_files,
    write_note,
)
from lake.report import Report, now
from lake.sources import SOURCES
from lake.storage import Storage, StorageError
from lake.tables import TABLES

if TYPE_CHECKING:
    from lake.lock import Lock

# ---- Plan, commit, swap --------------------------------------------------------------------------


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
    """One run's commit record: once it is written, the staged tables are the tables.

    It carries what to note when all is in place, so that any later run can finish this one: what is
    published then, the report, and whether there is a state of the input. Plans of an older version
    of this job have none of them.
    """

    run: str
    tables: Sequence[TablePlan]
    contents: Contents | None = None
    report: Mapping[str, Any] | None = None
    inputs: str = ""  # the run itself, if it has left a state of the input


def build_table_plan(
    name: str,
    staged: Collection[str],
    published: Collection[str],
    rebuilt: Collection[str] | None,
) -> TablePlan:
    """The swap of the partitions of one table that are built anew; None stands for all of them.

    A table whose layout has changed is swapped as a whole, so that a reader never finds both
    layouts in one table.
    """
    new, old = _by_partition(staged), _by_partition(published)
    if rebuilt is None and _layout(new) != _layout(old):
        return TablePlan(name, {"": sorted(staged)}, ())
    gone = set(old) - set(new)
    return TablePlan(name, new, sorted(gone if rebuilt is None else gone & set(rebuilt)))


def build_plan(
    storage: Storage,
    run: str,
    rebuilt: Mapping[str, Collection[str] | None],
    owned: Contents,
    inputs: str,
) -> Plan:
    """The plan that replaces what a run has built anew: partitions by table, None for all of it.

    It has no report yet. Raises ForeignFilesError where files arrived that this job did not write.
    """
    published = {table.name: storage.files(table.name) for table in TABLES}
    refuse_foreign_files(storage, published, owned)
    planned, contents = [], dict(owned)
    for table, partitions in rebuilt.items():
        new = storage.files(staged_path(run, table))
        if not new and partitions is None:
            raise StorageError(
                f"nothing is staged in {readable(storage.path(staged_path(run, table)))}: "
                "another process has removed it, and an empty table is not published"
            )
        plan = build_table_plan(table, new, published[table], partitions)
        kept = {} if partitions is None else owned.get(table, {})
        contents[table] = {
            **{name: content for name, content in kept.items() if name not in plan.remove},
            **build_contents(new),
        }
        planned.append(plan)
    changed = [table for table in planned if table.put or table.remove]
    return Plan(run, changed, contents, inputs=inputs)


def commit(storage: Storage, lock: Lock, plan: Plan) -> None:
    """Write the plan in one atomic step; from here on the new tables are the ones that count."""
    draft, final = f"{ETL}/{plan.run}/plan.draft", plan_path(plan.run)
    storage.write(draft, json.dumps(asdict(plan)))
    # A plan that outlives the files it names, as it might after a power cut, would lose them.
    parsed = (parsed_path(source.name, plan.run) for source in SOURCES)
    known = (inputs_path(plan.run), *parsed) if plan.inputs else ()
    storage.sync(*(staged_path(plan.run, table.name) for table in plan.tables), *known, draft)
    # Checked after the draft is written: a run that takes the lock over from now on deletes the
    # draft, and then our rename fails.
    lock.assert_held(ask=True)
    try:
        storage.rename(draft, final)
    except StorageError:
        if not storage.exists(final):  # the rename may have worked and only its answer been lost
            raise
    storage.sync(final)


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
    published = _by_unit(storage.all_files(table.name), table)
    staged = _by_unit(storage.all_files(staged_path(run, table.name)), table)
    for unit, planned in table.put.items():
        target = f"{table.name}/{unit}".rstrip("/")
        steps = build_steps(set(planned), published.get(unit, set()), staged.get(unit, set()))
        if steps is None:
            raise StorageError(
                f"cannot put {readable(storage.path(target))} in place: files that "
                f"{readable(storage.path(plan_path(run)))} names are gone; restore them, or delete "
                "that plan and run again"
            )
        for step in steps:
            lock.assert_held()
            take_step(storage, lock, step, run, target)
    for unit in table.remove:
        lock.assert_held()
        remove_unit(storage, run, f"{table.name}/{unit}", published.get(unit, set()))


class Action(enum.Enum):
    """How one step of a swap changes files."""

    KEEP = enum.auto()  # move a hidden file, which is not ours, to the staged unit
    EXCHANGE = enum.auto()  # take the old unit away and put the staged one in its place
    MOVE = enum.auto()  # move a staged file to its place
    DELETE = enum.auto()  # delete a file that the new unit does not have


@dataclass(frozen=True)
class Step:
    """One step of a unit's swap; without a file it concerns the whole unit."""

    action: Action
    file: str = ""


def build_steps(planned: set[str], published: set[str], staged: set[str]) -> list[Step] | None:
    """The steps left to do for one unit, by where its files are; None if a file is nowhere.

    Hidden files are not in the plan: someone else's, they stay in the unit's folder.
    """
    if not planned <= published | staged:
        return None
    hidden = {file for file in published if is_hidden(file)}
    if not planned & published:
        # Take even a folder without data away: a rename would move the new one into it.
        return [*(Step(Action.KEEP, file) for file in sorted(hidden)), Step(Action.EXCHANGE)]
    # On S3 a rename copies file by file and can stop half-way: the other files follow one by one.
    stale = [Step(Action.DELETE, file) for file in sorted(published - hidden - planned)]
    kept = {file for file in staged if is_hidden(file)}
    return stale + [Step(Action.MOVE, file) for file in sorted((planned | kept) - published)]


def take_step(storage: Storage, lock: Lock, step: Step, run: str, target: str) -> None:
    """Carry out one step on the unit at target."""
    path = f"{target}/{step.file}".rstrip("/")
    if step.action is Action.EXCHANGE:
        exchange(storage, lock, run, target)
    elif step.action is Action.DELETE:
        storage.delete(path)
    elif step.action is Action.KEEP:
        storage.delete(staged_path(run, path))  # a copy, if S3 was broken off inside of the rename
        storage.rename(path, staged_path(run, path))
    else:
        storage.rename(staged_path(run, path), path)


def exchange(storage: Storage, lock: Lock, run: str, target: str) -> None:
    """Take the old unit away and put the staged one in its place, in one step where that can be.

    A run that was paused may lose its lock between two steps. Then what it took away may be another
    run's table, and is put back.
    """
    if storage.exchange(staged_path(run, target), target):
        return
    aside = retire(storage, run, target)
    try:
        storage.rename(staged_path(run, target), target)
    except StorageError:
        if aside and lock.is_lost():
            with suppress(StorageError):  # something is there again
                storage.rename(aside, target)
        raise


def retire(storage: Storage, run: str, path: str) -> str:
    """Take an old unit away, if there is one, and return where to: by a rename where it is atomic.

    Else it is deleted, and '' is returned.
    """
    if not storage.atomic_rename:
        storage.delete(path)
        return ""
    if not storage.exists(path):
        return ""
    # A repeated swap may retire the same unit again.
    aside = f"{ETL}/{run}/retired/{secrets.token_hex(3)}/{path}"
    storage.rename(path, aside)
    return aside


def remove_unit(storage: Storage, run: str, path: str, published: Collection[str]) -> None:
    """Remove a unit that the new table does not have, but not the hidden files in it."""
    visible = sorted(file for file in published if not is_hidden(file))
    if len(visible) == len(published):
        retire(storage, run, path)
        return
    for file in visible:
        storage.delete(f"{path}/{file}")


def settle(storage: Storage, plan: Plan, report: Mapping[str, Any]) -> None:
    """When all is in place: note what is published, write the report, and drop the staging area.

    The order holds through a power cut as well: the plan goes when all else is on the disk.
    """
    units = [
        f"{table.name}/{unit}" for table in plan.tables for unit in (*table.put, *table.remove)
    ]
    storage.sync_names(unit.rstrip("/") for unit in units)
    contents = plan.contents
    if contents is None:  # the plan of an older version
        contents = {table.name: build_contents(storage.files(table.name)) for table in TABLES}
    write_note(storage, Note(contents, plan.inputs))
    if report:
        path = f"{REPORTS}/{plan.run}.json"
        storage.write(path, json.dumps(report, indent=2) + "\n")
        storage.sync(path)
    drop_unused(storage)
    drop_staging(storage, plan.run)


# ---- After a run that was interrupted ------------------------------------------------------------


def recover(storage: Storage, lock: Lock) -> list[str]:
    """Finish every committed swap and delete what dead runs staged; returns a line a commit."""
    told = []
    for run in filter(is_run, storage.folders(ETL)):
        if run == lock.holder.run:
            continue
        if storage.exists(plan_path(run)):
            told.append(finish(storage, lock, read_plan(storage, run)))
        lock.assert_held()
        drop_staging(storage, run)
    lock.assert_held()
    drop_unused(storage)
    for folder in (ETL, REPORTS, INPUTS):
        storage.drop_drafts(folder)
    return told


def finish(storage: Storage, lock: Lock, plan: Plan) -> str:
    """Finish the swap of a committed run and write its report, unless none of its files is left."""
    found = (
        table.files
        & {*storage.files(table.name), *storage.files(staged_path(plan.run, table.name))}
        for table in plan.tables
    )
    if any(table.files for table in plan.tables) and not any(found):
        # A later run has replaced all of it; only deleting this plan had failed.
        return f"dropped the plan of run {plan.run}: none of its files is left"
    swap(storage, lock, plan)
    known = read_report(storage, plan.run) or {}
    has_report = known.get("status") == "published"  # only the staging area was still there
    report = known if has_report else {**(plan.report or {}), "status": "published"}
    settle(storage, plan, {**report, "finished": now()} if plan.report else {})
    return f"finished the swap of run {plan.run}, which was interrupted after its commit"


COMMITTED = (
    "run {run} is committed: what is not in place yet the next run puts there, and so does "
    "--recover; until then a reader can meet old and new side by side"
)


def abandon(storage: Storage, lock: Lock, report: Report) -> str:
    """Clean up after a run that failed; returns what became of the published tables."""
    run = report.run
    if report.status == "published":
        return f"run {run} has published its tables; only old reports may be left"
    try:
        if lock.is_lost():
            return (
                f"run {run} has lost its lock, so it deletes nothing: the run that took it "
                "finishes what was committed, and the next run deletes what was only staged"
            )
        if storage.exists(plan_path(run)):
            return COMMITTED.format(run=run)
        drop_staging(storage, run)
        drop_unused(storage)
    except StorageError as error:
        return (
            f"run {run} could not clean up ({error}): the next run does, and so does --recover; "
            "if it was committed they finish it, else the published tables are as they were"
        )
    return "the published tables are as they were: nothing was changed"


def describe_fate(report: Report) -> str:
    """What becomes of a run that was interrupted again while it cleaned up."""
    if report.status == "failed":
        return (
            f"run {report.run} was interrupted before it had cleaned up: the next run deletes what "
            "it staged, or finishes it if it was committed, and so does --recover"
        )
    return COMMITTED.format(run=report.run)


def drop_staging(storage: Storage, run: str) -> None:
    """Delete a run's staging area, the plan first: a plan must not outlive the files it names."""
    storage.delete(plan_path(run))
    storage.sync_names([plan_path(run)])
    storage.delete(f"{ETL}/{run}")


def keep_latest(storage: Storage, keep: int, wanted: str = "") -> None:
    """Delete the reports and rejects of all runs but the latest ones, and the rejects wanted."""
    reports = {report.removesuffix(".json") for report in storage.files(REPORTS)}
    rejects = set(storage.folders(REJECTS))  # a killed run has rejects but no report
    for run in sorted(filter(is_run, reports | rejects))[:-keep]:
        storage.delete(f"{REPORTS}/{run}.json")
        if run != wanted:
            storage.delete(f"{REJECTS}/{run}")


def read_plan(storage: Storage, run: str) -> Plan:
    """The commit record of a run."""
    try:
        plan = json.loads(storage.read(plan_path(run)))
        tables = [TablePlan(**table) for table in plan["tables"]]
        noted = (plan.get("contents"), plan.get("report"), plan.get("inputs", ""))
        return Plan(plan["run"], tables, *noted)
    except (ValueError, KeyError, TypeError):
        raise StorageError(
            f"cannot read the plan {readable(storage.path(plan_path(run)))}: it is damaged, or of "
            "another version of this job. Move the tables beside it into place by hand, or delete "
            "it, then run again"
        ) from None


def _by_partition(files: Collection[str]) -> dict[str, list[str]]:
    partitions: dict[str, list[str]] = {}
    for file in sorted(files):
        partitions.setdefault(partition_of(file), []).append(file.rpartition("/")[2])
    return partitions


def _by_unit(files: Collection[str], table: TablePlan) -> dict[str, set[str]]:
    """The files by the plan's units, relative to the unit; those in no unit stay as they are."""
    if "" in table.put:
        return {"": set(files)}
    units: dict[str, set[str]] = {unit: set() for unit in (*table.put, *table.remove)}
    for file in files:
        for unit in units.keys() & set(folders_above(file)):
            units[unit].add(file[len(unit) + 1 :])
    return units


def _layout(partitions: Mapping[str, Sequence[str]]) -> set[str]:
    """The names of the partition columns, such as {'year/month'}."""
    return {re.sub(r"=[^/]*", "", partition) for partition in partitions}
