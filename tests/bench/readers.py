"""Count what readers meet while a table is swapped: python tests/bench/readers.py.

A table of twelve partitions is replaced again and again by the project's own code, each time with
rows of the next version. DuckDB and pyarrow read it in a loop, each in a process of its own, and
note whether they met one version, two, a missing partition or an error.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest import mock

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

import duckdb  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.dataset  # noqa: E402
import pyarrow.parquet  # noqa: E402

from lake import publishing  # noqa: E402
from lake.storage import Disk  # noqa: E402

PARTITIONS = [f"year=2018/month={month}" for month in range(1, 13)]
ROWS = 100  # of a partition
WAYS = ("exchange of names", "two renames")


def main() -> None:
    """Print how often each reader met what, for each way to swap and number of partitions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=200)
    given = parser.parse_args()
    for way in WAYS:
        for replaced in (1, len(PARTITIONS)):
            with tempfile.TemporaryDirectory() as folder:
                found = measure(Path(folder), way, replaced, given.swaps)
            for reader, (met, seconds) in found.items():
                counted = ", ".join(f"{what} {n:,}" for what, n in sorted(met.items()))
                took = f"{replaced} partitions, {seconds * 1000:.1f} ms a swap"
                print(f"{way}, {took}: {reader}: {counted}", flush=True)


def measure(folder: Path, way: str, replaced: int, swaps: int) -> dict[str, tuple[Counter, float]]:
    """What each reader met, and the seconds that one swap took."""
    storage = Disk(f"file:{folder}")
    for partition in PARTITIONS:
        write(folder / "songplays" / partition, 0)
    stop, readers = multiprocessing.Event(), {}
    for reader in (read_by_duckdb, read_by_pyarrow):
        answers = multiprocessing.SimpleQueue()
        process = multiprocessing.Process(
            target=read_until, args=(reader, folder, stop, answers), daemon=True
        )
        process.start()
        readers[reader.__name__.removeprefix("read_by_")] = process, answers
    time.sleep(1)
    taken = sum(swap(storage, folder, way, replaced, version + 1) for version in range(swaps))
    stop.set()
    found = {}
    for name, (process, answers) in readers.items():
        found[name] = answers.get(), taken / swaps
        process.join()
    return found


def write(folder: Path, version: int) -> None:
    """A partition of one file, all of one version."""
    folder.mkdir(parents=True)
    table = pa.table({"version": pa.array([version] * ROWS, pa.int32())})
    pyarrow.parquet.write_table(table, folder / f"part-{version}.parquet")


def swap(storage: Disk, folder: Path, way: str, replaced: int, version: int) -> float:
    """Replace some partitions as a run does; returns the seconds that the swap took."""
    run = f"20260101T{version:06}Z-000000"
    names = [PARTITIONS[(version + n) % len(PARTITIONS)] for n in range(replaced)]
    for partition in names:
        write(folder / "_etl" / run / "songplays" / partition, version)
    plan = publishing.TablePlan("songplays", {n: [f"part-{version}.parquet"] for n in names}, ())
    started = time.perf_counter()
    with mock.patch.object(Disk, "exchange", Disk.exchange if way == WAYS[0] else never):
        publishing.swap_table(storage, mock.Mock(unsafe=True), run, plan)
    taken = time.perf_counter() - started
    shutil.rmtree(folder / "_etl" / run)
    return taken


def never(*_: object) -> bool:
    """Stands for a kernel that cannot exchange two names."""
    return False


def read_until(reader, folder: Path, stop, answers) -> None:
    """Read the table in a loop, and at the end say what was met how often."""
    met: Counter = Counter()
    while not stop.is_set():
        try:
            versions = reader(folder / "songplays")
        except Exception:  # noqa: BLE001 (whatever a reader raises is what its user meets)
            met["error"] += 1
            continue
        missing = sum(versions.values()) < ROWS * len(PARTITIONS)
        met["a partition missing" if missing else "whole"] += 1
    answers.put(met)


def read_by_duckdb(table: Path) -> dict[int, int]:
    """The rows of each version."""
    query = f"select version, count(*) from read_parquet('{table}/**/*.parquet') group by 1"
    return dict(duckdb.sql(query).fetchall())


def read_by_pyarrow(table: Path) -> dict[int, int]:
    """The rows of each version."""
    counts = pyarrow.dataset.dataset(table, partitioning="hive").to_table().column("version")
    return {row["values"]: row["counts"] for row in counts.value_counts().to_pylist()}


if __name__ == "__main__":
    main()
