"""Sparkify's data lake job: song and log JSON in, a star schema of five Parquet tables out.

It runs as `python etl.py` on a laptop and as `spark-submit etl.py` on a cluster, on Spark 3.5 and
4.0 and Python 3.9 and later. From top to bottom: how each table is built, how the tables are
staged, checked and published, and how a run starts and ends. What the tables are stands in
lake/tables.py, how a line of input is judged in lake/sources.py, and how staged tables replace
published ones in lake/publishing.py.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, DataFrameWriter, SparkSession, Window
from pyspark.sql import functions as F

from configs import DL_CFG, ConfigError, EtlConfig, load_etl_config
from lake import publishing
from lake.checks import (
    MATCHED,
    ROWS,
    Counts,
    DataQualityError,
    build_checks,
    check_counts,
    check_schema,
    find_shrinkage,
    read_checks,
    read_fingerprints,
)
from lake.publishing import ETL, REJECTS, REPORTS, Fingerprints, Lock, LockedError, partition_of
from lake.report import Report, now, render, tell
from lake.sources import (
    LOADED,
    SourceError,
    build_account,
    build_log_data,
    build_song_data,
    check_account,
    find_unreadable,
    input_files,
    is_blank,
    loaded,
    read_log_files,
    read_song_files,
    rejected,
)
from lake.storage import Storage, StorageError, open_storage
from lake.tables import (
    ARTISTS,
    SONGPLAYS,
    SONGS,
    TABLES,
    TIME,
    USERS,
    Table,
    columns,
    stored_schema,
)

# ---- Transforms: DataFrames in, a DataFrame out --------------------------------------------------

PLAY_KEY = ("start_time", "user_id", "session_id", "item_in_session")


def build_tables(song_data: DataFrame, log_data: DataFrame) -> dict[str, DataFrame]:
    """All five tables, by name, from the two sources: the whole pipeline."""
    plays = build_plays(match_songs(log_data, song_data))
    return {
        SONGS.name: build_songs(song_data),
        ARTISTS.name: build_artists(song_data),
        USERS.name: build_users(plays),
        TIME.name: build_time(plays),
        SONGPLAYS.name: build_songplays(plays),
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
    """One row per artist_id: the best-described record (coordinates, location, latest year)."""
    has_coordinates = F.col("artist_latitude").isNotNull() & F.col("artist_longitude").isNotNull()
    best_described = [
        has_coordinates.desc(),
        is_blank("artist_location").asc(),
        F.coalesce("year", F.lit(0)).desc(),
        *_ascending("artist_name", "artist_location", "artist_latitude", "artist_longitude"),
    ]
    return first_per_key(loaded(song_data), ["artist_id"], best_described).select(
        "artist_id",
        F.col("artist_name").alias("name"),
        F.col("artist_location").alias("location"),
        F.col("artist_latitude").alias("latitude"),
        F.col("artist_longitude").alias("longitude"),
    )


def match_songs(log_data: DataFrame, song_data: DataFrame) -> DataFrame:
    """The log with song_id and artist_id of the song of the same title, artist and length.

    They are null where there is none; song, artist and length have served their purpose and go.
    """
    match_key = ["song", "artist", "length"]
    songs = _one_per_song(song_data).select(
        F.col("title").alias("song"),
        F.col("artist_name").alias("artist"),
        F.col("duration").alias("length"),
        "song_id",
        "artist_id",
    )
    # Two songs that share all three would multiply plays: the lower song_id stands for both.
    matches = first_per_key(songs.dropna(), match_key, _ascending("song_id", "artist_id"))
    return log_data.join(matches, on=match_key, how="left").drop(*match_key)


def build_plays(log_data: DataFrame) -> DataFrame:
    """One row per loaded event with its songplay_id; one that came twice is here twice still."""
    return loaded(log_data).withColumn("songplay_id", songplay_id())


def build_users(plays: DataFrame) -> DataFrame:
    """One row per user_id, as of the user's latest play."""
    latest = [F.col(name).desc_nulls_last() for name in PLAY_KEY if name != "user_id"]
    ties = _ascending("level", "first_name", "last_name", "gender")  # of copies of that play
    return first_per_key(plays, ["user_id"], [*latest, *ties]).select(*columns(USERS.schema))


def build_time(plays: DataFrame, layout: Sequence[str] = ()) -> DataFrame:
    """One row per start_time, to the millisecond, with its parts in UTC; `layout` is kept."""
    start_time = F.col("start_time")
    parts = {
        "hour": F.hour(start_time),
        "day": F.dayofmonth(start_time),
        "week": F.weekofyear(start_time),  # ISO 8601
        "month": F.month(start_time),
        "year": F.year(start_time),
        "weekday": F.dayofweek(start_time),  # 1 = Sunday
    }
    # Sorted to be distinct, as it is written sorted: a hash would lose the order.
    moments = plays.select("start_time", *layout)
    return first_per_key(moments, [*layout, "start_time"], [start_time]).withColumns(parts)


def build_songplays(plays: DataFrame, layout: Sequence[str] = ()) -> DataFrame:
    """One row per play, an event that was delivered twice counting once; `layout` is kept."""
    order = ("level", "song_id", "artist_id", "location", "user_agent")
    names = [*columns(SONGPLAYS.schema), *layout]
    return first_per_key(plays, [*layout, *PLAY_KEY], _ascending(*order)).select(*names)


def songplay_id() -> Column:
    """A 64-bit hash of the whole natural key of a play, so that a rerun gives it the same id.

    The hash of a null leaves its seed as it was, and so (a, null) and (null, a) would be one: which
    fields are null is hashed as well. The check of the primary key guards against a collision.
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


# ---- The run: read, stage, check, publish --------------------------------------------------------


Reader = Callable[[SparkSession, str], DataFrame]
Builder = Callable[[DataFrame], DataFrame]
FILE = "_file"  # the number of a row's file in its partition


@dataclass(frozen=True)
class Run:
    """What the steps of one run share."""

    spark: SparkSession
    config: EtlConfig
    storage: Storage
    lock: Lock
    report: Report

    @property
    def tables(self) -> list[Table]:
        """The tables, partitioned as configured."""
        partitions = self.config.partitions
        return [replace(table, partition_by=partitions.get(table.name, ())) for table in TABLES]

    def staged(self, name: str) -> str:
        """Where this run stages a source or a table, below the lake's root."""
        return f"{ETL}/{self.report.run}/{name}"

    def staged_path(self, name: str) -> str:
        """The same as a full path."""
        return self.storage.path(self.staged(name))


def run_job(spark: SparkSession, config: EtlConfig, report: Report) -> None:
    """Publish all five tables from what the sources hold now, or raise with nothing changed."""
    set_what_results_depend_on(spark)
    storage = open_storage(spark, config.output)
    lock = Lock(storage, report.run, config.lock_minutes * 60)
    run = Run(spark, config, storage, lock, report)
    with locked(lock):
        try:
            song_data = read_source(
                run,
                "song_data",
                read_song_files,
                # As many tasks as it takes to open small files; what they find fits into few.
                lambda files: build_song_data(files).hint("rebalance"),
            )
            log_data = read_source(
                run,
                "log_data",
                read_log_files,
                lambda lines: match_songs(build_log_data(lines), song_data),
            )
            stage_tables(run, song_data, log_data)
            fingerprints = check_tables(run, song_data, log_data)
            publish_tables(run, fingerprints)
        except BaseException as error:
            report.error = one_line(error)
            with suppress(Py4JError):  # else what runs on would write to what is cleaned up here
                cancel_jobs(spark, interrupted=isinstance(error, KeyboardInterrupt))
            tell(publishing.abandon(storage, report.run))
            with suppress(StorageError):  # the first error is the one to tell
                write_report(storage, report)
                if isinstance(error, Exception):
                    lock.assert_not_taken()  # whoever took it has removed what was staged
            raise


def cancel_jobs(spark: SparkSession, *, interrupted: bool) -> None:
    """Cancel what runs; an interrupted query may be between two of its jobs, and start the next."""
    if interrupted:  # Spark has pages to say of every task that is cut short, and no news
        jvm: Any = spark._jvm
        log4j = jvm.org.apache.logging.log4j
        log4j.core.config.Configurator.setAllLevels("", log4j.Level.OFF)
    for _ in range(20 if interrupted else 1):
        spark.sparkContext.cancelAllJobs()
        time.sleep(0.05 if interrupted else 0)


@contextmanager
def locked(lock: Lock) -> Iterator[None]:
    """Hold the lock, and begin by finishing what an earlier run committed but did not swap in."""
    try:
        taken_over = lock.acquire()
        if taken_over:
            tell(taken_over)
        finish_earlier_runs(lock)
        yield
    finally:
        lock.release()


def finish_earlier_runs(lock: Lock) -> None:
    """Put in place what earlier runs had committed, and say so."""
    try:
        for finished in publishing.recover(lock.storage, lock):
            tell(finished)
    except KeyboardInterrupt:
        tell("what an earlier run committed may not all be in place: the next run finishes it")
        raise


def read_source(run: Run, name: str, read: Reader, build: Builder) -> DataFrame:
    """A source with the outcome of each record: parsed once, and then read from the staging area.

    Its rejected records go to rejects/<run>, whatever becomes of the run. Raises SourceError where
    it cannot be read, holds nothing to load, or is rejected beyond the limit.
    """
    path = getattr(run.config, name)
    with run.report.stage(name) as facts:
        files, parsed = stage_source(run, name, path, read, build)
        source = run.spark.read.schema(parsed.schema).parquet(run.staged_path(name))
        outcomes = source.groupBy("outcome").agg(F.count(F.lit(1)), F.sum("repaired")).collect()
        account = build_account({outcome: count for outcome, count, _ in outcomes})
        account["files"] = len(input_files(files))
        facts.append(f"{account['read']:,} records in {account['files']:,} files")
    run.report.sources[name] = account
    run.report.repaired_names += sum(count for outcome, _, count in outcomes if outcome == LOADED)
    if account["rejected"]:
        rejects = run.storage.path(f"{REJECTS}/{run.report.run}/{name}")
        rejected(source).coalesce(1).write.json(rejects)
        tell(f"           {name}: rejected records are in {rejects}")
    check_account(name, path, account, run.config.max_rejected_percent)
    return source


def stage_source(
    run: Run, name: str, path: str, read: Reader, build: Builder
) -> tuple[DataFrame, DataFrame]:
    """Parse a source into the staging area; returns its files as text, and what they parse to."""
    try:
        files = read(run.spark, path)
    except PySparkException as error:
        raise SourceError(f"{name}: cannot read {path}: {one_line(error)}") from error
    parsed = build(files)
    staged = run.staged_path(name)
    try:
        new_writer(parsed, staged).parquet(staged)
    except (PySparkException, Py4JJavaError) as error:
        unreadable = find_unreadable(files)
        if not unreadable:
            raise
        raise SourceError(
            f"{name}: cannot read {unreadable}: {one_line(error)}; mend or remove it, and run again"
        ) from error
    return files, parsed


def stage_tables(run: Run, song_data: DataFrame, log_data: DataFrame) -> None:
    """Build all five tables and write each to the staging area."""
    plays = build_plays(log_data)
    for table in run.tables:
        with run.report.stage(table.name):
            rows = build_laid_out(run, table, song_data, plays)
            path = run.staged_path(table.name)
            stage_table(rows, table, path, run.config.max_rows_per_file)


def build_laid_out(run: Run, table: Table, song_data: DataFrame, plays: DataFrame) -> DataFrame:
    """A table's rows, those of one file brought together."""
    limit = run.config.max_rows_per_file
    by_start_time = {TIME.name: build_time, SONGPLAYS.name: build_songplays}
    if table.name in by_start_time:
        is_large = run.report.sources["log_data"]["loaded"] > limit
        sizes = count_partitions(table, plays) if is_large else {}
        # start_time alone tells a row's file, so rows of one key are in one file: a single shuffle
        # brings together what a file holds and what is a duplicate.
        laid_out = lay_out(plays, table, sizes, limit)
        return by_start_time[table.name](laid_out, layout_of(table))
    builders = {
        SONGS.name: (build_songs, song_data),
        ARTISTS.name: (build_artists, song_data),
        USERS.name: (build_users, plays),
    }
    build, source = builders[table.name]
    return lay_out(build(source), table, {}, limit)


def count_partitions(table: Table, plays: DataFrame) -> dict[tuple[int, ...], int]:
    """The plays in each partition of a table, duplicates included."""
    parts = [date_part(name) for name in table.partition_by]
    counts = plays.groupBy(*parts).count().collect()
    return {tuple(row)[:-1]: row["count"] for row in counts}


def layout_of(table: Table) -> list[str]:
    """The columns whose values are the same for all rows of a file."""
    return [*table.partition_by, FILE]


def lay_out(
    rows: DataFrame, table: Table, sizes: Mapping[tuple[int, ...], int], limit: int
) -> DataFrame:
    """Rows with the columns of the table's layout, those of one file brought together."""
    parts = {name: date_part(name) for name in table.partition_by if name not in rows.columns}
    rows = rows.withColumns({**parts, FILE: build_file_number(table, sizes, limit)})
    if table.partition_by or sizes:
        return rows.repartition(*layout_of(table))
    return rows.repartition(1)


def stage_table(rows: DataFrame, table: Table, path: str, limit: int) -> None:
    """Write a laid out table to a fresh folder."""
    rows = rows.sortWithinPartitions(*layout_of(table), *table.sort_by).drop(FILE)
    writer = new_writer(rows, path).option("maxRecordsPerFile", limit)
    writer.partitionBy(*table.partition_by).parquet(path, mode="errorifexists")


def new_writer(rows: DataFrame, path: str) -> DataFrameWriter:
    """A writer of rows to a path; to a local disk by Hadoop's class without checksum files.

    Without its native library Hadoop starts a process to set the mode of every file and folder:
    these are half of them. The setting is this writer's own, as S3's client needs the usual class.
    """
    writer = rows.write.options(**NO_DICTIONARY)
    return writer.options(**PLAIN_LOCAL_FILES) if path.startswith("file:") else writer


# Almost every row has one of its own: Parquet would fill a dictionary with them, and drop it.
NO_DICTIONARY = {
    f"parquet.enable.dictionary#{name}": "false" for name in ("start_time", "songplay_id")
}
PLAIN_LOCAL_FILES = {
    "fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem",
    "fs.file.impl.disable.cache": "true",  # else the class that was opened first stays
}


def build_file_number(table: Table, sizes: Mapping[tuple[int, ...], int], limit: int) -> Column:
    """Which file of its partition a row goes to: 0, except in a partition above the limit.

    A large one has 2, 4, 8 ... files, which any usual number of cores shares evenly.
    """
    number = F.lit(0).cast("long")
    for partition, size in sizes.items():
        # A hash fills the files unevenly, by well under 2 %.
        files = 1 << (int(size * 1.02) // limit).bit_length()
        is_here = [F.col(name) == value for name, value in zip(table.partition_by, partition)]
        spread = F.pmod(F.xxhash64("start_time"), F.lit(files))
        number = F.when(functools.reduce(Column.__and__, is_here, F.lit(True)), spread).otherwise(
            number
        )
    return number


def date_part(name: str) -> Column:
    """A partition column that is derived from start_time."""
    parts = {"year": F.year, "month": F.month, "day": F.dayofmonth}
    return parts[name]("start_time").alias(name)


def check_tables(run: Run, song_data: DataFrame, log_data: DataFrame) -> Fingerprints:
    """Check what was really written; raises DataQualityError with table, rule and count.

    Returns what tells the rows of a partition from others, where a swap goes by partitions.
    """
    by_partition = not run.storage.atomic_rename
    with run.report.stage("checks") as facts:
        files = {table.name: run.storage.files(run.staged(table.name)) for table in TABLES}
        check_schemas(run, files)
        staged = {table.name: read_staged(run, table) for table in run.tables}
        source_keys = build_source_keys(song_data, log_data)
        checks = build_checks(run.tables, staged, source_keys, fingerprints=by_partition)
        answer = checks.collect()
        counts, run.report.plays_per_day = read_checks(run.tables, answer)
        check_counts(counts)
        facts.append(f"{len(counts):,} counts, no rule broken")
    note_counts(run.report, counts)
    for name, sizes in files.items():
        run.report.tables[name] = {
            "rows": counts[name, ROWS],
            "partitions": len(set(map(partition_of, sizes))),
            "files": len(sizes),
            "bytes": sum(sizes.values()),
        }
    warn_of_shrinkage(run)
    partitions = {name: map(partition_of, sizes) for name, sizes in files.items()}
    return read_fingerprints(run.tables, answer, partitions) if by_partition else {}


def build_source_keys(song_data: DataFrame, log_data: DataFrame) -> dict[str, DataFrame]:
    """The identity of every row that each table must have, as often as the source names it."""
    songs, plays = loaded(song_data), build_plays(log_data)
    return {
        table.name: source.select(*table.identity)
        for source, tables in ((songs, (SONGS, ARTISTS)), (plays, (USERS, TIME, SONGPLAYS)))
        for table in tables
    }


def read_staged(run: Run, table: Table) -> DataFrame:
    """A staged table, read back from storage with the schema of its contract."""
    return run.spark.read.schema(stored_schema(table)).parquet(run.staged_path(table.name))


def check_schemas(run: Run, files: Mapping[str, Collection[str]]) -> None:
    """Raise DataQualityError unless each table has files, and they have its columns and types."""
    for table in run.tables:
        if not files[table.name]:
            raise DataQualityError(
                f"{table.name}: no row is staged; an empty table is not published"
            )
        first = f"{run.staged_path(table.name)}/{min(files[table.name])}"
        check_schema(table, run.spark.read.parquet(first).schema)


def note_counts(report: Report, counts: Counts) -> None:
    """Tell duplicates from loaded records, now that the tables are counted."""
    for source, table in (("song_data", SONGS), ("log_data", SONGPLAYS)):
        account, rows = report.sources[source], counts[table.name, ROWS]
        account["duplicate"] = account["loaded"] - rows
        account["loaded"] = rows
    report.matched_plays = counts[SONGPLAYS.name, MATCHED]


def warn_of_shrinkage(run: Run) -> None:
    """Compare with the last published run and warn where the lake lost much of what it held."""
    for name in sorted(run.storage.files(REPORTS), reverse=True):
        previous = json.loads(run.storage.read(f"{REPORTS}/{name}"))
        if previous["status"] == "published":
            rows = {table: known["rows"] for table, known in run.report.tables.items()}
            before = {table: known["rows"] for table, known in previous["tables"].items()}
            matched = run.report.matched_plays
            for warning in find_shrinkage(rows, matched, before, previous["matched_plays"]):
                run.report.warn(warning)
            return


def publish_tables(run: Run, fingerprints: Fingerprints) -> None:
    """Commit the staged tables and swap them in; once committed, a run can only be finished."""
    with run.report.stage("commit"):
        names = [table.name for table in TABLES]
        plan, contents = publishing.build_plan(run.storage, run.report.run, names, fingerprints)
        publishing.commit(run.storage, run.lock, plan)
    with run.report.stage("swap") as facts:
        publishing.swap(run.storage, run.lock, plan)
        publishing.write_contents(run.storage, contents)
        if fingerprints:
            facts.append(publishing.tell_unchanged(plan, contents))
    run.report.status = "published"
    write_report(run.storage, run.report)
    publishing.drop_staging(run.storage, run.report.run)
    publishing.keep_latest(run.storage, run.config.keep_reports)


def write_report(storage: Storage, report: Report) -> None:
    """Write the run's report as JSON."""
    report.finished = now()
    storage.write(f"{REPORTS}/{report.run}.json", report.as_json())


# ---- Start ---------------------------------------------------------------------------------------


# A laptop's few cores do more with the plainest collector: 7 % more lines a second.
COLLECTOR = "-XX:+UseParallelGC"
# Java's optimizing compiler makes the parsing twice as fast, but its own work pays only from some
# 150 MB of JSON: the sample takes 20 s without it and 26 s with it.
QUICK_COMPILER = "-XX:TieredStopAtLevel=1"
SMALL_INPUT = 30_000_000  # bytes; they may be packed
# The classes of a run as Java keeps them in memory, where setup-archive.sh has made it: to load and
# verify them anew takes every run 4 s. Java passes over one that does not fit it any more.
CLASS_ARCHIVE = Path(sys.prefix, "spark.jsa")
# Where a user says how Java starts. If it is with an agent, Java 17 crashes on classes of log4j in
# an archive; one that is attached to a run does no harm.
USERS_OPTIONS = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "SPARK_SUBMIT_OPTS")


def java_options(config: EtlConfig | None) -> str:
    """Java's options on a laptop; without its slow compiler if both sources are small folders."""
    options = [COLLECTOR]
    if config and is_small(config):
        options.append(QUICK_COMPILER)
    if CLASS_ARCHIVE.is_file() and not any(map(os.environ.get, USERS_OPTIONS)):
        options.append(f'"-XX:SharedArchiveFile={CLASS_ARCHIVE}"')
        options += ["-Xlog:cds=off", "-Xlog:cds+dynamic=off"]  # not a word of one that does not fit
    return " ".join(options)


def is_small(config: EtlConfig) -> bool:
    """Whether both sources are folders on this disk and hold little."""
    folders = (Path(config.log_data), Path(config.song_data))
    try:
        files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        totals = itertools.accumulate(path.stat().st_size for path in files)
        # The sizes are added up only until they are above.
        return all(f.is_dir() for f in folders) and all(total <= SMALL_INPUT for total in totals)
    except OSError:  # what this may not look at, Spark will tell of
        return False


def create_session(config: EtlConfig | None = None) -> SparkSession:
    """The session; what a laptop needs is set only where no spark-submit has said otherwise."""
    builder = SparkSession.builder.appName("sparkify-etl")
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        log4j2 = Path(__file__).with_name("lake").joinpath("log4j2.properties").as_uri()
        builder = (
            builder.config(
                "spark.driver.extraJavaOptions",
                f"{java_options(config)} -Dlog4j2.configurationFile={log4j2}",
            )
            .config("spark.ui.enabled", False)
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.ui.showConsoleProgress", sys.stderr.isatty())
        )
    spark = builder.getOrCreate()
    set_what_suits(spark, one_machine=str(spark.sparkContext.master).startswith("local"))
    return spark


def set_what_results_depend_on(spark: SparkSession) -> None:
    """Fix every setting that could change a value, whatever the host or the cluster has set."""
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    spark.conf.set("spark.sql.ansi.enabled", True)
    spark.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
    spark.conf.set("spark.sql.files.ignoreCorruptFiles", False)
    spark.conf.set("spark.sql.files.ignoreMissingFiles", False)
    hadoop: Any = spark.sparkContext._jsc.hadoopConfiguration()
    hadoop.set("mapreduce.fileoutputcommitter.marksuccessfuljobs", "false")
    if hadoop.get("fs.s3.impl") is None:  # s3:// where the cluster has no client of its own for it
        hadoop.set("fs.s3.impl", "org.apache.hadoop.fs.s3a.S3AFileSystem")


def set_what_suits(spark: SparkSession, *, one_machine: bool) -> None:
    """Set how work is cut into tasks, where Spark's defaults suit this job badly."""
    settings: dict[str, Any] = {
        # What takes a task its time is a table's files: a few bytes of them are no reason to merge.
        "spark.sql.adaptive.coalescePartitions.minPartitionSize": "16k"
    }
    if one_machine:  # few shuffle partitions, small files packed tightly: a cluster would suffer
        settings["spark.sql.shuffle.partitions"] = 4 * spark.sparkContext.defaultParallelism
        settings["spark.sql.files.openCostInBytes"] = 16_384
    for name, value in settings.items():
        if not spark.sparkContext.getConf().contains(name):  # what was asked for stands
            spark.conf.set(name, value)


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
    parser.add_argument("--recover", action="store_true", help="only finish a swap that broke off")
    return parser.parse_args(argv)


EXAMPLES = """examples:
  python etl.py                                   the unpacked sample data, into output/
  python etl.py --output /tmp/lake --partition-songs year,artist_id
  spark-submit etl.py --song-data s3://bucket/song_data --log-data s3://bucket/log_data \\
      --output s3://bucket/lake
  python etl.py --recover                         finish what an interrupted run had committed

exit codes: 0 published, 1 failed (and says what was published), 2 usage or configuration,
            3 another run is at work on this output"""


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
    return load_etl_config(arguments.config, given)


# What can go wrong without being a bug of ours: told in one line, without a traceback.
EXPECTED = (
    *(SourceError, DataQualityError, StorageError),
    *(PySparkException, Py4JError, KeyboardInterrupt),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job as the command line and dl.cfg say; returns the exit code."""
    arguments = parse_args(argv)
    try:
        config = load_config(arguments)
    except ConfigError as error:
        return fail(error, 2)
    signal.signal(signal.SIGTERM, _interrupt)
    report = Report(publishing.new_run())
    try:
        with report.stage("session"):
            spark = create_session(config)
        signal.signal(signal.SIGINT, _interrupt)  # PySpark's own handler breaks a call in two
        if arguments.recover:
            recover(spark, config, report)
        else:
            run_job(spark, config, report)
            print(render(report))
            show_tables(spark, config, arguments.show)
    except LockedError as error:
        return fail(error, 3)
    except EXPECTED as error:
        return fail(error, 1)
    return 0


def recover(spark: SparkSession, config: EtlConfig, report: Report) -> None:
    """Only finish what an earlier run committed, and drop what dead runs have staged."""
    set_what_results_depend_on(spark)
    with locked(Lock(open_storage(spark, config.output), report.run, config.lock_minutes * 60)):
        tell("nothing is left unfinished")


def show_tables(spark: SparkSession, config: EtlConfig, rows: int) -> None:
    """Print the first rows of each published table."""
    storage = open_storage(spark, config.output)
    for table in TABLES if rows else ():
        print(f"\n{table.name}: {storage.path(table.name)}")
        published = spark.read.schema(table.schema).parquet(storage.path(table.name))
        published.orderBy(*table.sort_by).show(rows, truncate=24)


def fail(error: BaseException, code: int) -> int:
    """Say on one line what went wrong, and return the exit code."""
    print(f"etl.py: error: {one_line(error)}", file=sys.stderr)
    return code


def one_line(error: BaseException) -> str:
    """What went wrong, from an error and its causes, without stacks and Spark's own wrappings."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    messages = [" ".join(message.split("\n")[0].split()) for message in _causes(error)]
    telling = [m for m in messages if not m.startswith(("Job aborted", "[TASK_WRITE_FAILED]"))]
    return ": ".join(telling or messages[-1:])


def _causes(error: BaseException) -> Iterator[str]:
    if isinstance(error, Py4JJavaError):
        cause = error.java_exception
        while cause is not None:
            yield str(cause.getMessage() or cause.toString())
            cause = cause.getCause()
        return
    python_cause: BaseException | None = error
    while python_cause is not None:
        yield str(python_cause)
        python_cause = getattr(python_cause, "cause", None)  # Spark's own chain


def _interrupt(*_: object) -> None:
    logging.disable()  # py4j would log the interrupt with its stack
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
