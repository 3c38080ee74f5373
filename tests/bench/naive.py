"""The job as it is most often written: inferred schemas, one read a table, Python UDFs for time.

It is here to be timed, not to be copied: its tables have the usual faults (ids that change from run
to run, users twice, hours in the host's zone, plays lost where no song matches).
"""

from __future__ import annotations

import argparse
from datetime import datetime

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

to_seconds = F.udf(lambda ts: ts // 1000, T.LongType())
to_moment = F.udf(lambda seconds: datetime.fromtimestamp(seconds), T.TimestampType())  # noqa: DTZ006


def write_songs(spark: SparkSession, song_data: str, output: str, partitions: list[str]) -> None:
    songs = spark.read.json(f"{song_data}/*/*/*/*.json")
    songs = songs.select("song_id", "title", "artist_id", "year", "duration").dropDuplicates()
    songs.write.mode("overwrite").partitionBy(*partitions).parquet(f"{output}/songs")


def write_artists(spark: SparkSession, song_data: str, output: str) -> None:
    songs = spark.read.json(f"{song_data}/*/*/*/*.json")
    artists = songs.select(
        "artist_id",
        F.col("artist_name").alias("name"),
        F.col("artist_location").alias("location"),
        F.col("artist_latitude").alias("latitude"),
        F.col("artist_longitude").alias("longitude"),
    ).dropDuplicates()
    artists.write.mode("overwrite").parquet(f"{output}/artists")


def read_plays(spark: SparkSession, log_data: str) -> DataFrame:
    events = spark.read.json(f"{log_data}/*/*/*.json")
    return events.filter(events.page == "NextSong")


def write_users(spark: SparkSession, log_data: str, output: str) -> None:
    users = read_plays(spark, log_data).select(
        F.col("userId").alias("user_id"),
        F.col("firstName").alias("first_name"),
        F.col("lastName").alias("last_name"),
        "gender",
        "level",
    )
    users.dropDuplicates().write.mode("overwrite").parquet(f"{output}/users")


def write_time(spark: SparkSession, log_data: str, output: str) -> None:
    plays = read_plays(spark, log_data).withColumn("start_time", to_moment(to_seconds("ts")))
    time = plays.select(
        "start_time",
        F.hour("start_time").alias("hour"),
        F.dayofmonth("start_time").alias("day"),
        F.weekofyear("start_time").alias("week"),
        F.month("start_time").alias("month"),
        F.year("start_time").alias("year"),
        F.dayofweek("start_time").alias("weekday"),
    ).dropDuplicates()
    time.write.mode("overwrite").partitionBy("year", "month").parquet(f"{output}/time")


def write_songplays(spark: SparkSession, song_data: str, log_data: str, output: str) -> None:
    plays = read_plays(spark, log_data).withColumn("start_time", to_moment(to_seconds("ts")))
    songs = spark.read.json(f"{song_data}/*/*/*/*.json")
    matched = plays.join(
        songs,
        (plays.song == songs.title)
        & (plays.artist == songs.artist_name)
        & (plays.length == songs.duration),
    )
    songplays = matched.select(
        F.monotonically_increasing_id().alias("songplay_id"),
        "start_time",
        F.col("userId").alias("user_id"),
        "level",
        "song_id",
        "artist_id",
        F.col("sessionId").alias("session_id"),
        "location",
        F.col("userAgent").alias("user_agent"),
        F.year("start_time").alias("year"),
        F.month("start_time").alias("month"),
    )
    songplays.write.mode("overwrite").partitionBy("year", "month").parquet(f"{output}/songplays")


def main() -> None:
    """Write the five tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    for flag in ("--song-data", "--log-data", "--output"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--partition-songs", default="year,artist_id")
    arguments = parser.parse_args()
    song_data, log_data, output = arguments.song_data, arguments.log_data, arguments.output
    spark = SparkSession.builder.appName("naive").getOrCreate()
    write_songs(spark, song_data, output, arguments.partition_songs.split(","))
    write_artists(spark, song_data, output)
    write_users(spark, log_data, output)
    write_time(spark, log_data, output)
    write_songplays(spark, song_data, log_data, output)
    spark.stop()


if __name__ == "__main__":
    main()
