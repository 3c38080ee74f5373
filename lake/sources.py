"""The two sources: how their files are read as text, and how their records are accounted for."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lake.lines import FILTERED, LOADED, build_log_data, build_song_data
from lake.paths import is_hidden, readable
from lake.storage import Disk, HadoopStorage, Storage, StorageError, open_storage

FILE_PATH = "_metadata.file_path AS file"
COMPRESSED = r"\.(gz|bz2|deflate|lz4|snappy|zst)$"  # what Hadoop decompresses by a file's ending


class SourceError(Exception):
    """A source cannot be read or has nothing to load, or too much of it is bad; in one line."""


# ---- Reading files -------------------------------------------------------------------------------


def read_song_files(spark: SparkSession, path: str) -> DataFrame:
    """One row per song file: its path and its whole text."""
    storage = open_storage(spark, path)
    if not isinstance(storage, Disk):
        return _read_text(spark, storage, path, wholetext=True)
    # Spark's text source copies all Hadoop settings for each file, which takes longer than reading
    # it. Its binaryFile source does not, but it needs more S3 requests and does not decompress.
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", True)
    files = reader.load(path).selectExpr(FILE_PATH, "CAST(content AS STRING) AS line")
    compressed = [file for file in input_files(files) if re.search(COMPRESSED, file)]
    if not compressed:
        return files
    texts = spark.read.text(compressed, wholetext=True).selectExpr(FILE_PATH, "value AS line")
    return files.filter(~F.col("file").rlike(COMPRESSED)).unionByName(texts)


def read_log_files(spark: SparkSession, path: str) -> DataFrame:
    """One row per line of the log files: the file's path and the line."""
    return _read_text(spark, open_storage(spark, path), path, wholetext=False)


def _read_text(spark: SparkSession, storage: Storage, path: str, *, wholetext: bool) -> DataFrame:
    reader = spark.read.option("recursiveFileLookup", True)
    texts = None
    if isinstance(storage, HadoopStorage) and storage.is_flat and spark.version.startswith("3."):
        # If this fails, Spark's public reader finds the files or says what is wrong.
        with suppress(StorageError, Py4JError, TypeError):
            texts = _read_listed_at_once(spark, storage, wholetext=wholetext)
    if texts is None:
        texts = reader.text(path, wholetext=wholetext)
    return texts.selectExpr(FILE_PATH, "value AS line")


def _read_listed_at_once(
    spark: SparkSession, storage: HadoopStorage, *, wholetext: bool
) -> DataFrame | None:
    """The text of all files below a path in S3, listed with one request per thousand files.

    Spark 3 lists folder by folder, one request each, and a catalogue has about as many folders as
    files. Here our listing is put into Spark's cache of listings, which has no public API. Spark 4
    lists like this by itself. Returns None if no file is found: the path may be a pattern.
    """
    jvm: Any = spark._jvm
    session: Any = spark._jsparkSession
    inner = jvm.org.apache.spark.sql.execution.datasources
    scala, none = jvm.org.apache.spark.api.python.PythonUtils, jvm.scala.Option.empty()
    new_schema = jvm.org.apache.spark.sql.types.StructType

    found = storage.statuses("")
    if not found:
        return None
    root = jvm.org.apache.hadoop.fs.Path(storage.root)
    array_of_statuses = jvm.java.lang.Class.forName("[Lorg.apache.hadoop.fs.FileStatus;")
    statuses = jvm.java.util.Arrays.copyOf(found.toArray(), found.size(), array_of_statuses)
    listing = inner.FileStatusCache.getOrCreate(session)
    listing.putLeafFiles(root, statuses)

    recursive = scala.toScalaMap({"recursiveFileLookup": "true"})
    options = scala.toScalaMap({"wholetext": str(wholetext).lower()})
    files = inner.InMemoryFileIndex(
        session, scala.toSeq([root]), recursive, none, listing, none, none
    )
    text, schema = inner.text.TextFileFormat(), new_schema().add("value", "string")
    relation = inner.HadoopFsRelation(files, new_schema(), schema, none, text, options, session)
    return DataFrame(session.baseRelationToDataFrame(relation), spark)


def input_files(frame: DataFrame) -> list[str]:
    """The paths of the files that a frame reads."""
    # Joined in the JVM: one call instead of one call a file.
    jvm: Any = frame.sparkSession._jvm
    joined = jvm.org.apache.hadoop.util.StringUtils.join("\n", frame._jdf.inputFiles())
    return [unquote(path) for path in str(joined).splitlines()]


def count_passed_over(storage: Storage) -> int:
    """How many files of a source Spark passes over for their names; 0 where listing is costly."""
    if not isinstance(storage, Disk):
        return 0
    root = readable(storage.root)
    paths = (
        os.path.relpath(f"{folder}/{file}", root)
        for folder, _, files in os.walk(root, followlinks=True)
        for file in files
    )
    return sum(is_hidden(path) or path.endswith("._COPYING_") for path in paths)


def find_unreadable(files: DataFrame) -> str:
    """The first file that cannot be read to its end, found by bisection; '' if all can be read.

    For a truncated file Spark says what is wrong, but not in which file.
    """
    suspects = input_files(files)
    while len(suspects) > 1:
        half = suspects[: len(suspects) // 2]
        is_readable = _can_be_read(files.sparkSession, half)
        suspects = suspects[len(half) :] if is_readable else half
    return "" if _can_be_read(files.sparkSession, suspects) else suspects[0]


def _can_be_read(spark: SparkSession, paths: list[str]) -> bool:
    try:
        spark.read.text(paths).write.format("noop").mode("overwrite").save()
    except (PySparkException, Py4JJavaError):
        return False
    return True


# ---- Accounting ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of some records of a source alike: how many, and one of their files."""

    outcome: str
    field: str | None
    records: int
    repaired: int = 0
    converted: int = 0
    file: str | None = None


def read_outcomes(records: DataFrame) -> list[Outcome]:
    """What became of the records of a source, counted by outcome and field."""
    counted = records.groupBy("outcome", "field").agg(
        F.count(F.lit(1)), F.sum("repaired"), F.sum("converted"), F.min("file")
    )
    return [Outcome(*row) for row in counted.collect()]


def build_account(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What became of a source's records: read = loaded + filtered + duplicate + rejected."""
    counts: Counter[str] = Counter()
    for found in outcomes:
        counts[found.outcome] += found.records
    return {
        "files": 0,
        "passed_over": 0,  # files whose names begin with _ or .
        "read": sum(counts.values()),
        "loaded": counts[LOADED],
        "filtered": counts[FILTERED],
        "duplicate": 0,  # known when the tables have been checked
        "converted": sum(found.converted for found in outcomes if found.outcome == LOADED),
        "rejected": {k: n for k, n in sorted(counts.items()) if k not in (LOADED, FILTERED)},
        "commonest": find_commonest(outcomes),
    }


def find_commonest(outcomes: Iterable[Outcome], wanted: int = 3) -> list[dict[str, Any]]:
    """The commonest reasons for a rejection with their fields, each with one file."""
    rejected = [found for found in outcomes if found.outcome not in (LOADED, FILTERED)]
    rejected.sort(key=lambda found: (-found.records, found.outcome, found.field or ""))
    return [
        {
            "reason": found.outcome,
            "field": found.field,
            "records": found.records,
            "file": readable(unquote(found.file or "")),
        }
        for found in rejected[:wanted]
    ]


def check_account(name: str, path: str, account: Mapping[str, Any], limit: float) -> None:
    """Raise SourceError where a source is empty, or where too much of it was rejected."""
    rejected = sum(account["rejected"].values())
    if rejected > account["read"] * limit / 100:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in account["rejected"].items())
        file = f", such as in {account['commonest'][0]['file']}"
        raise SourceError(
            f"{name}: {rejected:,} of {account['read']:,} records are rejected ({reasons}), more "
            f"than {limit:g} %{file}; fix them, or allow more with --max-rejected-percent"
        )
    if not account["loaded"]:
        raise SourceError(
            f"{name}: {path} holds nothing to load ({account['read']:,} records read); "
            "is it the right path?"
        )


# ---- The sources ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """One of the two inputs: its key in [etl], how its files are read, and what they parse to."""

    name: str
    read: Callable[[SparkSession, str], DataFrame]
    build: Callable[[DataFrame], DataFrame]


def build_few_partitions(song_files: DataFrame) -> DataFrame:
    """The song records in few partitions: small files need many read tasks, their rows do not."""
    return build_song_data(song_files).hint("rebalance")


SONG_DATA = Source("song_data", read_song_files, build_few_partitions)
LOG_DATA = Source("log_data", read_log_files, build_log_data)
