"""A model of the job for sequences: rows are dicts, and what Spark would do is plain Python.

Files are told apart, days touched, folders compacted, partitions chosen, planned and swapped by the
project's own code. Only lines are parsed, tables built and staged, and rows checked here.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import etl
from lake import listing, parsed, rebuild, report, steps
from lake import run as lake_run
from lake.accounting import FileFacts, Outcome, add_up
from lake.checks import (
    KEYS_HASH,
    MATCHED,
    ROWS,
    SOURCE_KEYS,
    SOURCE_KEYS_HASH,
    Findings,
    list_references,
)
from lake.lines import FILTERED, LOADED, LOG_RECORD, SONG_RECORD
from lake.parsed import MONTH, RUN
from lake.paths import is_hidden
from lake.storage import Disk
from lake.tables import DATE_PARTS, SONGPLAYS, TABLES, Table
from tests import oracle
from tests.factories import utc

NUMBERS = itertools.count()  # of the files that are written


class Column:
    """As much of a column of Spark as the project's own code asks of it here."""

    __hash__ = None

    def __init__(self, value: Callable[[dict], Any]) -> None:
        self.value = value

    def isin(self, wanted: Iterable[Any]) -> Column:
        """Whether the value is one of some."""
        known = set(wanted)
        return Column(lambda row: self.value(row) in known)

    def __ne__(self, other: object) -> Column:
        return Column(lambda row: self.value(row) != other)

    def __or__(self, other: Column) -> Column:
        return Column(lambda row: self.value(row) or other.value(row))

    def __invert__(self) -> Column:
        return Column(lambda row: not self.value(row))


FUNCTIONS = SimpleNamespace(
    col=lambda name: Column(itemgetter(name)),
    expr=lambda _: Column(itemgetter("file")),  # only the file of a record is asked for as SQL
    date_format=lambda name, _: Column(lambda row: row[name] and row[name][:10]),
)


class Records(list):
    """As much of a DataFrame as the project's own code asks of it here: a list of dicts."""

    columns = ()

    def filter(self, condition: Column) -> Records:
        """The rows for which a condition holds."""
        return Records(row for row in self if condition.value(row))

    def select(self, *names: str) -> Records:
        """Some columns."""
        return Records({name: row[name] for name in names} for row in self)

    def distinct(self) -> Records:
        """The rows without repetitions."""
        return Records(row for at, row in enumerate(self) if row not in self[:at])

    def drop(self, name: str) -> Records:
        """All columns but one."""
        return Records({key: row[key] for key in row if key != name} for row in self)

    def coalesce(self, _: int) -> Records:
        """The same rows."""
        return self

    def selectExpr(self, *_: str) -> Records:  # noqa: N802 (Spark's name)
        """The same rows."""
        return self

    def first(self) -> tuple[int, str]:
        """How many rows there are, and a hash of them."""
        return len(self), hash_of(sorted(map(json.dumps, self)))

    @property
    def write(self) -> SimpleNamespace:
        """A writer of JSON."""
        return SimpleNamespace(json=lambda path: write_rows(Path(path.removeprefix("file:")), self))


def hash_of(value: Any) -> int:
    """A hash that is the same in every process."""
    return int.from_bytes(hashlib.sha256(json.dumps(value).encode()).digest()[:8], "big")


def write_rows(folder: Path, rows: Iterable[dict]) -> None:
    """Write rows to a new file."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / f"part-{next(NUMBERS):08}.parquet").write_text(text)


def read_rows(folder: Path) -> Records:
    """The rows of all visible files below a folder, with the values that folders stand for."""
    found = Records()
    for path in sorted(folder.rglob("*.parquet")):
        below = path.relative_to(folder)
        if not is_hidden(below.as_posix()):
            values = dict(part.split("=", 1) for part in below.parts[:-1])
            typed = {key: int(at) if at.isdigit() else at for key, at in values.items()}
            found += [{**json.loads(line), **typed} for line in path.read_text().splitlines()]
    return found


class Session:
    """As much of a session as the project's own code asks of it here."""

    _jvm = None

    def __init__(self) -> None:
        self.read = self

    def schema(self, _: str) -> Session:
        """Itself: a model has no types."""
        return self

    def option(self, *_: str) -> Session:
        """Itself."""
        return self

    def parquet(self, *paths: str) -> Records:
        """The rows in some folders; those of a parsed folder with the run that it is of."""
        found = Records()
        for path in paths:
            folder = Path(path.removeprefix("file:"))
            run = {RUN: folder.name[4:]} if folder.name.startswith("run=") else {}
            found += [{**row, **run} for row in read_rows(folder)]
        return found

    def range(self, _: int) -> Records:
        """No rows."""
        return Records()


# ---- The sources ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelSource:
    """A source whose files are parsed line by line."""

    name: str
    record: str
    parse: Callable[[dict], dict]

    def read(self, _: object, __: object, files: Iterable[str]) -> Records:
        """One row per line of some files."""
        return Records(
            {"file": file, "line": line}
            for file in sorted(files)
            for line in oracle.read_content(Path(file.removeprefix("file:"))).decode().splitlines()
        )

    def build(self, lines: Records) -> Records:
        """One record per line."""
        return Records({**blank_record(row), **self.judge(row)} for row in lines)

    def judge(self, row: dict) -> dict:
        """What becomes of a line."""
        try:
            return self.parse(json.loads(row["line"]))
        except ValueError:
            return {"outcome": "not_json", "line": row["line"]}


def blank_record(row: dict) -> dict:
    """A record of a file without anything that a line tells."""
    return {"file": row["file"], "detail": None, "line": None, MONTH: None, "start_time": None}


def parse_song(told: dict) -> dict:
    """A song record."""
    if not told["song_id"]:
        return {"outcome": "blank_song_id", "detail": "song_id", "line": json.dumps(told)}
    return {**told, "outcome": LOADED}


def parse_event(told: dict) -> dict:
    """An event."""
    if told["page"] != "NextSong":
        return {"outcome": FILTERED, "detail": told["page"]}
    if told["level"] not in ("free", "paid"):
        return {"outcome": "wrong_value", "detail": "level", "line": json.dumps(told)}
    start_time = str(utc(told["ts"]))
    played = {"start_time": start_time, MONTH: int(start_time[:4] + start_time[5:7])}
    key = [told[name] for name in ("ts", "userId", "sessionId", "itemInSession")]
    ids = {"songplay_id": hash_of(key), "user_id": told["userId"], "key": key}
    kept = {name: told[name] for name in ("level", "song", "artist", "length", "location")}
    return {**played, **ids, **kept, "outcome": LOADED}


SOURCES = (
    ModelSource("song_data", SONG_RECORD, parse_song),
    ModelSource("log_data", LOG_RECORD, parse_event),
)


def write_parsed(records: Records, path: str) -> None:
    """Add records to a folder, by month."""
    for month in sorted({row[MONTH] or 0 for row in records}):
        folder = Path(path.removeprefix("file:"), f"{MONTH}={month}" if month else "")
        write_rows(folder, (row for row in records if (row[MONTH] or 0) == month))


def read_file_facts(records: Records) -> dict[str, FileFacts]:
    """The facts of each file that has a record."""
    facts: dict[str, FileFacts] = {}
    for row in records:
        known = facts.setdefault(row["file"], FileFacts([], {}))
        known.outcomes.append(Outcome(row["outcome"], row["detail"], 1, 0, 0))
        if row["start_time"]:
            day = row["start_time"][:10]
            known.days[day] = known.days.get(day, 0) + 1
    return {file: known._replace(outcomes=add_up(known.outcomes)) for file, known in facts.items()}


def loaded(records: Records) -> Records:
    """The records to load."""
    return Records(row for row in records if row["outcome"] == LOADED)


def rejected(records: Records) -> Records:
    """The rejected records."""
    kept = Records(row for row in records if row["outcome"] not in (LOADED, FILTERED))
    return kept.select("file", "outcome", "detail", "line")


# ---- The tables ----------------------------------------------------------------------------------


def first_per_key(rows: Iterable[dict], key: tuple[str, ...], order: Callable) -> list[dict]:
    """The first row of each key."""
    found: dict[str, dict] = {}
    for row in sorted(rows, key=lambda row: (order(row), json.dumps(row, sort_keys=True))):
        found.setdefault(json.dumps([row[name] for name in key]), row)
    return list(found.values())


def build_matches(song_data: Records) -> Records:
    """The songs that plays are matched with."""
    songs = first_per_key(loaded(song_data), ("song_id",), itemgetter("title"))
    songs = first_per_key(songs, ("title", "artist_name", "duration"), itemgetter("song_id"))
    return Records(songs).select("title", "artist_name", "duration", "song_id", "artist_id")


def build_tables(song_data: Records, log_data: Records, lay_out: Callable) -> dict[str, Records]:
    """All five tables."""
    by = {
        (row["title"], row["artist_name"], row["duration"]): row for row in build_matches(song_data)
    }
    songs, plays = loaded(song_data), loaded(log_data)
    names = Counter((row["artist_id"], row["artist_name"]) for row in songs)
    matched = Records(
        {**play, **{name: (match or {}).get(name) for name in ("song_id", "artist_id")}}
        for play in plays
        for match in [by.get((play["song"], play["artist"], play["length"]))]
    )
    tables = {
        "songs": first_per_key(songs, ("song_id",), itemgetter("title")),
        "artists": first_per_key(
            songs,
            ("artist_id",),
            lambda row: (-names[row["artist_id"], row["artist_name"]], row["artist_location"]),
        ),
        "users": first_per_key(plays, ("user_id",), lambda row: [-part for part in order_of(row)]),
        "time": first_per_key(lay_out(TIME, plays), ("start_time",), itemgetter("start_time")),
        "songplays": first_per_key(
            lay_out(SONGPLAYS, matched), ("songplay_id",), itemgetter("level")
        ),
    }
    return {name: Records(map(published_columns(name), rows)) for name, rows in tables.items()}


def order_of(play: dict) -> tuple[int, ...]:
    """What tells which of two plays of a user is the later one."""
    ts, _, session, item = play["key"]
    return ts, session, item


TIME = etl.TIME
COLUMNS = {
    "songs": ("song_id", "title", "artist_id", "year", "duration"),
    "artists": ("artist_id", "artist_name", "artist_location"),
    "users": ("user_id", "level"),
    "time": ("start_time",),
    "songplays": ("songplay_id", "start_time", "user_id", "level", "song_id", "artist_id"),
}


def published_columns(table: str) -> Callable[[dict], dict]:
    """A function that leaves of a row what is published."""
    return lambda row: {name: row[name] for name in COLUMNS[table]}


def stage_table(rows: Records, table: Table, path: str, limit: int) -> None:
    """Write rows to a fresh folder, by partition, in files of so many rows."""
    units: dict[str, list[dict]] = {}
    for row in sorted(rows, key=lambda row: [row[name] for name in table.identity]):
        units.setdefault(unit_of(row, table), []).append(row)
    for unit, of_unit in units.items():
        for start in range(0, len(of_unit), limit):
            folder = Path(path.removeprefix("file:"), unit)
            write_rows(folder, of_unit[start : start + limit])


def unit_of(row: dict, table: Table) -> str:
    """The folder of a row."""
    date = dict(zip(DATE_PARTS, map(int, row.get("start_time", "0-0-0")[:10].split("-"))))
    values = {**date, **row}
    return "/".join(f"{name}={values[name]}" for name in table.partition_by)


def read_findings(tables: list[Table], frames: dict[str, Records], sources: dict) -> Findings:
    """The counts of what is staged, and of what must be there."""
    counts: dict[tuple[str, str], int] = {}
    per_day: dict[str, dict[str, int]] = {}
    for table in tables:
        rows, due = frames[table.name], {hash_of(row) for row in sources[table.name]}
        keys = [hash_of({name: row[name] for name in table.identity}) for row in rows]
        counts[table.name, ROWS], counts[table.name, SOURCE_KEYS] = len(keys), len(due)
        counts[table.name, KEYS_HASH] = hash_of(sorted(keys))
        counts[table.name, SOURCE_KEYS_HASH] = hash_of(sorted(due))
        for rule, (column, parent, parent_column) in list_references(table).items():
            parents = {row[parent_column] for row in frames[parent]} | {None}
            counts[table.name, rule] = sum(row[column] not in parents for row in rows)
        for row in rows if "start_time" in table.columns else ():
            add(per_day, table.name, row, 1)
            if table.name == SONGPLAYS.name:
                add(per_day, MATCHED, row, int(row["song_id"] is not None))
    return Findings(counts, per_day)


def add(per_day: dict[str, dict[str, int]], measure: str, row: dict, count: int) -> None:
    """Count a row on its day."""
    days = per_day.setdefault(measure, {})
    days[row["start_time"][:10]] = days.get(row["start_time"][:10], 0) + count


# ---- The job -------------------------------------------------------------------------------------


class ModelJob:
    """etl.run_job with all that needs Spark replaced."""

    def __init__(self) -> None:
        self.spark = Session()

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """Replace what needs Spark."""
        of_etl = {
            **{"SOURCES": SOURCES, "loaded": loaded, "build_plays": loaded},
            **{"build_tables": build_tables, "build_matches": build_matches},
            **{"set_what_results_depend_on": mock.Mock(), "find_rules": lambda _: "rules"},
        }
        of_steps = {
            **{"write_parsed": write_parsed, "read_file_facts": read_file_facts},
            **{"rejected": rejected, "stage_table": stage_table, "read_findings": read_findings},
            **{"check_schemas": mock.Mock(), "lay_out": lambda rows, *_: rows},
        }
        with (
            mock.patch.multiple(etl, **of_etl),
            mock.patch.multiple(steps, **of_steps),
            mock.patch.multiple(parsed, F=FUNCTIONS, write_parsed=write_parsed),
            mock.patch.object(rebuild, "F", FUNCTIONS),
            mock.patch.object(listing, "open_storage", lambda _, path: Disk(f"file:{path}")),
            mock.patch.object(lake_run, "cancel_jobs"),
            mock.patch.object(report, "still_running", contextlib.nullcontext),  # no thread a stage
        ):
            yield

    def read_tables(self, lake: Path) -> dict[str, list[Any]]:
        """All rows of all tables, in order."""
        return {
            table.name: sorted(json.dumps(row, sort_keys=True) for row in read_rows(lake / name))
            for table in TABLES
            for name in [table.name]
        }

    def read_rejects(self, folder: Path) -> list[str]:
        """The rejected records, in order."""
        return sorted(json.dumps(row) for row in read_rows(folder / "log_data"))
