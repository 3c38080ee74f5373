"""Random sequences of what happens to an input and its lake, each from a seed.

After each step of a sequence the job runs incrementally. What is published, and what is said of it,
must equal what a full run publishes from the same input into an empty folder.

    python -m tests.sequences --seeds 20    # with the real job
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import duckdb

import etl
from configs import EtlConfig
from lake import lock, parsed, paths
from lake import run as lake_run
from lake.inputs import read_state
from lake.listing import SourceError
from lake.lock import LockedError
from lake.published import read_note, read_report
from lake.report import Report
from lake.storage import Disk, StorageError
from lake.tables import TABLES
from tests import oracle
from tests.factories import TS, event, song
from tests.faults import KINDS, LEFT, Fault, FaultyStorage, Killed

DAY = 86_400_000
DAYS = (0, 1, 2, 30, 31, 61)  # of the plays, counted from TS: in three months
TITLES = [f"Song {number}" for number in range(10)]  # not all are in the catalogue
PARTITIONS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "songs": (("year",), ("year", "artist_id"), ()),
    "time": (("year", "month"), ("year",), ("year", "month", "day"), ()),
    "songplays": (("year", "month"), ("year", "month", "day"), ("month",), ()),
}
STEPS_OF_A_RUN = ("read_source", "find_matches", "stage_tables", "check_tables", "publish_tables")
Outcome = dict[str, Any]


class Job(Protocol):
    """The job, with Spark or with a model of it."""

    spark: Any

    def prepared(self) -> contextlib.AbstractContextManager[None]:
        """What has to be in place while it runs."""

    def read_tables(self, lake: Path) -> dict[str, list[Any]]:
        """All rows of all tables, in order."""

    def read_rejects(self, folder: Path) -> list[str]:
        """The rejected records, in order."""


# ---- The input -----------------------------------------------------------------------------------


@dataclass
class Input:
    """Song and log files below a folder; every change of them is random."""

    folder: Path
    chance: random.Random
    seconds: int = 0  # the clock of the files, long ago: what is written now is read once more
    items: int = 0  # events so far
    files: int = 0  # log files so far

    def songs(self) -> list[Path]:
        """The song files."""
        return oracle.find_files(self.folder / "song_data")

    def logs(self) -> list[Path]:
        """The log files."""
        return oracle.find_files(self.folder / "log_data")

    def write(self, path: Path, lines: list[str]) -> None:
        """Write a file anew, at the next moment of the files' clock."""
        content = "".join(f"{line}\n" for line in lines).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
        self.seconds += 1
        self.date(path)

    def date(self, path: Path) -> None:
        """Give a file the time of the files' clock."""
        os.utime(path, ns=(1_577_836_800_000_000_007 + self.seconds * 10**9,) * 2)

    def write_song(self, number: int, **changes: object) -> None:
        """Write the file of a song."""
        record = song(
            song_id=f"SO{number}",
            artist_id=f"AR{number % 3}",
            artist_name=f"Artist {number % 3}",
            title=TITLES[number],
            year=self.chance.choice([0, 1999, 2001]),
        )
        path = self.folder / "song_data" / "A" / f"TR{number}.json"
        self.write(path, [json.dumps({**record, **changes})])

    def event(self, day: int) -> str:
        """One line of a log: a play of a day, or now and then no play, or a bad line."""
        self.items += 1
        number = self.chance.randrange(len(TITLES))
        changes = {
            "ts": TS + day * DAY + self.chance.randrange(5) * 1000,
            "userId": str(self.chance.randrange(1, 5)),
            "level": self.chance.choice(["free", "paid"]),
            "itemInSession": self.items,
            "song": TITLES[number],
            "artist": f"Artist {number % 3}",
            "location": f"Town {self.chance.randrange(9)}",
        }
        others = [{"page": "Home"}, {"page": "Help"}, {"level": "gold"}, "no JSON"]
        other = self.chance.choice(others) if self.chance.random() < 0.2 else {}
        return other if isinstance(other, str) else json.dumps(event(**{**changes, **other}))

    def events(self, days: tuple[int, ...], most: int = 4) -> list[str]:
        """Some lines of a log."""
        count = self.chance.randint(1, most)
        return [self.event(self.chance.choice(days)) for _ in range(count)]

    def new_log(self, lines: list[str]) -> None:
        """Write a log file under a name that is new and may need care."""
        self.files += 1
        name = self.chance.choice(["day", "a day", "a%20day", "a+day", "day[1]", "{day}", "d:1"])
        ending = self.chance.choice([".json", ".json", ".json.gz"])
        folder = self.folder / "log_data" / self.chance.choice(["2018/11", "2018", "."])
        self.write(folder / f"{self.files:03}-{name}{ending}", lines)

    def begin(self) -> None:
        """The first input: a catalogue as if unpacked from an archive, and some days of logs."""
        for number in range(5):
            self.write_song(number)
        for path in self.songs():
            self.date(path)
        plain = event(ts=TS, itemInSession=0, userId="1")  # there is always a play to load
        self.new_log([json.dumps(plain)])
        for day in self.chance.sample(DAYS, 3):
            self.new_log(self.events((day,)))


def read_lines(path: Path) -> list[str]:
    """The lines of a file of the input."""
    return oracle.read_content(path).decode().splitlines()


def add_logs(world: World) -> None:
    """New log files, each of a day."""
    for _ in range(world.chance.randint(1, 3)):
        world.input.new_log(world.input.events((world.chance.choice(DAYS),)))


def append(world: World) -> None:
    """More lines at the end of the newest file."""
    path = max(world.input.logs(), key=lambda path: path.name)
    world.input.write(path, [*read_lines(path), *world.input.events((DAYS[-1],), 2)])


def correct_log(world: World) -> None:
    """Other content of as many bytes in an old file, or a line less."""
    path = world.chance.choice(world.input.logs())
    lines = read_lines(path)
    at = world.chance.randrange(len(lines))
    other = lines[at].replace('"free"', '"none"').replace('"paid"', '"free"')
    lines[at : at + 1] = [other.replace('"none"', '"paid"')] if world.chance.random() < 0.7 else []
    world.input.write(path, lines or ["no JSON"])


def delete_log(world: World) -> None:
    """A log file less."""
    if len(world.input.logs()) > 1:
        world.chance.choice(world.input.logs()).unlink()


def rename_log(world: World) -> None:
    """A log file in another folder and under another name; its time stays."""
    path = world.chance.choice(world.input.logs())
    target = world.input.folder / "log_data" / "moved" / path.name.replace("day", "renamed day")
    target.parent.mkdir(exist_ok=True)
    path.rename(target)


def deliver_twice(world: World) -> None:
    """An event once more, in another file: the same, or told differently."""
    lines = read_lines(world.chance.choice(world.input.logs()))
    again = world.chance.choice(lines).replace("Town 1", "Town 9")
    world.input.new_log([again, *world.input.events(DAYS, 1)])


def deliver_late(world: World) -> None:
    """A new file with events of all months."""
    world.input.new_log([world.input.event(day) for day in DAYS])


def change_song(world: World) -> None:
    """Other facts of a song, which plays may match no more."""
    changes = world.chance.choice(
        [
            {"year": 1984},
            {"title": "Song X"},
            {"artist_location": "Oslo"},
            {"artist_name": "Artist X"},
            {"duration": 201.6},
            {"artist_id": "AR9"},
            {"song_id": ""},
        ]
    )
    world.input.write_song(world.chance.randrange(5), **changes)


def add_songs(world: World) -> None:
    """Songs that old plays match."""
    for number in world.chance.sample(range(5, len(TITLES)), world.chance.randint(1, 2)):
        world.input.write_song(number)


def delete_song(world: World) -> None:
    """A song file less."""
    if len(world.input.songs()) > 2:
        world.chance.choice(world.input.songs()).unlink()


def swap_songs(world: World) -> None:
    """Two song files change their names: each keeps its bytes and its time."""
    one, other = world.chance.sample(world.input.songs(), 2)
    aside = one.with_suffix(".tmp")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def swap_and_delete(world: World) -> None:
    """The same, and one of the two goes after the next run."""
    swap_songs(world)
    world.run_and_compare()
    delete_song(world)


def touch(world: World) -> None:
    """A newer time, with equal content."""
    world.input.seconds += 1
    world.input.date(world.chance.choice([*world.input.songs(), *world.input.logs()]))


def hide(world: World) -> None:
    """A file that is no input."""
    (world.input.folder / "log_data" / "_notes.json").write_text("{}")


def do_nothing(world: World) -> None:
    """A run with nothing new."""


# ---- The settings, the state and what goes wrong -------------------------------------------------


def change_setting(world: World) -> None:
    """Another layout, or another limit of rows."""
    table = world.chance.choice([*PARTITIONS, ""])
    if table:
        other = world.chance.choice(PARTITIONS[table])
        world.config = replace(world.config, partitions={**world.config.partitions, table: other})
    else:
        world.config = replace(world.config, max_rows_per_file=world.chance.choice([2, 5, 1000]))
    world.may_be_full = True


def run_in_full(world: World) -> None:
    """A run with --full or with incremental = no."""
    flags = world.chance.choice([{"full": True}, {"incremental": False}])
    world.may_be_full = True
    world.run(replace(world.config, **flags))


def kill(world: World) -> None:
    """A run over a change that dies, or fails, at any change of files."""
    world.chance.choice(CHANGES)(world)
    fault = Fault(at=world.chance.randrange(1, 60), kind=world.chance.choice(KINDS))
    world.run_broken(fault)


def break_step(world: World) -> None:
    """A run over a change that fails before or after one of its steps."""
    world.chance.choice(CHANGES)(world)
    name, is_done = world.chance.choice(STEPS_OF_A_RUN), world.chance.random() < 0.5
    step = getattr(etl, name)

    def broken(*arguments: object) -> None:
        if is_done:
            step(*arguments)
        raise StorageError("injected")

    with world.job.prepared(), mock.patch.object(etl, name, broken):
        world.run_broken(Fault())


def damage(world: World) -> None:
    """A file of the state, of what is parsed, or of the tables is cut, foreign or gone."""
    pattern = world.chance.choice(
        [
            *("_etl/inputs/*.json", "_etl/published.json", "_etl/reports/*.json"),
            *("_etl/parsed/*/*/**/part*", "songplays/**/part*", "users/part*"),
        ]
    )
    files = sorted(path for path in world.lake.glob(pattern) if path.is_file())
    if not files:
        return
    path, way = world.chance.choice(files), world.chance.choice(["cut", "foreign", "gone"])
    if way == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9] if way == "cut" else b'{"mine": 1}')
    world.may_be_full = True


CHANGES: tuple[Callable[[World], None], ...] = (
    *(add_logs, append, correct_log, delete_log, rename_log, deliver_twice, deliver_late),
    *(change_song, add_songs, delete_song, swap_songs, swap_and_delete, touch, hide, do_nothing),
)
STEPS = (*CHANGES, change_setting, run_in_full, kill, kill, break_step, damage, damage)


# ---- A sequence ----------------------------------------------------------------------------------


@dataclass
class World:
    """An input, its lake and the job that makes one of the other."""

    folder: Path
    job: Job
    chance: random.Random
    steps: list[str] = field(default_factory=list)  # what has happened so far
    runs: int = 0
    may_be_full: bool = True  # whether something has happened that makes a run read all
    atomic_rename: bool = True
    reasons: list[str] = field(default_factory=list)  # why each compared run was a full one

    def __post_init__(self) -> None:
        self.input = Input(self.folder / "input", self.chance)
        self.lake = self.folder / "lake"
        self.known: object = None  # the input and the settings that `due` is of
        self.due: Outcome = {}
        self.config = EtlConfig(
            song_data=str(self.input.folder / "song_data"),
            log_data=str(self.input.folder / "log_data"),
            output=str(self.lake),
            max_rejected_percent=90,
            max_rows_per_file=1000,
            lock_minutes=10,
            keep_reports=3,
            incremental=True,
            partitions={table: choices[0] for table, choices in PARTITIONS.items()},
        )

    def run(self, config: EtlConfig, fault: Fault | None = None) -> Report:
        """One run of the job, on a store with a fault."""
        self.runs += 1
        report = Report(f"20260101T{self.runs:06}Z-000000")
        storage = FaultyStorage(
            Disk(f"file:{config.output}"),
            fault or Fault(),
            atomic_rename=self.atomic_rename,
            can_exchange=self.atomic_rename,
        )
        with (
            self.job.prepared(),
            mock.patch.object(lake_run, "open_storage", return_value=storage),
            mock.patch.multiple(lock, SETTLE_SECONDS=0, SETTLE_SECONDS_ON_S3=0),
            mock.patch.object(parsed, "MOST_FOLDERS", 3),  # a sequence is short
            mock.patch("os.fsync"),  # takes most of the time, and no power cut is tried here
        ):
            etl.run_job(self.job.spark, config, report)
        return report

    def run_broken(self, fault: Fault) -> None:
        """One run that may end anywhere; its lock lapses."""
        with contextlib.suppress(Killed, StorageError, LockedError, SourceError):
            self.run(self.config, fault)
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.lake / paths.LOCK, (time.time() - 3600,) * 2)

    def run_and_compare(self) -> None:
        """One incremental run, which must end as a full one into an empty folder."""
        found = self.find_outcome(self.config)
        run = f"{self.runs:06}Z-000000"
        for part, value in self.find_due().items():
            assert found.get(part) == value, f"{part} differ"
        if "failed" not in found:
            self.check_run(run)

    def find_due(self) -> Outcome:
        """What a full run into an empty folder publishes; it is the same for the same input."""
        files = [*self.input.songs(), *self.input.logs(), *self.input.folder.rglob("_*")]
        contents = {str(path): path.read_bytes() for path in files}
        if self.known != (contents, self.config):
            empty = self.folder / "full"
            self.due = self.find_outcome(replace(self.config, output=str(empty)))
            self.known = contents, self.config
            shutil.rmtree(empty, ignore_errors=True)
        return self.due

    def find_outcome(self, config: EtlConfig) -> Outcome:
        """What a run has published and says of it, or why it has failed."""
        lake = Path(config.output)
        try:
            run = self.run(config).run
        except SourceError as error:
            return {"failed": str(error)}
        storage = Disk(f"file:{lake}")
        report = read_report(storage, run)
        note = read_note(storage)
        assert report
        assert note
        told = ("sources", "plays_per_day", "matched_plays", "repaired_names")
        sizes = ("rows", "partitions", "files")
        return {
            "tables": self.job.read_tables(lake),
            "rejects": self.job.read_rejects(lake / paths.REJECTS / note.inputs),
            "layout": {table: sorted(parts) for table, parts in note.contents.items()},
            "sizes": {
                table: [known[size] for size in sizes] for table, known in report["tables"].items()
            },
            **{part: report[part] for part in told},
        }

    def check_run(self, run: str) -> None:
        """What must hold of the state and of how the run has come about."""
        storage = Disk(f"file:{self.lake}")
        note = read_note(storage)
        state = read_state(storage, note.inputs) if note else None
        assert note
        assert state
        assert not parsed.find_damage(storage, state.sources)
        for name in state.sources:
            folders = {f"run={run}" for run in state.source(name).folders}
            assert set(storage.folders(f"{paths.PARSED}/{name}")) == folders
        assert set(storage.files(paths.INPUTS)) == {f"{note.inputs}.json"}
        assert {path.name for path in self.lake.glob("_etl/[!.]*")} <= LEFT
        (report,) = (
            json.loads(path.read_text()) for path in self.lake.glob(f"_etl/reports/*{run}.json")
        )
        self.reasons.append(report["this_run"]["full"])
        assert self.may_be_full or not report["this_run"]["full"], report["this_run"]["full"]
        self.may_be_full = False


def run_sequence(job: Job, folder: Path, seed: int, steps: int = 0) -> World:
    """A sequence of a seed, with 3 to 8 steps; what goes wrong is told with all its steps."""
    chance = random.Random(seed)
    world = World(folder, job, chance, atomic_rename=chance.random() < 0.7)
    try:
        world.input.begin()
        world.run_and_compare()
        for _ in range(steps or chance.randint(3, 8)):
            step = chance.choice(STEPS)
            world.steps.append(step.__name__)
            step(world)
            world.run_and_compare()
    except BaseException as error:
        error.args = (f"seed {seed}, {', '.join(world.steps)}: {error}",)
        raise
    return world


# ---- With the real job ---------------------------------------------------------------------------


class RealJob:
    """The job as it is, on a session of Spark."""

    def __init__(self, spark: Any) -> None:
        self.spark = spark

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """Nothing has to be prepared."""
        yield

    def read_tables(self, lake: Path) -> dict[str, list[Any]]:
        """All rows of all tables, in order, as text."""
        return {table.name: read_rows(lake, table.name, "*") for table in TABLES}

    def read_rejects(self, folder: Path) -> list[str]:
        """The rejected records, in order."""
        files = sorted(folder.glob("*/part*.json"))
        return sorted(line for path in files for line in path.read_text().splitlines())


def read_rows(lake: Path, table: str, columns: str) -> list[tuple[str, ...]]:
    """The rows of a published table as text, in order."""
    with duckdb.connect() as database:
        database.execute("set TimeZone = 'UTC'")
        files = f"read_parquet('{lake}/{table}/**/part*.parquet', hive_partitioning = true)"
        names = f"select columns(*)::varchar from (select {columns} from {files})"
        described = database.sql(names).columns
        ordered = ", ".join(f'"{name}"' for name in sorted(described))
        return database.sql(f"select {ordered} from ({names}) order by all").fetchall()


def compare_with_oracle(world: World) -> None:
    """Raise AssertionError unless the lake holds the rows that DuckDB computes from the input."""
    due = oracle.build_tables(Path(world.config.song_data), Path(world.config.log_data))
    for table, columns in oracle.COLUMNS.items():
        names = columns.replace(", year, month", "") if table == "songplays" else columns
        kept = len(names.split(", "))
        with duckdb.connect() as database:
            database.execute("set TimeZone = 'UTC'")
            files = f"read_parquet('{world.lake}/{table}/**/part*.parquet', hive_partitioning=true)"
            moment = "replace (start_time::timestamp as start_time)" if "start_" in names else ""
            found = database.sql(f"select {names} from (select * {moment} from {files})").fetchall()
        assert sorted(map(repr, found)) == sorted(repr(row[:kept]) for row in due[table]), table


def run_real_sequence(spark: Any, folder: Path, seed: int, steps: int = 0) -> World:
    """A sequence with the real job; at its end DuckDB computes the tables as well."""
    world = run_sequence(RealJob(spark), folder, seed, steps)
    compare_with_oracle(world)
    return world


def main() -> None:
    """Run sequences with the real job, one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60, help="begin no sequence after these")
    arguments = parser.parse_args()
    os.environ["TZ"] = "UTC"
    time.tzset()
    spark = start_spark()
    end = time.monotonic() + arguments.minutes * 60
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        if time.monotonic() > end:
            print(f"{arguments.minutes:g} minutes are over before seed {seed}", flush=True)
            break
        start = time.monotonic()
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.redirect_stderr(io.StringIO()),
        ):
            world = run_real_sequence(spark, Path(folder), seed)
        seconds = time.monotonic() - start
        print(f"seed {seed}: {seconds:.0f} s, {', '.join(world.steps)}", flush=True)


def start_spark() -> Any:
    """A session for small data."""
    from pyspark.sql import SparkSession

    settings = {
        "spark.ui.enabled": False,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": 2,
        "spark.sql.codegen.wholeStage": False,
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    }
    spark = SparkSession.builder.master("local[2]").config(map=settings).getOrCreate()
    spark.sparkContext.setLogLevel("OFF")
    return spark


if __name__ == "__main__":
    main()
