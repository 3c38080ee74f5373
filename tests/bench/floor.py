"""The least that a Spark job can cost here: a session that parses the sources and drops the rows.

With --output the rows of the log are written instead: an empty session with one read and one write.
"""

from __future__ import annotations

import argparse

from pyspark.sql import DataFrame, SparkSession

SONG_SCHEMA = """
    song_id string, title string, artist_id string, artist_name string, artist_location string,
    artist_latitude double, artist_longitude double, year int, duration double
"""
LOG_SCHEMA = """
    ts bigint, page string, userId string, firstName string, lastName string, gender string,
    level string, sessionId bigint, itemInSession bigint, song string, artist string,
    length double, location string, userAgent string
"""


def create_session() -> SparkSession:
    """A session with the two settings that make thousands of small local files cheap to read."""
    return (
        SparkSession.builder.appName("floor")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.files.openCostInBytes", 16 * 1024)
        .config("spark.hadoop.fs.file.impl", "org.apache.hadoop.fs.RawLocalFileSystem")
        .getOrCreate()
    )


def read(spark: SparkSession, folder: str, schema: str) -> DataFrame:
    """One source's rows, of declared types."""
    return spark.read.schema(schema).option("recursiveFileLookup", "true").json(folder)


def main() -> None:
    """Parse what is given and discard it, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--song-data")
    parser.add_argument("--log-data", required=True)
    parser.add_argument("--output")
    arguments = parser.parse_args()
    spark = create_session()
    events = read(spark, arguments.log_data, LOG_SCHEMA)
    if arguments.output:
        events.write.parquet(arguments.output)
    else:
        events.write.format("noop").mode("overwrite").save()
    if arguments.song_data:
        songs = read(spark, arguments.song_data, SONG_SCHEMA)
        songs.write.format("noop").mode("overwrite").save()
    spark.stop()


if __name__ == "__main__":
    main()
