"""The two sources: how their files are read as text, and what they are parsed to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from lake.layout import PLAIN_LOCAL_FILES
from lake.lines import LOG_RECORD, SONG_RECORD, build_log_data, build_song_data
from lake.listing import COMPRESSED, Listing
from lake.storage import HadoopStorage, StorageError

FILE_PATH = "_metadata.file_path AS file"
# Spark takes each path for a pattern, unless this option of its own is set: a[1].json is a name.
# Without the second option it would still read the other files twice.
NO_PATTERNS = {"__globPaths__": "false", "recursiveFileLookup": "true"}
# Hadoop's usual class for a local disk looks for a checksum beside each file, and cannot even ask
# for that of a name with a colon, such as 2018-11-12T10:00:00.json.
AS_THEY_ARE = {**NO_PATTERNS, **PLAIN_LOCAL_FILES}
# From so many paths on Spark looks them up in a job of many tasks, which takes longer on one core.
LIST_IN_A_JOB = "spark.sql.sources.parallelPartitionDiscovery.threshold"


def read_song_files(spark: SparkSession, listing: Listing, files: Collection[str]) -> DataFrame:
    """One row per song file: its path and its whole text."""
    if not all(file.startswith("file:") for file in files):
        return read_text(spark, listing, files, wholetext=True)
    # Spark's text source copies all Hadoop settings for each file, which takes longer than reading
    # it. Its binaryFile source does not, but it needs more S3 requests and does not decompress.
    compressed = [file for file in files if COMPRESSED.search(file)]
    plain = [file for file in files if not COMPRESSED.search(file)]
    texts = []
    if plain:
        contents = load_files(spark, "binaryFile", plain, {})
        texts.append(contents.selectExpr(FILE_PATH, "CAST(content AS STRING) AS line"))
    if compressed:
        texts.append(read_text(spark, listing, compressed, wholetext=True))
    return texts[0].unionByName(texts[-1]) if len(texts) > 1 else texts[0]


def read_log_files(spark: SparkSession, listing: Listing, files: Collection[str]) -> DataFrame:
    """One row per line of the log files: the file's path and the line."""
    return read_text(spark, listing, files, wholetext=False)


def read_text(
    spark: SparkSession, listing: Listing, files: Collection[str], *, wholetext: bool
) -> DataFrame:
    """One row per line, or per file, of some of the files that were listed."""
    texts = None
    if all(isinstance(storage, HadoopStorage) and storage.is_flat for storage in listing.storages):
        # If this fails, Spark's public reader finds the files or says what is wrong.
        with suppress(StorageError, Py4JError, TypeError):
            texts = read_without_asking(spark, listing, files, wholetext=wholetext)
    if texts is None:
        texts = load_files(spark, "text", files, {"wholetext": str(wholetext).lower()})
    return texts.selectExpr(FILE_PATH, "value AS line")


def load_files(
    spark: SparkSession, source: str, files: Collection[str], options: dict[str, str]
) -> DataFrame:
    """These files and no others, whatever characters their names hold."""
    jvm: Any = spark._jvm
    # Joined and split in the JVM: one call instead of one call a file.
    paths = jvm.org.apache.hadoop.util.StringUtils.split("\0".join(sorted(files)), "\0")
    reader: Any = spark.read.format(source).options(**AS_THEY_ARE, **options)
    with setting(spark, LIST_IN_A_JOB, str(len(files))):
        return DataFrame(reader._jreader.load(paths), spark)


@contextmanager
def setting(spark: SparkSession, name: str, value: str) -> Iterator[None]:
    """A setting of Spark for a moment."""
    before = spark.conf.get(name)
    spark.conf.set(name, value)
    try:
        yield
    finally:
        spark.conf.set(name, str(before))


def read_without_asking(
    spark: SparkSession, listing: Listing, files: Collection[str], *, wholetext: bool
) -> DataFrame:
    """The text of files in S3, without a request for the status of each.

    Our listing is put into Spark's cache of listings, which has no public API.
    """
    jvm: Any = spark._jvm
    session: Any = spark._jsparkSession
    inner = jvm.org.apache.spark.sql.execution.datasources
    scala, none = jvm.org.apache.spark.api.python.PythonUtils, jvm.scala.Option.empty()
    new_schema = jvm.org.apache.spark.sql.types.StructType

    found = jvm.java.util.ArrayList()
    for storage in listing.storages:
        found.addAll(storage.statuses_of(files))  # type: ignore[attr-defined]
    root = jvm.org.apache.hadoop.fs.Path(listing.storages[0].root)
    array_of_statuses = jvm.java.lang.Class.forName("[Lorg.apache.hadoop.fs.FileStatus;")
    statuses = jvm.java.util.Arrays.copyOf(found.toArray(), found.size(), array_of_statuses)
    cache = inner.FileStatusCache.getOrCreate(session)
    cache.putLeafFiles(root, statuses)

    recursive = scala.toScalaMap({"recursiveFileLookup": "true"})
    options = scala.toScalaMap({"wholetext": str(wholetext).lower()})
    index = inner.InMemoryFileIndex(
        session, scala.toSeq([root]), recursive, none, cache, none, none
    )
    text, schema = inner.text.TextFileFormat(), new_schema().add("value", "string")
    relation = inner.HadoopFsRelation(index, new_schema(), schema, none, text, options, session)
    return DataFrame(session.baseRelationToDataFrame(relation), spark)


def path_of(file: str) -> str:
    """The path of a file as it was listed, from the one that Spark gives with a row."""
    return unquote(file)


def find_unreadable(spark: SparkSession, files: Collection[str]) -> str:
    """The first file that cannot be read to its end, found by bisection; '' if all can be read.

    For a truncated file Spark says what is wrong, but not in which file.
    """
    suspects = sorted(files)
    while len(suspects) > 1:
        half = suspects[: len(suspects) // 2]
        is_readable = can_be_read(spark, half)
        suspects = suspects[len(half) :] if is_readable else half
    return "" if can_be_read(spark, suspects) else suspects[0]


def can_be_read(spark: SparkSession, files: Collection[str]) -> bool:
    """Whether all of these files can be read to their ends."""
    try:
        load_files(spark, "text", files, {}).write.format("noop").mode("overwrite").save()
    except (PySparkException, Py4JJavaError):
        return False
    return True


@dataclass(frozen=True)
class Source:
    """One of the two inputs: its key in [etl], how its files are read, and what they parse to."""

    name: str
    read: Callable[[SparkSession, Listing, Collection[str]], DataFrame]
    build: Callable[[DataFrame], DataFrame]
    record: str  # the columns of what they parse to, with their types


def build_few_partitions(song_files: DataFrame) -> DataFrame:
    """The song records in few partitions: small files need many read tasks, their rows do not."""
    return build_song_data(song_files).hint("rebalance")


SONG_DATA = Source("song_data", read_song_files, build_few_partitions, SONG_RECORD)
LOG_DATA = Source("log_data", read_log_files, build_log_data, LOG_RECORD)
SOURCES = (SONG_DATA, LOG_DATA)
