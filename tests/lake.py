"""Published lakes for the tests: the job's own of the sample data, and small ones to measure."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb

import etl
from configs import load_etl_config
from lake.paths import new_run
from lake.report import Report
from lake.tables import SONGPLAYS, TABLES, TIME

DATA = Path(etl.__file__).parent / "data"
DUCKDB_TYPES = {
    "STRING": "VARCHAR",
    "INT": "INTEGER",
    "BIGINT": "BIGINT",
    "DOUBLE": "DOUBLE",
    "TIMESTAMP": "TIMESTAMPTZ",  # in Parquet: INT64 microseconds, adjusted to UTC, as Spark's
}


def build_sample_lake(spark, factory) -> Path:
    """What the job publishes from the shipped sample, on local disk; made once for all tests."""
    folder = factory.getbasetemp() / "sample-lake"
    paths = {"song_data": "song_data", "log_data": "log_data", "output": "lake"}
    if not folder.exists():
        for archive in ("song-data.zip", "log-data.zip"):
            shutil.unpack_archive(DATA / archive, folder)
        flags = {("etl", key): str(folder / name) for key, name in paths.items()}
        etl.run_job(spark, load_etl_config(flags=flags, environ={}), Report(new_run()))
    return folder / "lake"


def write_lake(folder, rows, layout):
    """Write all five tables as the job would, from rows by table, partitioned by the layout."""
    for table in TABLES:
        with duckdb.connect() as database:
            database.execute("set TimeZone = 'UTC'")
            described = {name: DUCKDB_TYPES[kind] for name, kind in table.columns.items()}
            fields = ", ".join(f"{name} {kind}" for name, kind in described.items())
            database.execute(f"create table rows ({fields})")
            marks = ", ".join("?" for _ in described)
            database.executemany(f"insert into rows values ({marks})", rows[table.name])
            write_table(database, folder / table.name, layout.get(table.name, ()), described)


def write_table(database, folder, partition_by, described):
    """Write the table `rows`; partition columns that it has not are parts of its start_time."""
    derived = [name for name in partition_by if name not in described]
    more = "".join(f", {name}(start_time) as {name}" for name in derived)
    folder.mkdir(parents=True)
    if partition_by:
        target, options = folder, f", partition_by ({', '.join(partition_by)})"
    else:
        target, options = folder / "part-00000.parquet", ""
    database.execute(f"copy (select *{more} from rows) to '{target}' (format parquet{options})")


def make_rows(starts, songs):
    """Rows of all five tables: a play at each start, and songs as id -> (artist_id, year)."""
    artists = sorted({artist for artist, _ in songs.values()})
    return {
        "songs": [
            [song, f"Title of {song}", artist, year, 218.93179]
            for song, (artist, year) in songs.items()
        ],
        "artists": [[artist, f"Name of {artist}", None, 41.9, None] for artist in artists],
        "users": [["8", "Kaylee", "Summers", "F", "free"]],
        TIME.name: [
            [f"{start}+00", int(start[11:13]), 2, 3, int(start[5:7]), int(start[:4]), 4]
            for start in starts
        ],
        SONGPLAYS.name: [
            [number, f"{start}+00", "8", "free", None, None, 139, "Rome", "Mozilla"]
            for number, start in enumerate(starts)
        ],
    }
