"""The job end to end on disk: what it publishes, what it reports, and what it refuses."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import etl
from lake import layout
from lake import spark as lake_spark
from lake.tables import TABLES
from tests.factories import TS, event, read_lake, read_report, song, write_input

ROOT = Path(etl.__file__).parent
DAY = 86_400_000
SONGS = [song(), song(song_id="SO2", artist_id="AR2", title="Second", year=0)]
EVENTS = [event(), event(ts=TS + 30 * DAY, song="Second"), event(page="Home", userId="")]


@pytest.fixture(scope="module")
def published(spark, tmp_path_factory):
    """An input folder whose lake was published once; tests only look at it."""
    folder = tmp_path_factory.mktemp("published")
    assert etl.main([*write_input(folder, SONGS, [*EVENTS, EVENTS[0], "hello"]), *LENIENT]) == 0
    return folder


LENIENT = ["--max-rejected-percent=50"]


def test_every_table_is_published_as_plain_parquet(spark, published):
    lake = read_lake(spark, published / "lake")
    assert {name: len(rows) for name, rows in lake.items()} == {
        "songs": 2,
        "artists": 2,
        "users": 1,
        "time": 2,
        "songplays": 2,
    }


def test_tables_are_partitioned_as_configured(published):
    files = (published / "lake").glob("[a-z]*/**/*.parquet")
    folders = {str(path.parent.relative_to(published / "lake")) for path in files}
    assert folders == {
        "artists",
        "users",
        *(f"songs/year={year}" for year in (0, 1999)),
        *(
            f"{table}/year=2018/month={month}"
            for table in ("time", "songplays")
            for month in (11, 12)
        ),
    }


def test_a_small_table_of_many_files_is_written_by_all_cores(spark, tmp_path):
    session = spark.newSession()
    songs = next(table for table in TABLES if table.name == "songs")
    songs = replace(songs, partition_by=("year",))
    rows = session.range(30_000).selectExpr(
        *("CAST(id AS STRING) AS song_id", "CAST(id AS STRING) AS title", "'AR1' AS artist_id"),
        *("CAST(id % 20 AS INT) AS year", "CAST(id AS DOUBLE) AS duration"),
    )

    def written_by(path: Path) -> set[str]:
        layout.stage_table(layout.lay_out(rows, songs, {}, 10_000), songs, path.as_uri(), 10_000)
        return {file.name.split("-")[1] for file in path.rglob("*.parquet")}

    assert len(written_by(tmp_path / "before")) == 1
    lake_spark.set_tasks(session, one_machine=True)
    assert len(written_by(tmp_path / "after")) == 2


def test_a_local_table_has_no_checksum_files_and_other_files_keep_hadoops_usual_class(
    spark, published
):
    assert not list((published / "lake").glob("[a-z]*/**/.*.crc"))
    configuration = spark.sparkContext._jsc.hadoopConfiguration()
    # Raises if the class is one that S3A cannot buffer on.
    assert spark._jvm.org.apache.hadoop.fs.FileSystem.getLocal(configuration)


def test_nothing_but_what_later_runs_need_stays_in_the_jobs_own_folder(published):
    kept = {"published.json", "inputs", "parsed", "reports", "rejects"}
    assert {path.name for path in (published / "lake" / "_etl").iterdir()} == kept
    assert not list((published / "lake").rglob("_SUCCESS"))


def test_the_report_accounts_for_every_record(published):
    file = f"{published}/log_data/2018/11/2018-11-01-events.json"
    sources = read_report(published)["sources"]
    assert sources["song_data"] == {
        "files": 2,
        "passed_over": 0,
        "read": 2,
        "loaded": 2,
        "filtered": 0,
        "filtered_pages": {},
        "duplicate": 0,
        "repaired": 0,
        "converted": 0,
        "rejected": {},
        "commonest": [],
    }
    assert sources["log_data"] == {
        "files": 1,
        "passed_over": 0,
        "read": 5,
        "loaded": 2,
        "filtered": 1,
        "filtered_pages": {"Home": 1},
        "duplicate": 1,
        "repaired": 0,
        "converted": 0,
        "rejected": {"not_json": 1},
        "commonest": [{"reason": "not_json", "field": None, "records": 1, "file": file}],
    }


def test_the_report_tells_rows_files_bytes_and_seconds(published):
    report = read_report(published)
    songplays = report["tables"]["songplays"]
    files = list((published / "lake" / "songplays").rglob("*.parquet"))
    assert (songplays["rows"], songplays["files"]) == (2, len(files))
    assert songplays["bytes"] >= sum(path.stat().st_size for path in files)
    stages = {"session", "song_data", "log_data", "songs", "songplays", "checks", "commit", "swap"}
    assert stages <= set(report["seconds"])
    assert report["status"] == "published"
    assert report["started"] < report["finished"]
    assert report["matched_plays"] == 2


def test_rejects_tell_why_and_where(published):
    folder = published / "lake" / "_etl" / "rejects" / read_report(published)["run"]
    (path,) = folder.rglob("*.json")
    reject = json.loads(path.read_text())
    assert reject["reason"] == "not_json"
    assert reject["line"] == '"hello"'
    assert reject["file"].endswith("2018-11-01-events.json")


def test_parquet_holds_timestamps_in_microseconds(spark, published):
    import duckdb

    kinds = duckdb.sql(
        f"SELECT DISTINCT logical_type FROM parquet_schema('{published}/lake/time/*/*/*.parquet') "
        "WHERE name = 'start_time'"
    ).fetchall()
    assert "MICROS" in kinds[0][0]


def test_no_dictionary_is_tried_on_what_is_unique_in_almost_every_row(spark, tmp_path):
    import duckdb

    # The same in all rows here, so that a dictionary would be kept.
    rows = spark.range(1000).selectExpr(
        "timestamp '2018-11-01' AS start_time", "1L AS songplay_id", "'free' AS level"
    )
    layout.new_writer(rows.coalesce(1), f"file:{tmp_path}/rows").parquet(f"file:{tmp_path}/rows")
    with_one = duckdb.sql(
        f"SELECT path_in_schema FROM parquet_metadata('{tmp_path}/rows/*.parquet') "
        "WHERE dictionary_page_offset IS NOT NULL"
    ).fetchall()
    assert with_one == [("level",)]


def test_a_rerun_changes_no_row(spark, tmp_path):
    flags = write_input(tmp_path, SONGS, EVENTS)
    assert etl.main(flags) == 0
    first = read_lake(spark, tmp_path / "lake")
    assert etl.main(flags) == 0
    assert read_lake(spark, tmp_path / "lake") == first


def test_partitions_and_rows_that_the_input_no_longer_has_go(spark, tmp_path):
    assert etl.main(write_input(tmp_path, SONGS, EVENTS)) == 0
    (tmp_path / "song_data" / "A" / "B" / "TR0001.json").unlink()
    assert etl.main(write_input(tmp_path, SONGS[:1], EVENTS[:1])) == 0
    assert not (tmp_path / "lake" / "songplays" / "year=2018" / "month=12").exists()
    assert not (tmp_path / "lake" / "songs" / "year=0").exists()
    assert len(read_lake(spark, tmp_path / "lake")["artists"]) == 1


def test_songs_can_be_partitioned_by_year_and_artist(spark, tmp_path):
    flags = write_input(tmp_path, SONGS, EVENTS)
    assert etl.main([*flags, "--partition-songs=year,artist_id"]) == 0
    assert (tmp_path / "lake" / "songs" / "year=1999" / "artist_id=AR1").is_dir()


def test_a_partition_above_the_limit_is_split_into_files(spark, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARKIFY_ETL_MAX_ROWS_PER_FILE", "20")
    events = [event(itemInSession=n, ts=TS + n) for n in range(50)]
    events += [event(itemInSession=n, ts=TS + 30 * DAY + n) for n in range(10)]
    assert etl.main(write_input(tmp_path, SONGS, events)) == 0
    lake = tmp_path / "lake" / "songplays" / "year=2018"
    assert len(list((lake / "month=11").glob("*.parquet"))) >= 3
    assert len(list((lake / "month=12").glob("*.parquet"))) == 1
    assert len(read_lake(spark, tmp_path / "lake")["songplays"]) == 60


def test_only_a_partition_above_the_limit_is_spread_and_evenly(spark):
    moment = "timestamp_millis(id) AS start_time"
    months = spark.range(3_000).selectExpr(moment, "2018 AS year", "11 AS month")
    small = spark.range(100).selectExpr(moment, "2018 AS year", "12 AS month")
    songplays = replace(etl.SONGPLAYS, partition_by=("year", "month"))
    number = layout.build_file_number(songplays, {(2018, 11): 3_000, (2018, 12): 100}, 1_000)
    sizes = months.union(small).groupBy("month", number.alias("file")).count().collect()
    assert {(row["month"], row["file"]) for row in sizes} == {*((11, n) for n in range(4)), (12, 0)}
    assert all(650 < row["count"] < 850 for row in sizes if row["month"] == 11)


# What a run refuses, with nothing changed


def refused(capsys, flags, code=1):
    assert etl.main(flags) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("etl.py: error: ")
    assert "Traceback" not in error
    return error


def test_a_missing_path_is_one_line(spark, tmp_path, capsys):
    flags = write_input(tmp_path, SONGS, EVENTS)
    error = refused(capsys, [*flags, "--song-data=/nowhere/at/all"])
    assert "song_data: cannot read /nowhere/at/all" in error


def test_a_folder_of_empty_files_is_refused_and_one_is_named(spark, tmp_path, capsys):
    flags = write_input(tmp_path, SONGS, EVENTS)
    none = tmp_path / "none"
    none.mkdir()
    (none / "a.json").write_text("\n")
    says = f"{none} holds nothing to load (0 records read): its 1 files are empty, such as {none}/a"
    assert says in refused(capsys, [*flags, f"--log-data={none}"])


def test_a_log_without_plays_is_refused_and_the_old_tables_stay(spark, tmp_path, capsys):
    assert etl.main(write_input(tmp_path, SONGS, EVENTS)) == 0
    before = read_lake(spark, tmp_path / "lake")
    assert "nothing to load" in refused(capsys, write_input(tmp_path, SONGS, EVENTS[2:]))
    assert read_lake(spark, tmp_path / "lake") == before


def test_a_truncated_gz_fails_the_run_and_names_the_file(spark, tmp_path, capsys):
    flags = write_input(tmp_path, SONGS, EVENTS)
    packed = gzip.compress(("\n".join(map(json.dumps, EVENTS)) * 500).encode())
    (tmp_path / "log_data" / "cut.json.gz").write_bytes(packed[: len(packed) // 2])
    assert "cut.json.gz" in refused(capsys, flags)
    assert not (tmp_path / "lake" / "songplays").exists()


def test_a_plain_file_named_gz_fails_the_run_and_names_the_file(spark, tmp_path, capsys):
    flags = write_input(tmp_path, SONGS, EVENTS)
    (tmp_path / "log_data" / "plain.json.gz").write_text(json.dumps(event()) + "\n")
    assert "plain.json.gz" in refused(capsys, flags)


def test_too_many_rejects_fail_the_run_but_are_kept(spark, tmp_path, capsys):
    error = refused(capsys, write_input(tmp_path, SONGS, [*EVENTS, "hello"]))
    assert "1 of 4 records are rejected (1 not_json), more than 1 %" in error
    # The other lines of its file are good, so that the file is of the right kind.
    assert "-events.json; fix them, or allow more with --max-rejected-percent" in error
    assert list((tmp_path / "lake" / "_etl" / "rejects").rglob("*.json"))
    assert read_report(tmp_path)["status"] == "failed"


def test_input_of_which_nothing_can_be_used_is_told_for_what_it_is(spark, tmp_path, capsys):
    flags = write_input(tmp_path, SONGS, EVENTS)
    log, other = tmp_path / "log_data/2018/11/2018-11-01-events.json", tmp_path / "other"
    other.mkdir()
    swapped = [f"--song-data={tmp_path}/log_data", f"--log-data={tmp_path}/song_data"]
    assert f"such as in {log}: these look like events; " in refused(capsys, [*flags, *swapped])

    flags.append(f"--log-data={other}")
    (other / "a.json").write_text(json.dumps(EVENTS))
    says = f"such as in {other}/a.json: one event a line is expected; this file is one array; "
    assert says in refused(capsys, flags)


def test_a_level_that_is_neither_free_nor_paid_rejects_its_play_alone(spark, tmp_path, capsys):
    flags = write_input(tmp_path, SONGS, [*EVENTS, event(level="gold", itemInSession=7)])
    assert etl.main([*flags, *LENIENT]) == 0
    assert "1 rejected from log_data: wrong_value (level), such as in /" in capsys.readouterr().out
    assert read_report(tmp_path)["sources"]["log_data"]["rejected"] == {"wrong_value": 1}


def test_a_shrinking_table_is_published_with_a_warning(spark, tmp_path, capsys):
    many = [event(itemInSession=n, ts=TS + n) for n in range(10)]
    assert etl.main(write_input(tmp_path, SONGS, many)) == 0
    assert etl.main(write_input(tmp_path, SONGS, [event(song="Other", ts=TS + 10)])) == 0
    warnings = read_report(tmp_path)["warnings"]
    assert "songplays shrank from 10 to 1 rows" in warnings
    assert "plays with a song fell from 100.0 to 0.0 %" in warnings


def test_a_bad_setting_is_a_usage_error(capsys):
    assert "expected a number from 0 to 100" in refused(capsys, ["--max-rejected-percent=x"], 2)


def test_an_unknown_flag_is_a_usage_error():
    with pytest.raises(SystemExit) as raised:
        etl.main(["--nonsense"])
    assert raised.value.code == 2


def test_a_process_of_its_own_in_another_zone_publishes_the_same(spark, tmp_path):
    flags = write_input(tmp_path, SONGS, EVENTS)
    assert etl.main(flags) == 0
    here = read_lake(spark, tmp_path / "lake")
    environment = {
        **os.environ,
        "TZ": "Asia/Tokyo",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [
        "spark-submit",
        "--conf",
        "spark.sql.session.timeZone=Asia/Tokyo",
        "--conf",
        "spark.ui.enabled=false",
    ]
    finished = subprocess.run(
        [*command, str(ROOT / "etl.py"), *flags],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert "songplays" in finished.stdout
    assert read_lake(spark, tmp_path / "lake") == here
