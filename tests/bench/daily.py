"""Time runs with little to do beside a full run: python tests/bench/daily.py --scale medium.

In one round, on generated data of half a year, of which the last day is held back:
  session          an empty Spark session
  full             all but the last day, into an empty folder
  one more day     the last day has come
  corrected file   a file in the middle of the log has lost a line
  ten songs        ten songs are new that plays match, so that all months are matched again
  nothing new      nothing has changed
What counts is the share of the CPU seconds of the full run. At the end the tables equal those of a
full run over the same input, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import bench
import compare
import measure

DAYS = 180
FOLDER = bench.CACHE / "daily"
EMPTY_SESSION = "from lake.spark import create_session; create_session()"


def main() -> int:
    """Print the medians of all rounds; 1 if the tables differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=bench.SCALES, default="small")
    parser.add_argument("--runs", type=int, default=1, help="rounds (default: 1)")
    given = parser.parse_args()
    scale = dataclasses.replace(bench.SCALES[given.scale], days=DAYS)
    data = bench.generate(f"{given.scale}-{DAYS}-days", scale)
    rounds = [run_round(data) for _ in range(given.runs)]
    for name in rounds[0]:
        costs = [costs_of[name] for costs_of in rounds]
        cpu = statistics.median(cost.cpu_seconds for cost in costs)
        share = statistics.median(
            costs_of[name].cpu_seconds / costs_of["full"].cpu_seconds for costs_of in rounds
        )
        wall = statistics.median(cost.seconds for cost in costs)
        print(f"{name:<15} {wall:7.1f} s {cpu:8.1f} CPU s {share:6.2f} of a full run")
    print(describe_space())
    run_job(FOLDER / "again")
    differences = compare.differences(FOLDER / "lake", FOLDER / "again")
    print("\n".join(differences) or "the tables equal those of a full run")
    return 1 if differences else 0


def run_round(data: Path) -> dict[str, measure.Cost]:
    """What each run costs, one after the other on one lake."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    shutil.copytree(data, FOLDER / "in")
    logs = sorted((FOLDER / "in" / "log_data").rglob("*.json"))
    held_back = logs[-1].rename(FOLDER / "held-back.json")
    steps: dict[str, Callable[[], object]] = {
        "full": lambda: None,
        "one more day": lambda: held_back.rename(logs[-1]),
        "corrected file": lambda: drop_last_line(logs[len(logs) // 2]),
        "ten songs": add_songs,
        "nothing new": lambda: None,
    }
    command = [sys.executable, "-c", EMPTY_SESSION]
    costs = {"session": measure.run(command, bench.PROJECT, FOLDER / "session.log")}
    for name, prepare in steps.items():
        prepare()
        costs[name] = run_job(FOLDER / "lake")
        print(f"{name}: {costs[name].seconds:.1f} s", file=sys.stderr)
    return costs


def run_job(lake: Path) -> measure.Cost:
    """What one run of the job costs."""
    sources = [f"--song-data={FOLDER}/in/song_data", f"--log-data={FOLDER}/in/log_data"]
    command = [sys.executable, "etl.py", *sources, f"--output={lake}"]
    return measure.run(command, bench.PROJECT, FOLDER / "run.log")


def drop_last_line(file: Path) -> None:
    """Correct a file of the log."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:-1]), encoding="utf-8")


def add_songs() -> None:
    """Ten songs like others, with lower ids: they take the plays of these."""
    songs = FOLDER / "in" / "song_data"
    for number, file in enumerate(sorted(songs.rglob("*.json"))[:10]):
        record = json.loads(file.read_text(encoding="utf-8"))
        record["song_id"] = f"A{record['song_id']}"
        (songs / f"new-{number}.json").write_text(json.dumps(record), encoding="utf-8")


def describe_space() -> str:
    """What the job keeps for itself, as shares of the input and of the tables."""
    own, lake, given = (
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        for folder in (FOLDER / "lake" / "_etl", FOLDER / "lake", FOLDER / "in")
    )
    of_tables = own / (lake - own)
    return f"_etl holds {own / given:.1%} of the input's bytes, {of_tables:.0%} of the tables'"


if __name__ == "__main__":
    sys.exit(main())
