"""Sparkify's data lake job: song and log JSON in, a star schema of five Parquet tables out.

It runs as `python etl.py` on a laptop and as `spark-submit etl.py` on a cluster, on Spark 3.5 and
4.0 and Python 3.9 and later. From top to bottom: how each table is built, the steps of a run, and
the command line. What the tables are is in lake/tables.py, what becomes of a line of input in
lake/lines.py, what a run has to do in lake/work.py, its steps in lake/steps.py, and how staged
tables replace published ones in lake/publishing.py.
"""

from __future__ import annotations

import argparse
import functools
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import lake  # noqa: F401 (first of all: it says so in one line where pyspark is missing)

# isort: split

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from configs import DL_CFG, ConfigError, EtlConfig, load_etl_config
from lake.checks import DataQualityError
from lake.exit_codes import ExitCode
from lake.inputs import find_rules
from lake.laptop import SignInError, explain
from lake.layout import layout_of
from lake.lines import is_blank, loaded
from lake.listing import SourceError
from lake.lock import LockedError
from lake.parsed import read_parsed
from lake.paths import new_run, readable
from lake.rebuild import plan_rebuild
from lake.report import Report, render, tell
from lake.run import cleaned_up, locked, open_run
from lake.sources import SOURCES
from lake.spark import create_session, one_line, set_what_results_depend_on
from lake.steps import (
    check_tables,
    find_matches,
    find_rebuild,
    plan_layout,
    publish_tables,
    read_source,
    report_unchanged,
    stage_tables,
)
from lake.storage import StorageError, open_storage
from lake.tables import ARTISTS, SONGPLAYS, SONGS, TABLES, TIME, USERS, Table
from lake.work import check_output, describe_plan, find_work, look_at_output, will_read_little

# ---- The tables: DataFrames in, a DataFrame out --------------------------------------------------

PLAY_KEY = ("start_time", "user_id", "session_id", "item_in_session")
MATCH_KEY = ["song", "artist", "length"]


def build_tables(
    song_data: DataFrame,
    log_data: DataFrame,
    lay_out: Callable[[Table, DataFrame], DataFrame] = lambda _, rows: rows,
) -> dict[str, DataFrame]:
    """All five tables, by name, from the two sources: the whole pipeline.

    lay_out brings the rows of one file together. For the large tables it comes before duplicates
    are removed: rows with the same start_time are in the same file, so one shuffle serves both.
    """
    plays = build_plays(log_data)
    matched = match_songs(plays, song_data)
    return {
        SONGS.name: lay_out(SONGS, build_songs(song_data)),
        ARTISTS.name: lay_out(ARTISTS, build_artists(song_data)),
        USERS.name: lay_out(USERS, build_users(plays)),
        TIME.name: build_time(lay_out(TIME, plays)),
        SONGPLAYS.name: build_songplays(lay_out(SONGPLAYS, matched)),
    }


def build_songs(song_data: DataFrame) -> DataFrame:
    """One row per song_id; year 0 where it is not known."""
    return _one_per_song(song_data).select(
        "song_id",
        "title",
        "artist_id",
        F.coalesce("year", F.lit(0)).alias("year"),
        "duration",
    )


def build_artists(song_data: DataFrame) -> DataFrame:
    """One row per artist_id: the best-described record.

    Coordinates come first, then a location, then the name that most of the artist's records carry
    and the shortest one ("DMX", not "DMX / Eve / Jadakiss"), then the latest year.
    """
    has_coordinates = F.col("artist_latitude").isNotNull() & F.col("artist_longitude").isNotNull()
    same_name = Window.partitionBy("artist_id", "artist_name")
    records = loaded(song_data).withColumn("name_count", F.count(F.lit(1)).over(same_name))
    best_described = [
        has_coordinates.desc(),
        is_blank("artist_location").asc(),
        F.col("name_count").desc(),
        F.length("artist_name").asc_nulls_last(),
        F.coalesce("year", F.lit(0)).desc(),
        *_ascending("artist_name", "artist_location", "artist_latitude", "artist_longitude"),
    ]
    return first_per_key(records, ["artist_id"], best_described).select(
        "artist_id",
        F.col("artist_name").alias("name"),
        F.col("artist_location").alias("location"),
        F.col("artist_latitude").alias("latitude"),
        F.col("artist_longitude").alias("longitude"),
    )


def build_plays(log_data: DataFrame) -> DataFrame:
    """One row per loaded event with its songplay_id; an event delivered twice has two rows."""
    return loaded(log_data).withColumn("songplay_id", songplay_id())


def match_songs(plays: DataFrame, song_data: DataFrame) -> DataFrame:
    """The plays with song_id and artist_id of the song of the same title, artist and duration.

    Both are null where there is none. The names and the duration are not needed any more and go.
    """
    return plays.join(build_matches(song_data), on=MATCH_KEY, how="left").drop(*MATCH_KEY)


def build_matches(song_data: DataFrame) -> DataFrame:
    """One row per title, artist and duration, as song, artist and length: the ids of the song."""
    songs = _one_per_song(song_data).select(
        F.col("title").alias("song"),
        F.col("artist_name").alias("artist"),
        F.col("duration").alias("length"),
        "song_id",
        "artist_id",
    )
    # Two songs that share all three would multiply plays: the lower song_id stands for both.
    return first_per_key(songs.dropna(), MATCH_KEY, _ascending("song_id", "artist_id"))


def build_users(plays: DataFrame) -> DataFrame:
    """One row per user_id, as of the user's latest play."""
    latest = [F.col(name).desc_nulls_last() for name in PLAY_KEY if name != "user_id"]
    ties = _ascending("level", "first_name", "last_name", "gender")  # of copies of that play
    return first_per_key(plays, ["user_id"], [*latest, *ties]).select(*USERS.columns)


def build_time(plays: DataFrame) -> DataFrame:
    """One row per start_time, to the millisecond, with its parts in UTC."""
    start_time, layout = F.col("start_time"), layout_of(plays)
    parts = {
        "hour": F.hour(start_time),
        "day": F.dayofmonth(start_time),
        "week": F.weekofyear(start_time),  # ISO 8601
        "month": F.month(start_time),
        "year": F.year(start_time),
        "weekday": F.dayofweek(start_time),  # 1 = Sunday
    }
    # row_number() and not distinct(): the write is sorted by start_time and reuses this sort.
    moments = plays.select("start_time", *layout)
    moments = first_per_key(moments, [*layout, "start_time"], [start_time]).withColumns(parts)
    return moments.select(*dict.fromkeys([*TIME.columns, *layout]))


def build_songplays(plays: DataFrame) -> DataFrame:
    """One row per play; an event that was delivered twice counts once."""
    layout = layout_of(plays)
    order = ("level", "song_id", "artist_id", "location", "user_agent")
    unique = first_per_key(plays, [*layout, *PLAY_KEY], _ascending(*order))
    return unique.select(*SONGPLAYS.columns, *layout)


def songplay_id() -> Column:
    """A 64-bit hash of the whole natural key of a play, so that a rerun gives it the same id.

    Spark's hash of a null is its seed, so that (a, null) and (null, a) would have the same id:
    which fields are null is hashed as well. The check of the primary key catches a collision.
    """
    nulls = functools.reduce(
        Column.__add__,
        (F.col(name).isNull().cast("int") * 2**bit for bit, name in enumerate(PLAY_KEY)),
    )
    return F.xxhash64(*PLAY_KEY, nulls)


def first_per_key(rows: DataFrame, key: Sequence[str], order: Sequence[Column]) -> DataFrame:
    """The first row of each key, by an order that must be total: shuffled input changes nothing."""
    rank = F.row_number().over(Window.partitionBy(*key).orderBy(*order))
    return rows.withColumn("_rank", rank).filter("_rank = 1").drop("_rank")


def _one_per_song(song_data: DataFrame) -> DataFrame:
    order = ("title", "artist_id", "year", "duration", "artist_name")
    return first_per_key(loaded(song_data), ["song_id"], _ascending(*order))


def _ascending(*names: str) -> list[Column]:
    return [F.col(name).asc_nulls_last() for name in names]


# ---- The run -------------------------------------------------------------------------------------

# What is published depends on the modules of these functions: if they change, all is read anew.
RULES = (build_tables, read_source, read_parsed, plan_rebuild)


def run_job(spark: SparkSession, config: EtlConfig, report: Report) -> None:
    """Publish all five tables from what the sources hold now, or raise with nothing changed."""
    set_what_results_depend_on(spark)
    run = open_run(spark, config, report)
    with locked(run.lock), cleaned_up(run):
        published = check_output(run)
        work = find_work(run, published, find_rules(RULES))
        if not work:
            report_unchanged(run, published, work)
            return
        parsed = {source.name: read_source(run, source, work) for source in SOURCES}
        song_data, log_data = (source.records for source in parsed.values())
        matches = find_matches(run, work, build_matches(song_data))
        rebuild = find_rebuild(run, work, parsed, matches)
        tables = build_tables(song_data, log_data, plan_layout(run, rebuild))
        stage_tables(run, rebuild, tables)
        songs, plays = loaded(song_data), build_plays(log_data)
        figures = check_tables(run, work, rebuild, songs, plays)
        state = replace(work.known, matches=matches, figures=figures)
        publish_tables(run, published, rebuild, state, parsed)


def show_plan(spark: SparkSession, config: EtlConfig, report: Report) -> None:
    """Print what a run would read and build anew, without doing it."""
    set_what_results_depend_on(spark)
    run = open_run(spark, config, report)
    work = find_work(run, look_at_output(run), find_rules(RULES))
    print("\n".join(describe_plan(work, run.tables)))


def recover(spark: SparkSession, config: EtlConfig, report: Report) -> None:
    """Only finish what an earlier run committed, and delete what dead runs have staged."""
    set_what_results_depend_on(spark)
    with locked(open_run(spark, config, report).lock):
        tell("nothing is left unfinished")


def show_tables(spark: SparkSession, config: EtlConfig, rows: int) -> None:
    """Print the first rows of each published table."""
    storage = open_storage(spark, config.output)
    for table in TABLES if rows else ():
        print(f"{table.name}: {readable(storage.path(table.name))}")
        published = spark.read.schema(table.schema).parquet(storage.path(table.name))
        published.orderBy(*table.sort_by).limit(rows).show(rows, truncate=24)


# ---- The command line ----------------------------------------------------------------------------


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; each flag beats the setting of the same name in dl.cfg."""
    parser = argparse.ArgumentParser(
        prog="etl.py",
        description="Build Sparkify's five tables from song and log JSON, and publish them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", type=Path, default=DL_CFG, metavar="FILE", help="dl.cfg to read"
    )
    parser.add_argument("--song-data", metavar="PATH", help="folder or URI of the song files")
    parser.add_argument("--log-data", metavar="PATH", help="folder or URI of the log files")
    parser.add_argument("--output", metavar="PATH", help="folder or URI of the lake")
    parser.add_argument(
        "--max-rejected-percent", metavar="N", help="fail above this share of rejects"
    )
    parser.add_argument("--partition-songs", metavar="COLUMNS", help="year, or year,artist_id")
    parser.add_argument(
        "--show", type=int, default=0, metavar="N", help="print the first N rows of each table"
    )
    parser.add_argument("--full", action="store_true", help="read all input, not only what is new")
    parser.add_argument("--dry-run", action="store_true", help="only say what a run would do")
    parser.add_argument("--recover", action="store_true", help="only finish an interrupted swap")
    return parser.parse_args(argv)


EXAMPLES = """examples:
  python etl.py                                   the unpacked sample data, into output/
  python etl.py --output /tmp/lake --partition-songs year,artist_id
  spark-submit etl.py --song-data s3://bucket/song_data --log-data s3://bucket/log_data \\
      --output s3://bucket/lake
  python etl.py --dry-run                         what a run would read and build anew, and why
  python etl.py --recover                         finish what an interrupted run had committed

exit codes: 0 published, or nothing was new; 1 failed (and says what became of the tables);
            2 usage or configuration; 3 another run holds the lock on this output;
            130 interrupted"""


def load_config(arguments: argparse.Namespace) -> EtlConfig:
    """The settings, with the flags that were given."""
    flags = {
        ("etl", "song_data"): arguments.song_data,
        ("etl", "log_data"): arguments.log_data,
        ("etl", "output"): arguments.output,
        ("etl", "max_rejected_percent"): arguments.max_rejected_percent,
        ("partitions", "songs"): arguments.partition_songs,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    return replace(load_etl_config(arguments.config, given), full=arguments.full)


# What can go wrong without a bug: each ends the job with one line and no traceback.
ENDS: dict[type[BaseException], ExitCode] = {
    ConfigError: ExitCode.USAGE,
    LockedError: ExitCode.LOCKED,
    KeyboardInterrupt: ExitCode.CTRL_C,
    **dict.fromkeys((SourceError, DataQualityError, StorageError), ExitCode.FAILED),
    SignInError: ExitCode.FAILED,
    **dict.fromkeys((PySparkException, Py4JError), ExitCode.FAILED),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job as the command line and dl.cfg say; returns the exit code."""
    arguments = parse_args(argv)
    try:
        run_command(arguments, load_config(arguments))
    except tuple(ENDS) as error:
        print(f"etl.py: error: {explain(one_line(error))}", file=sys.stderr)
        return next(code for kind, code in ENDS.items() if isinstance(error, kind))
    return ExitCode.DONE


def run_command(arguments: argparse.Namespace, config: EtlConfig) -> None:
    """Start the session, then publish the tables or only recover, and print the result."""
    signal.signal(signal.SIGTERM, _interrupt)
    report = Report(new_run())
    with report.stage("session"):
        spark = create_session(config, lambda: will_read_little(config, find_rules(RULES)))
    signal.signal(signal.SIGINT, _interrupt)  # PySpark's own handler interrupts py4j in mid-call
    if arguments.recover or arguments.dry_run:
        (recover if arguments.recover else show_plan)(spark, config, report)
        return
    run_job(spark, config, report)
    print(render(report))
    show_tables(spark, config, arguments.show)


def _interrupt(*_: object) -> None:
    logging.disable()  # py4j would log the interrupt with its stack
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
