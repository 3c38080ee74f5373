"""The steps of one run: read the sources, stage the tables, check them, publish them, report."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from lake import publishing
from lake.checks import (
    MATCHED,
    ROWS,
    DataQualityError,
    Findings,
    build_source_keys,
    check_counts,
    check_schema,
    date_parts_in,
    find_shrinkage,
    read_findings,
)
from lake.layout import Sizes, count_partitions, lay_out, new_writer, stage_table
from lake.lines import LOADED, rejected
from lake.locations import find_overlap
from lake.lock import Lock
from lake.ownership import probe_rename, refuse_obstacles
from lake.paths import ETL, REJECTS, REPORTS, partition_of, readable, staged_path
from lake.published import Contents, read_last_report, read_owned, refuse_foreign_files
from lake.report import Report, describe_passed_over, now, tell
from lake.sources import (
    Source,
    SourceError,
    build_account,
    check_account,
    count_passed_over,
    find_unreadable,
    input_files,
    read_outcomes,
)
from lake.spark import cancel_jobs, one_line
from lake.storage import Storage, StorageError, open_storage
from lake.tables import SONGPLAYS, SONGS, TIME, Table, partitioned_tables, stored_schema

if TYPE_CHECKING:
    from configs import EtlConfig
    from lake.published import Fingerprints

LayOut = Callable[[Table, DataFrame], DataFrame]


@dataclass(frozen=True)
class Run:
    """What the steps of one run share."""

    spark: SparkSession
    config: EtlConfig
    storage: Storage
    lock: Lock
    report: Report

    @property
    def tables(self) -> list[Table]:
        """The tables, partitioned as configured."""
        return partitioned_tables(self.config.partitions)

    def staged(self, name: str) -> str:
        """Where this run stages a source or a table, as a full path."""
        return self.storage.path(staged_path(self.report.run, name))


# ---- Begin and end -------------------------------------------------------------------------------


def open_run(spark: SparkSession, config: EtlConfig, report: Report) -> Run:
    """A run on the lake at the configured output; it does not hold the lock yet."""
    storage = open_storage(spark, config.output)
    lock = Lock(storage, report.run, config.lock_minutes * 60)
    return Run(spark, config, storage, lock, report)


@contextmanager
def locked(lock: Lock) -> Iterator[None]:
    """Hold the lock, and first finish what earlier runs had committed."""
    try:
        taken_over = lock.acquire()
        if taken_over:
            tell(taken_over)
        finish_earlier_runs(lock)
        yield
    finally:
        lock.release()


def look_at_sources(run: Run) -> None:
    """Raise SourceError if a source does not exist, or overlaps with the output.

    So a wrong path is told before the other source is parsed. A pattern is left to the reader.
    """
    roots = {}
    for name in ("song_data", "log_data"):
        path = getattr(run.config, name)
        if re.search(r"[*?\[{]", path):
            continue
        try:
            storage = open_storage(run.spark, path)
            is_there = storage.exists("")
        except StorageError as error:
            raise SourceError(f"{name}: {describe_missing(path, error)}") from None
        if not is_there:
            raise SourceError(f"{name}: cannot read {path}: it does not exist")
        roots[name] = storage.root
    found = find_overlap(roots, run.storage.root, [*(table.name for table in run.tables), ETL])
    if found:  # the paths alone did not show it: one of them leaves out the default store
        raise SourceError(
            f"{found[0]}: {roots[found[0]]} overlaps with "
            f"{readable(run.storage.path(found[1]))}, which the job replaces: choose another output"
        )


def describe_missing(path: str, error: StorageError) -> str:
    """What is wrong with a source that cannot be looked up."""
    if re.search("NoSuchBucket|UnknownStoreException", str(error)):
        bucket = path.split("/")[2]
        return f"bucket {bucket} does not exist: check the spelling of {path}"
    return str(error)


def check_output(run: Run) -> Contents:
    """Raise StorageError unless the run may and can replace the tables; returns what is its own.

    Comes before anything is read, so that a run that may not publish ends at once.
    """
    names = [table.name for table in run.tables]
    refuse_obstacles(run.storage, names)
    owned = read_owned(run.storage)
    refuse_foreign_files(run.storage, {name: run.storage.files(name) for name in names}, owned)
    probe_rename(run.storage, run.report.run)
    return owned


def finish_earlier_runs(lock: Lock) -> None:
    """Finish the swap of every run that was interrupted after its commit, and say so."""
    try:
        for finished in publishing.recover(lock.storage, lock):
            tell(finished)
    except KeyboardInterrupt:
        tell("the swap of an earlier run may not be complete: the next run finishes it")
        raise


@contextmanager
def cleaned_up(run: Run) -> Iterator[None]:
    """If the steps fail, stop what still runs, delete what is staged, and report the error."""
    try:
        yield
    except BaseException as error:
        run.report.error = one_line(error)
        try:
            clean_up(run, error)
        except KeyboardInterrupt:  # once more
            tell(publishing.describe_fate(run.report))
            raise error from None
        raise


def clean_up(run: Run, error: BaseException) -> None:
    """Stop what still runs, delete what is staged unless it is committed, and report the error."""
    with suppress(Py4JError):
        cancel_jobs(run.spark, interrupted=isinstance(error, KeyboardInterrupt))
    tell(publishing.abandon(run.storage, run.lock, run.report))
    with suppress(StorageError):  # the user needs the first error, not this one
        write_report(run.storage, run.report)
        if isinstance(error, Exception):
            run.lock.assert_not_taken()  # the run that took it has deleted what was staged


def write_report(storage: Storage, report: Report) -> None:
    """Write the run's report as JSON."""
    report.finished = now()
    storage.write(f"{REPORTS}/{report.run}.json", report.as_json())


# ---- Read ----------------------------------------------------------------------------------------


def read_source(run: Run, source: Source) -> DataFrame:
    """One row per record of a source with its outcome, parsed once into the staging area.

    Its rejected records go to rejects/<run>, even if the run fails later. Raises SourceError if
    the source cannot be read, holds nothing to load, or is rejected beyond the limit.
    """
    path = getattr(run.config, source.name)
    with run.report.stage(source.name) as facts:
        files, parsed = stage_source(run, source, path)
        records = run.spark.read.schema(parsed.schema).parquet(run.staged(source.name))
        outcomes = read_outcomes(records)
        account = build_account(outcomes)
        account["files"] = len(input_files(files))
        account["passed_over"] = count_passed_over(open_storage(run.spark, path))
        facts.append(f"{account['read']:,} records in {account['files']:,} files")
    if account["passed_over"]:
        tell(f"           {source.name}: {describe_passed_over(account['passed_over'])}")
    run.report.sources[source.name] = account
    run.report.repaired_names += sum(x.repaired for x in outcomes if x.outcome == LOADED)
    if account["rejected"]:
        rejects = run.storage.path(f"{REJECTS}/{run.report.run}/{source.name}")
        rejected(records).coalesce(1).write.json(rejects)
        tell(f"           {source.name}: rejected records are in {readable(rejects)}")
    check_account(source.name, path, account, run.config.max_rejected_percent)
    return records


def stage_source(run: Run, source: Source, path: str) -> tuple[DataFrame, DataFrame]:
    """Parse a source into the staging area; returns its files as text, and the parsed records."""
    try:
        files = source.read(run.spark, path)
    except PySparkException as error:
        raise SourceError(f"{source.name}: cannot read {path}: {one_line(error)}") from error
    parsed = source.build(files)
    staged = run.staged(source.name)
    try:
        new_writer(parsed, staged).parquet(staged)
    except (PySparkException, Py4JJavaError) as error:
        unreadable = find_unreadable(files)
        if not unreadable:
            raise
        raise SourceError(
            f"{source.name}: cannot read {unreadable}: {one_line(error)}; fix or remove it, and "
            "run again"
        ) from error
    return files, parsed


# ---- Stage and check -----------------------------------------------------------------------------


def plan_layout(run: Run, plays: DataFrame) -> LayOut:
    """How rows go to files: a partition with more plays than the limit of rows has several."""
    limit = run.config.max_rows_per_file
    tables = {table.name: table for table in run.tables}
    sizes: dict[tuple[str, ...], Sizes] = {}
    if run.report.sources["log_data"]["loaded"] > limit:
        layouts = {tables[TIME.name].partition_by, tables[SONGPLAYS.name].partition_by}
        sizes = {partition_by: count_partitions(partition_by, plays) for partition_by in layouts}

    def lay_out_table(table: Table, rows: DataFrame) -> DataFrame:
        table = tables[table.name]
        large = sizes.get(table.partition_by, {}) if "start_time" in table.identity else {}
        return lay_out(rows, table, large, limit)

    return lay_out_table


def stage_tables(run: Run, tables: Mapping[str, DataFrame]) -> None:
    """Write each table to the staging area."""
    for table in run.tables:
        with run.report.stage(table.name):
            path = run.staged(table.name)
            stage_table(tables[table.name], table, path, run.config.max_rows_per_file)


def check_tables(run: Run, songs: DataFrame, plays: DataFrame) -> Fingerprints:
    """Check what was really written; raises DataQualityError with table, rule and count.

    Returns the fingerprint of each partition where the swap goes by partitions, else nothing.
    """
    by_partition = not run.storage.atomic_rename
    with run.report.stage("checks") as facts:
        files = {
            table.name: run.storage.files(staged_path(run.report.run, table.name))
            for table in run.tables
        }
        check_schemas(run, files)
        staged = {table.name: read_staged(run, table) for table in run.tables}
        source_keys = build_source_keys(songs, plays)
        found = read_findings(run.tables, staged, source_keys, content=by_partition)
        check_counts(found.counts)
        run.report.checks = len(found.counts)
        facts.append(f"{run.report.checks:,} checks, no rule broken")
    note_findings(run.report, found, files)
    warn_of_shrinkage(run)
    return find_fingerprints(found, files) if by_partition else {}


def read_staged(run: Run, table: Table) -> DataFrame:
    """A staged table, read back from storage with the schema of its contract."""
    return run.spark.read.schema(stored_schema(table)).parquet(run.staged(table.name))


def check_schemas(run: Run, files: Mapping[str, Collection[str]]) -> None:
    """Raise DataQualityError unless each table has files, and they have its columns and types."""
    for table in run.tables:
        if not files[table.name]:
            raise DataQualityError(
                f"{table.name}: no row is staged, and an empty table is not published"
            )
        first = f"{run.staged(table.name)}/{min(files[table.name])}"
        check_schema(table, run.spark.read.parquet(first).schema)


def note_findings(report: Report, found: Findings, files: Mapping[str, Mapping[str, int]]) -> None:
    """Enter what the tables hold, and tell duplicates from loaded records."""
    report.plays_per_day = found.plays_per_day
    report.matched_plays = found.counts[SONGPLAYS.name, MATCHED]
    for source, table in (("song_data", SONGS), ("log_data", SONGPLAYS)):
        account, rows = report.sources[source], found.counts[table.name, ROWS]
        account["duplicate"] = account["loaded"] - rows
        account["loaded"] = rows
    for name, sizes in files.items():
        report.tables[name] = {
            "rows": found.counts[name, ROWS],
            "partitions": len(set(map(partition_of, sizes))),
            "files": len(sizes),
            "bytes": sum(sizes.values()),
        }


def warn_of_shrinkage(run: Run) -> None:
    """Warn where the lake holds much less than after the last published run."""
    previous = read_last_report(run.storage)
    rows = {table: known["rows"] for table, known in run.report.tables.items()}
    if previous and rows.keys() <= previous["tables"].keys():
        before = {table: known["rows"] for table, known in previous["tables"].items()}
        matched = run.report.matched_plays
        for warning in find_shrinkage(rows, matched, before, previous["matched_plays"]):
            run.report.warn(warning)


def find_fingerprints(found: Findings, files: Mapping[str, Collection[str]]) -> Fingerprints:
    """The fingerprint of each staged partition; those with equal date parts share one."""
    return {
        table: {
            partition: found.fingerprints[table, date_parts_in(partition)]
            for partition in set(map(partition_of, sizes))
        }
        for table, sizes in files.items()
    }


# ---- Publish -------------------------------------------------------------------------------------


def publish_tables(run: Run, fingerprints: Fingerprints, owned: Contents) -> None:
    """Commit the staged tables and swap them in; after the commit a run can only be finished."""
    with run.report.stage("commit"):
        names = [table.name for table in run.tables]
        plan = publishing.build_plan(run.storage, run.report, names, fingerprints, owned)
        publishing.commit(run.storage, run.lock, plan)
        run.report.status = "committed"
    with run.report.stage("swap") as facts:
        publishing.swap(run.storage, run.lock, plan)
        if fingerprints:
            facts.append(publishing.describe_unchanged(plan))
    report = {**asdict(run.report), "status": "published", "finished": now()}
    publishing.settle(run.storage, plan, report)
    run.report.status = "published"
    publishing.keep_latest(run.storage, run.config.keep_reports)
