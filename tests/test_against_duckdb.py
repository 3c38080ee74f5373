"""The job's tables, row by row, against the oracle's; and against the job's own from equal input.

The input is the generator's with every quirk on, and with contested records added: copies of its
records with one field changed, so that every total order has ties to break.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

import etl
from tests import oracle

PROJECT = Path(etl.__file__).parent
# The second crosses New Year, the third a leap day; ISO weeks and months differ at both.
STARTS = {1: "2018-11-01", 2: "2018-12-15", 3: "2020-02-15"}
EVENTS, BAD_LINES = 4000, 40
CONTESTED_SHARE = 0.03

KEPT_OR_LEFT_OUT = ("loaded", "filtered", "duplicate")

Record = dict[str, Any]
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Input:
    """What the job reads, as documents that can be dealt into files in any way."""

    songs: list[str]
    events: list[bytes]  # not all of them are UTF-8

    def write(self, folder: Path, song_files: int, log_files: int, ending: str = ".json") -> Path:
        """Deal the documents into so many files of each source."""
        for number in range(song_files):
            path = folder / "song_data" / "A" / f"{number}{ending}"
            _write(path, "\n".join(self.songs[number::song_files]).encode())
        for number in range(log_files):
            path = folder / "log_data" / f"{number}-events{ending}"
            _write(path, b"\n".join(self.events[number::log_files]))
        return folder


@dataclass(frozen=True)
class Case:
    """One seed's input, with the tables that the job and the oracle make of it."""

    data: Path
    input: Input
    ours: dict[str, Rows]
    theirs: dict[str, list[oracle.Row]]
    sources: Record  # how the job's report accounts for the input


@pytest.fixture(scope="module")
def cases(spark, tmp_path_factory):
    """The case of a seed, made once."""
    return functools.cache(lambda seed: make_case(tmp_path_factory.mktemp("case"), seed))


@pytest.fixture(params=STARTS, ids="seed {}".format)
def case(request, cases):
    return cases(request.param)


def make_case(folder, seed):
    data = folder / "data"
    generate(data, seed)
    add_contested_records(data, random.Random(seed))
    ours = run_job(data, folder / "lake")
    (report,) = (folder / "lake" / "_etl" / "reports").glob("*.json")
    return Case(
        data,
        Input(song_lines(data / "song_data"), log_lines(data / "log_data")),
        ours,
        oracle.build_tables(data / "song_data", data / "log_data"),
        json.loads(report.read_text())["sources"],
    )


def generate(data, seed):
    command = [sys.executable, str(PROJECT / "data" / "generate.py"), "--output", str(data)]
    recipe = {
        "songs": 300,
        "events": EVENTS,
        "seed": seed,
        "start": STARTS[seed],
        "bad-lines": BAD_LINES / EVENTS,
    }
    options = [part for name, value in recipe.items() for part in (f"--{name}", str(value))]
    subprocess.run([*command, *options], check=True, capture_output=True)


def add_contested_records(data, chance):
    """Write a file more for each source, of copies that differ in one field that is not the key."""
    songs = [json.loads(line) for line in song_lines(data / "song_data")]
    plays = [play for line in log_lines(data / "log_data") if (play := parsed_play(line))]
    changed_songs = contested(songs, SONG_CHANGES, chance)
    changed_plays = contested(plays, PLAY_CHANGES, chance)
    _write(data / "song_data" / "A" / "contested.json", as_lines(changed_songs))
    _write(data / "log_data" / "contested.json", as_lines(changed_plays))


SONG_CHANGES = {
    "title": [None, "", "A", "é"],
    "artist_id": ["A", "ZZ"],
    "artist_name": [None, "A", 311],
    "artist_location": [None, "", " ", "Rome", 7],
    "artist_latitude": [None, 41.9, -41.9],
    "artist_longitude": [None, 12.5, -12.5],
    "year": [None, 0, 1999],
    "duration": [None, 1.5, 1000],
}
PLAY_CHANGES = {
    "level": ["free", "paid"],
    "song": [None, "A", 99, "Ã\x83Â©"],
    "artist": [None, "A", 311, "Ã©"],
    "length": [None, 1.5, 1000],
    "location": [None, "", "A", 5],
    "userAgent": [None, "A"],
    "firstName": [None, "A"],
    "lastName": [None, "A"],
    "gender": [None, "F", "M"],
    "sessionId": [None],
    "itemInSession": [None],
}


def contested(records, changes, chance):
    """Some records over again, once for each of a few changes of one field."""
    for record in records:
        if chance.random() < CONTESTED_SHARE:
            for field in chance.sample(sorted(changes), 3):
                yield {**record, field: chance.choice(changes[field])}


def parsed_play(line):
    """A line's event if it is a play that nobody would reject."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    good = isinstance(record, dict) and isinstance(record.get("ts"), int)
    return record if good and record["page"] == "NextSong" and record["userId"] else None


def as_lines(records):
    return "\n".join(json.dumps(record) for record in records).encode()


def song_lines(folder):
    """Each song on one line, the pretty-printed ones too."""
    return [json.dumps(json.loads(text)) for text in oracle.song_documents(folder)]


def log_lines(folder):
    contents = [oracle.read_content(path) for path in oracle.find_files(folder)]
    return [line for content in contents for line in content.split(b"\n") if line]


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def arguments(data, output):
    flags = {
        "--song-data": data / "song_data",
        "--log-data": data / "log_data",
        "--output": output,
        "--max-rejected-percent": 5,
    }
    return [str(part) for flag in flags.items() for part in flag]


def run_job(data, output):
    assert etl.main(arguments(data, output)) == 0
    return read_tables(output)


def read_tables(output):
    """Each table's rows as the oracle has them; songplays with its songplay_id in front."""
    columns = {**oracle.COLUMNS, "songplays": f"songplay_id, {oracle.COLUMNS['songplays']}"}
    return {table: read_table(output, table, wanted) for table, wanted in columns.items()}


def read_table(output, table, columns):
    columns = columns.replace("start_time", "start_time at time zone 'UTC'")
    return duckdb.sql(
        f"select {columns} from read_parquet('{output / table}/**/*.parquet',"
        " hive_partitioning = true) order by all"
    ).fetchall()


def difference(rows, other):
    """The rows that only one of the two has, a few of each; empty if they are the same."""
    only_rows, only_other = Counter(rows) - Counter(other), Counter(other) - Counter(rows)
    if not only_rows and not only_other:
        return ""
    few, few_other = (sorted(only, key=repr)[:5] for only in (only_rows, only_other))
    return "\n".join(
        [
            f"{sum(only_rows.values())} rows too many, such as",
            *map(repr, few),
            f"{sum(only_other.values())} rows missing, such as",
            *map(repr, few_other),
        ]
    )


@pytest.mark.parametrize("table", oracle.COLUMNS)
def test_every_row_is_as_the_oracle_has_it(case, table):
    ours = [row[1:] for row in case.ours[table]] if table == "songplays" else case.ours[table]

    assert len(case.theirs[table]) > 50
    assert difference(ours, case.theirs[table]) == ""


def test_every_play_has_an_id_of_its_own(case):
    ids = [row[0] for row in case.ours["songplays"]]

    assert len(set(ids)) == len(ids)


def test_every_record_is_accounted_for(case):
    songs, log = case.sources["song_data"], case.sources["log_data"]

    assert (songs["read"], log["read"]) == (len(case.input.songs), len(case.input.events))
    assert songs["loaded"] == len(case.theirs["songs"])
    assert log["loaded"] == len(case.theirs["songplays"])
    for source in (songs, log):
        rejected = sum(source["rejected"].values())
        assert source["read"] == sum(source[name] for name in KEPT_OR_LEFT_OUT) + rejected


def test_the_input_has_what_the_rules_are_about(case):
    """A comparison of tables in which no rule had anything to do would prove little."""
    matched = [row for row in case.theirs["songplays"] if row[3]]
    assert len(matched) > 300
    assert case.sources["song_data"]["duplicate"] > 10
    assert case.sources["log_data"]["duplicate"] > 200


def test_every_bad_line_is_rejected(case):
    assert sum(case.sources["log_data"]["rejected"].values()) == BAD_LINES


def shuffled(documents, seed=0):
    return random.Random(seed).sample(documents, len(documents))


REARRANGED = {
    "lines and files in another order": lambda given, folder: Input(
        shuffled(given.songs), shuffled(given.events)
    ).write(folder, song_files=40, log_files=30),
    "one file of each source": lambda given, folder: given.write(folder, 1, 1),
    "gzipped files of a few lines": lambda given, folder: given.write(
        folder, song_files=100, log_files=200, ending=".json.gz"
    ),
    "every record three times": lambda given, folder: Input(
        shuffled(given.songs * 3), shuffled(given.events * 3)
    ).write(folder, song_files=50, log_files=20),
}


@pytest.mark.parametrize("rearrange", REARRANGED.values(), ids=REARRANGED)
def test_the_same_records_make_the_same_tables(cases, tmp_path, rearrange):
    data = rearrange(cases(1).input, tmp_path / "data")

    assert_same(run_job(data, tmp_path / "lake"), cases(1).ours)


# A host's zone and a session's, each with as few and as many partitions as make sense.
ELSEWHERE = {
    "a host in Tokyo, one partition": (
        {"TZ": "Asia/Tokyo"},
        {"spark.master": "local[1]", "spark.default.parallelism": 1},
    ),
    "a session in New York, many partitions": (
        {},
        {
            "spark.sql.session.timeZone": "America/New_York",
            "spark.master": "local[3]",
            "spark.default.parallelism": 7,
            "spark.sql.shuffle.partitions": 23,
            "spark.sql.files.maxPartitionBytes": 100_000,
            "spark.sql.adaptive.enabled": "false",
        },
    ),
}


@pytest.mark.parametrize(("environment", "settings"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_the_same_tables_come_out_elsewhere(cases, tmp_path, environment, settings):
    output = tmp_path / "lake"
    submit = [f"--conf {name}={value}" for name, value in settings.items()]
    elsewhere = {"PYSPARK_SUBMIT_ARGS": " ".join([*submit, "pyspark-shell"]), **environment}

    subprocess.run(
        [sys.executable, str(PROJECT / "etl.py"), *arguments(cases(1).data, output)],
        env={**os.environ, **elsewhere},
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )

    assert_same(read_tables(output), cases(1).ours)


def assert_same(tables, expected):
    differences = {table: difference(rows, expected[table]) for table, rows in tables.items()}
    assert differences == dict.fromkeys(expected, "")
