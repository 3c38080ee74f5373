"""What the steps of one run share, and how a run begins and ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from py4j.protocol import Py4JError

from lake import publishing
from lake.lock import Lock
from lake.paths import REPORTS, staged_path
from lake.report import Report, now, tell
from lake.spark import cancel_jobs, one_line
from lake.storage import Storage, StorageError, open_storage
from lake.tables import Table, partitioned_tables

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from configs import EtlConfig


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
