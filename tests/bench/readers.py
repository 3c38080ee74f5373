"""Count what readers meet while a table is swapped: python tests/bench/readers.py.

A table of twelve partitions is replaced again and again by the project's own code, each time with
rows of the next version. DuckDB, pyarrow and Spark read it, one after another, in a loop in a
process of its own, and note whether they met all partitions, a missing one or an error. Spark takes
so long for a read that swaps without a pause would spoil each: give it `--pause 0.5`.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

import duckdb  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.dataset  # noqa: E402
import pyarrow.parquet  # noqa: E402
from pyspark.sql import SparkSession  # noqa: E402

from lake import publishing  # noqa: E402
from lake.storage import Disk  # noqa: E402

PARTITIONS = [f"year=2018/month={month}" for month in range(1, 13)]
ROWS = 100  # of a partition
WAYS = ("exchange of names", "two renames")


def main() -> None:
    """Print how often each reader met what, for each way to swap and number of partitions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=200, help="at least so many")
    parser.add_argument("--reads", type=int, default=400, help="at least so many")
    parser.add_argument("--pause", type=float, default=0, help="seconds between swaps, on average")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS))
    given = parser.parse_args()
    for way, replaced, reader in itertools.product(WAYS, (1, len(PARTITIONS)), given.readers):
        with tempfile.TemporaryDirectory() as folder:
            table = Table(Path(folder), way, replaced)
            met, swaps = measure(table, READERS[reader], given)
        counted = ", ".join(f"{what} {n:,}" for what, n in sorted(met.items()))
        took = f"{replaced} partitions, {table.seconds / swaps * 1000:.1f} ms a swap"
        print(f"{way}, {took}, {swaps:,} swaps: {reader}: {counted}", flush=True)


class Table:
    """A table that is swapped, and the seconds that this has taken."""

    def __init__(self, folder: Path, way: str, replaced: int) -> None:
        self.folder, self.way, self.replaced = folder, way, replaced
        self.storage = Disk(f"file:{folder}")
        self.seconds = 0.0
        for partition in PARTITIONS:
            write(folder / "songplays" / partition, 0)

    def swap(self, version: int) -> None:
        """Replace some partitions as a run does."""
        run = f"20260101T{version:06}Z-000000"
        names = [PARTITIONS[(version + n) % len(PARTITIONS)] for n in range(self.replaced)]
        for partition in names:
            write(self.folder / "_etl" / run / "songplays" / partition, version)
        put = {name: [f"part-{version}.parquet"] for name in names}
        plan = publishing.TablePlan("songplays", put, ())
        started = time.perf_counter()
        exchange = Disk.exchange if self.way == WAYS[0] else never
        with mock.patch.object(Disk, "exchange", exchange):
            publishing.swap_table(self.storage, mock.Mock(unsafe=True), run, plan)
        self.seconds += time.perf_counter() - started
        shutil.rmtree(self.folder / "_etl" / run)


def measure(
    table: Table, reader: Callable[[Path], int], given: argparse.Namespace
) -> tuple[Counter[str], int]:
    """What a reader met, and how many swaps were made while it read."""
    stop, done = multiprocessing.Event(), multiprocessing.Value("i", 0)
    answers = multiprocessing.SimpleQueue()
    process = multiprocessing.Process(
        target=read_until, args=(reader, table.folder, stop, done, answers), daemon=True
    )
    process.start()
    while not done.value:  # it has started when it has read once
        time.sleep(0.1)
    version = 0
    while version < given.swaps or done.value < given.reads:
        version += 1
        time.sleep(random.uniform(0, 2 * given.pause))
        table.swap(version)
    stop.set()
    met = answers.get()
    process.join()
    return met, version


def write(folder: Path, version: int) -> None:
    """A partition of one file, all of one version."""
    folder.mkdir(parents=True)
    table = pa.table({"version": pa.array([version] * ROWS, pa.int32())})
    pyarrow.parquet.write_table(table, folder / f"part-{version}.parquet")


def never(*_: object) -> bool:
    """Stands for a kernel that cannot exchange two names."""
    return False


def read_until(reader, folder: Path, stop, done, answers) -> None:
    """Read the table in a loop, and at the end say what was met how often."""
    met: Counter = Counter()
    while not stop.is_set():
        try:
            missing = reader(folder / "songplays") < ROWS * len(PARTITIONS)
            met["a partition missing" if missing else "whole"] += 1
        except Exception:  # noqa: BLE001 (whatever a reader raises is what its user meets)
            met["error"] += 1
        done.value += 1
    answers.put(met)


def read_by_duckdb(table: Path) -> int:
    """How many rows it finds."""
    query = f"select version, count(*) from read_parquet('{table}/**/*.parquet') group by 1"
    return sum(rows for _, rows in duckdb.sql(query).fetchall())


def read_by_pyarrow(table: Path) -> int:
    """How many rows it finds."""
    return pyarrow.dataset.dataset(table, partitioning="hive").to_table().num_rows


def read_by_spark(table: Path) -> int:
    """How many rows it finds, in one session that lists the table anew for each read."""
    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", False)
    spark = builder.config("spark.ui.showConsoleProgress", False).getOrCreate()
    spark.sparkContext.setLogLevel("OFF")
    spark.catalog.refreshByPath(str(table))
    counts = spark.read.parquet(str(table)).groupBy("version").count().collect()
    return sum(row["count"] for row in counts)


READERS = {"duckdb": read_by_duckdb, "pyarrow": read_by_pyarrow, "spark": read_by_spark}

if __name__ == "__main__":
    main()
