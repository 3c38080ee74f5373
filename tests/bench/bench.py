"""Time the job against others on generated data: python tests/bench/bench.py --scale medium.

Contenders take turns, each as a whole process from its start to its end:
  floor    a Spark session that parses both sources and drops the rows
  session  an empty Spark session with one read (the log) and one write
  etl      this job
  duckdb   the same tables by the same rules in DuckDB
  naive    a Spark job as it is most often written (not at large: it takes too long)
The last three run once for each layout of songs. Ours and DuckDB's tables have to be equal, row by
row, or the benchmark fails. Results are kept as JSON in bench-results/, and drawn as PNG there if
matplotlib is installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import charts
import compare
import measure

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
CACHE = PROJECT / ".cache" / "bench"
RESULTS = PROJECT / "bench-results"
BY_YEAR, BY_ARTIST = "year", "year,artist_id"
Record = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How much data to generate, and whether the naive job is worth waiting for."""

    songs: int
    events: int
    naive: bool = True
    days: int = 30  # of the log


SCALES = {
    "sample": Scale(96, 6_000),  # about what data/ holds
    "small": Scale(3_000, 300_000),
    "medium": Scale(15_000, 3_000_000),
    "large": Scale(15_000, 10_000_000, naive=False),
}


@dataclass(frozen=True)
class Contender:
    """A program and the layout of songs that it writes; no layout if it writes no songs."""

    program: str
    layout: str = ""

    @property
    def name(self) -> str:
        """The name in tables and results."""
        return f"{self.program} ({self.layout})" if self.layout else self.program


CONTENDERS = (
    Contender("floor"),
    Contender("session"),
    *(
        Contender(program, layout)
        for layout in (BY_YEAR, BY_ARTIST)
        for program in ("etl", "duckdb", "naive")
    ),
)


def main() -> int:
    """Run the benchmark; 1 if a contender fails or the tables differ, 2 if it cannot run here."""
    arguments = parse_arguments()
    if sys.platform != "linux":
        print("bench.py: error: it measures by /proc; run it on Linux", file=sys.stderr)
        return 2
    scale = SCALES[arguments.scale]
    contenders = [
        contender
        for contender in CONTENDERS
        if contender.program in arguments.only and (scale.naive or contender.program != "naive")
    ]
    data = generate(arguments.scale, scale)
    try:
        runs = list(run_all(contenders, arguments.runs, data))
    except measure.CommandError as error:
        print(f"bench.py: error: {error}", file=sys.stderr)
        return 1
    differences = list(compare_layouts(contenders))
    result = {
        "scale": arguments.scale,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "input": dataclasses.asdict(scale),
        "machine": describe_machine(),
        "medians": {contender.name: medians(runs, contender) for contender in contenders},
        "differences": differences,
        "runs": runs,
    }
    report(result, arguments.results)
    return 1 if differences else 0


def parse_arguments() -> argparse.Namespace:
    """The command line; --only takes programs, so that tuning need not wait for all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    programs = list(dict.fromkeys(contender.program for contender in CONTENDERS))
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--runs", type=int, default=3, help="of each contender (default: 3)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to keep results in")
    parser.add_argument("--only", nargs="+", choices=programs, default=programs)
    return parser.parse_args()


def generate(name: str, scale: Scale) -> Path:
    """The folder with the data of a scale, generated unless the same command has made it before."""
    folder, mark = CACHE / name, CACHE / f"{name}.json"
    generator = PROJECT / "data" / "generate.py"
    # A gzipped day can't be split among cores, and the naive job's globs don't find it.
    options = ["--songs", f"{scale.songs}", "--events", f"{scale.events}", "--no-gzip"]
    options += ["--days", f"{scale.days}"]
    sources = sorted([*generator.parent.glob("*.py"), *generator.parent.glob("*.json")])
    made_by = json.dumps([options, *(path.read_text(encoding="utf-8") for path in sources)])
    if not (mark.is_file() and mark.read_text(encoding="utf-8") == made_by):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [sys.executable, str(generator), *options, "--output", str(folder)]
        subprocess.run(command, check=True)
        mark.write_text(made_by, encoding="utf-8")
    return folder


def run_all(contenders: Sequence[Contender], rounds: int, data: Path) -> Iterator[Record]:
    """Every run's figures, the contenders taking turns so that a slow spell hits all alike."""
    for nth in range(1, rounds + 1):
        for contender in contenders:
            record = run_once(contender, data)
            print(f"round {nth}: {contender.name}: {record['seconds']:.1f} s", file=sys.stderr)
            yield {"contender": contender.name, "round": nth, **record}


def run_once(contender: Contender, data: Path) -> Record:
    """One contender's figures, writing where nothing stands yet."""
    output = output_of(contender)
    shutil.rmtree(output, ignore_errors=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    cost = measure.run(command_of(contender, data), PROJECT, output.with_suffix(".log"))
    written = [path for path in output.rglob("*.parquet") if "_etl" not in path.parts]
    return {
        **dataclasses.asdict(cost),
        "files": len(written),
        "bytes": sum(path.stat().st_size for path in written),
        "stages": stages_of(output),
    }


def command_of(contender: Contender, data: Path) -> list[str]:
    """The command line of a contender."""
    songs = ["--song-data", str(data / "song_data")]
    log = ["--log-data", str(data / "log_data")]
    output = ["--output", str(output_of(contender))]
    layout = ["--partition-songs", contender.layout]
    script, arguments = {
        "floor": (HERE / "floor.py", [*songs, *log]),
        "session": (HERE / "floor.py", [*log, *output]),
        "etl": (PROJECT / "etl.py", [*songs, *log, *output, *layout]),
        "duckdb": (HERE.parent / "oracle.py", [*songs, *log, *output, *layout]),
        "naive": (HERE / "naive.py", [*songs, *log, *output, *layout]),
    }[contender.program]
    return [sys.executable, str(script), *arguments]


def output_of(contender: Contender) -> Path:
    """Where a contender writes."""
    return CACHE / "output" / f"{contender.program}-{contender.layout.replace(',', '-')}"


def stages_of(output: Path) -> dict[str, float]:
    """Seconds per stage from the job's own report; other contenders have none."""
    reports = list((output / "_etl" / "reports").glob("*.json"))
    return json.loads(reports[0].read_text(encoding="utf-8"))["seconds"] if reports else {}


def medians(runs: Sequence[Record], contender: Contender) -> Record:
    """The median of each figure over a contender's runs."""
    own = [run for run in runs if run["contender"] == contender.name]
    figures = ("seconds", "cpu_seconds", "peak_bytes", "files", "bytes")
    return {
        **{figure: statistics.median(run[figure] for run in own) for figure in figures},
        "stages": {
            stage: statistics.median(run["stages"][stage] for run in own)
            for stage in own[0]["stages"]
        },
    }


def compare_layouts(contenders: Sequence[Contender]) -> Iterator[str]:
    """What differs between our last tables and DuckDB's, in each layout that both have written."""
    for layout in (BY_YEAR, BY_ARTIST):
        ours, theirs = Contender("etl", layout), Contender("duckdb", layout)
        if ours in contenders and theirs in contenders:
            yield from compare.differences(output_of(ours), output_of(theirs))
            repeated = compare.repeated_ids(output_of(ours))
            if repeated:
                yield f"songplays ({layout}): {repeated} songplay_ids are not unique"


def describe_machine() -> Record:
    """What the figures depend on besides the code."""
    commit = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty"]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "pyspark": version("pyspark"),
        "duckdb": version("duckdb"),
        "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(),
    }


def report(result: Record, folder: Path) -> None:
    """Keep the result as JSON, print it, and draw it together with the last of other scales."""
    folder.mkdir(parents=True, exist_ok=True)
    moment = result["started"].replace(":", "").replace("+0000", "Z")
    path = folder / f"{moment}-{result['scale']}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(charts.table(result))
    print(charts.bars(result))
    print(charts.stages(result))
    for sentence in result["differences"]:
        print(f"bench.py: error: {sentence}", file=sys.stderr)
    pictures = charts.draw(latest_results(folder), folder)
    print("\n".join(map(str, [path, *pictures])))


def latest_results(folder: Path) -> list[Record]:
    """The newest result of each scale, from the smallest to the largest."""
    newest = {}
    for path in sorted(folder.glob("*.json")):  # names begin with the time
        result = json.loads(path.read_text(encoding="utf-8"))
        newest[result["scale"]] = result
    return [newest[name] for name in SCALES if name in newest]


if __name__ == "__main__":
    sys.exit(main())
