"""The benchmark's own instruments: a wrong one would make every figure wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.bench import compare, s3_requests

HERE = Path(__file__).parent
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="costs are measured by /proc")

LAKE = {
    "songs/year=2000/a.parquet": "('S1', 'Title', 'A1', 200.5)"
    " t(song_id, title, artist_id, duration)",
    "artists/a.parquet": "('A1', 'Artist', '', null, null)"
    " t(artist_id, name, location, latitude, longitude)",
    "users/a.parquet": "('8', 'Kaylee', 'Summers', 'F', 'free')"
    " t(user_id, first_name, last_name, gender, level)",
    "time/year=2018/month=11/a.parquet": "(timestamp '2018-11-01 20:57:10', 20, 1, 44, 5)"
    " t(start_time, hour, day, week, weekday)",
    "songplays/year=2018/month=11/a.parquet": "(1, timestamp '2018-11-01 20:57:10', '8', 'free',"
    " 'S1', 'A1', 139, 'Phoenix', 'Mozilla'), (2, timestamp '2018-11-01 20:57:10', '8', 'free',"
    " null, null, 139, 'Phoenix', 'Mozilla') t(songplay_id, start_time, user_id, level, song_id,"
    " artist_id, session_id, location, user_agent)",
}


def write_lake(folder, replace=("", ""), order="asc"):
    """A small lake; replace changes the text of its rows."""
    for path, rows in LAKE.items():
        file = folder / path
        file.parent.mkdir(parents=True)
        values, _, columns = rows.replace(*replace).rpartition(" t(")
        duckdb.sql(
            f"copy (select * from (values {values}) t({columns} order by all {order})"
            f" to '{file}' (format parquet)"
        )
    return folder


def measured(command, tmp_path):
    """What measure.run says of a command, from a process of its own: it waits for all children."""
    script = (
        "import dataclasses, json, pathlib, sys; import measure\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        f"cost = measure.run({command!r}, folder, folder / 'log')\n"
        "print(json.dumps(dataclasses.asdict(cost)))"
    )
    return subprocess.run(
        [sys.executable, "-c", script], cwd=HERE, capture_output=True, text=True, check=False
    )


@needs_linux
def test_a_cost_holds_the_children_that_outlive_their_parent(tmp_path):
    busy = "import time\nballast = bytearray(200_000_000)\nwhile time.process_time() < 0.8: pass"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {busy!r}])"

    result = measured([sys.executable, "-c", parent], tmp_path)

    cost = json.loads(result.stdout)
    assert cost["seconds"] < 0.8 <= cost["cpu_seconds"]
    assert 200_000_000 < cost["peak_bytes"] < 400_000_000


@needs_linux
def test_memory_that_a_fork_shows_as_its_own_counts_once(tmp_path):
    script = (
        "import os, time\n"
        "ballast = bytearray(200_000_000)\n"
        "child = os.fork()\n"
        "time.sleep(0.5)\n"
        "child and os.waitpid(child, 0)"
    )

    cost = json.loads(measured([sys.executable, "-c", script], tmp_path).stdout)

    assert 200_000_000 < cost["peak_bytes"] < 300_000_000


@needs_linux
def test_a_contender_that_fails_says_why(tmp_path):
    result = measured([sys.executable, "-c", "raise SystemExit('no such table')"], tmp_path)

    assert "CommandError: exit code 1" in result.stderr
    assert "no such table" in result.stderr


def test_equal_rows_in_another_order_make_equal_lakes(tmp_path):
    one, other = write_lake(tmp_path / "a"), write_lake(tmp_path / "b", order="desc")

    assert compare.differences(one, other) == []


@pytest.mark.parametrize(
    ("table", "replace"),
    [
        ("songs", ("200.5", "200.50001")),
        ("songs", ("'Title'", "null")),
        ("artists", ("''", "null")),
        ("artists", ("null, null) t", "null, 1.0) t")),
        ("users", ("'free') t", "'paid') t")),
        ("time", ("20, 1, 44", "21, 1, 44")),
        ("songplays", ("null, null, 139", "'S1', 'A1', 139")),
        (
            "songplays",
            ("(2, timestamp '2018-11-01 20:57:10'", "(2, timestamp '2018-11-01 20:57:11'"),
        ),
    ],
)
def test_one_changed_value_makes_its_table_differ(tmp_path, table, replace):
    one, other = write_lake(tmp_path / "a"), write_lake(tmp_path / "b", replace)

    (sentence,) = compare.differences(one, other)

    assert sentence.startswith(f"{table} differs")


def test_a_changed_partition_makes_its_table_differ(tmp_path):
    one, other = write_lake(tmp_path / "a"), write_lake(tmp_path / "b")
    (other / "songs" / "year=2000").rename(other / "songs" / "year=2001")

    (sentence,) = compare.differences(one, other)

    assert sentence.startswith("songs differs")


def test_songplay_ids_that_repeat_are_counted(tmp_path):
    assert compare.repeated_ids(write_lake(tmp_path / "a")) == 0
    assert compare.repeated_ids(write_lake(tmp_path / "b", ("(2, time", "(1, time"))) == 1


@needs_linux
def test_the_benchmark_runs_and_keeps_its_figures(tmp_path):
    command = [sys.executable, str(HERE / "bench.py"), "--scale", "sample", "--runs", "2"]
    result = subprocess.run(
        [*command, "--only", "duckdb", "--results", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("*-sample.json")
    figures = json.loads(path.read_text())["medians"]
    assert list(figures) == ["duckdb (year)", "duckdb (year,artist_id)"]
    assert figures["duckdb (year,artist_id)"]["files"] > figures["duckdb (year)"]["files"] > 10
    assert min(figures["duckdb (year)"][name] for name in ("seconds", "peak_bytes", "bytes")) > 0


@pytest.mark.parametrize(
    ("method", "query", "copied", "kind"),
    [
        ("GET", "", "", "GET"),
        ("GET", "list-type=2&prefix=song_data/", "", "LIST"),
        ("HEAD", "", "", "HEAD"),
        ("PUT", "", "", "PUT"),
        ("PUT", "", "lake/old", "COPY"),
        ("POST", "delete", "", "DELETE"),
        ("POST", "uploads", "", "POST"),
        ("DELETE", "", "", "DELETE"),
    ],
)
def test_a_request_to_s3_is_counted_as_what_it_asks(method, query, copied, kind):
    environ = {"REQUEST_METHOD": method, "QUERY_STRING": query}
    environ |= {"HTTP_X_AMZ_COPY_SOURCE": copied} if copied else {}
    assert s3_requests.kind_of(environ) == kind


@pytest.mark.parametrize(
    ("path", "query", "area"),
    [
        ("/lake/song_data/1/2/TR1.json", "", "song_data"),
        ("/lake", "list-type=2&prefix=log_data%2F2018%2F", "log_data"),
        ("/lake/", "prefix=lake%2F_etl", "lake"),
        ("/lake/", "delete", "lake"),
        ("/lake/lake/_etl/LOCK", "", "lock"),
        ("/lake/lake/_etl/parsed/song_data/run=1/part-0.parquet", "", "parsed"),
        ("/lake/lake/songs/year%3D2000/part-0.parquet", "", "lake"),
    ],
)
def test_a_request_to_s3_is_counted_where_it_belongs(path, query, area):
    assert s3_requests.area_of({"PATH_INFO": path, "QUERY_STRING": query}) == area


def test_one_more_file_asks_no_more_of_s3_than_it_did():
    due = [
        ({"writing": 11, "swapping": 3}, 400),  # of a first run
        ({"writing": 11, "swapping": 16}, 240),  # of one that replaces songs alone
    ]
    measured = s3_requests.measure(
        s3_requests.Asked((4, 12), (4, 12), ("First", "Second"), "magic")
    )
    for (few, many), (per_file, besides) in zip(measured, due, strict=True):
        costs = s3_requests.cost(few, many)
        asked = {name: kinds.total() for name, (kinds, _) in costs.items()}
        expected = {"reading the catalogue": 2, "checking": 8, **per_file}
        assert asked == pytest.approx(expected, abs=0.3)
        # Both sources are looked at before one is read: one request more, however many files.
        assert costs["reading the catalogue"][1] <= 3
        assert costs["writing"][1] + costs["swapping"][1] <= besides
