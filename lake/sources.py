"""How the two sources are read: every line of them is loaded, filtered or rejected with a reason.

Spark's own JSON reader is not enough here. It takes the first of two objects on a line and forgets
the second, reads a key in another case as null, and tells a good line from a bad one by the columns
that are selected. So lines are read as text, and judged one by one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from lake.storage import Disk, Storage, StorageError, open_storage
from lake.tables import columns


class SourceError(Exception):
    """A source cannot be read or has nothing to load, or too much of it is bad; in one line."""


# Only the fields that some table needs: the parser skips the others without building them.
SONG_SCHEMA = """
    song_id STRING, title STRING, duration DOUBLE, year INT,
    artist_id STRING, artist_name STRING, artist_location STRING,
    artist_latitude DOUBLE, artist_longitude DOUBLE
"""
LOG_SCHEMA = """
    ts BIGINT, page STRING, userId STRING, firstName STRING, lastName STRING, gender STRING,
    level STRING, song STRING, artist STRING, length DOUBLE, sessionId BIGINT,
    itemInSession BIGINT, location STRING, userAgent STRING
"""
LOADED, FILTERED = "loaded", "filtered"  # the outcomes of a line; any other is a rejection's reason

JSON_OPTIONS = {
    "mode": "PERMISSIVE",
    "columnNameOfCorruptRecord": "_corrupt",
    "allowSingleQuotes": "false",
    "allowNonNumericNumbers": "false",
}
EARLIEST_TS, LATEST_TS = 946_684_800_000, 4_102_444_800_000  # 2000 to 2100: a ts in s or us is out
LONGEST_REJECT = 65_536  # characters of a rejected line that are kept

# In JSON a line break never stands inside a string, so one next to a brace parts two objects.
BETWEEN_OBJECTS = r"(?<=\})[ \t]*+[\r\n]|[\r\n][ \t]*+(?=\{)"


def read_song_files(spark: SparkSession, path: str) -> DataFrame:
    """One row per song file: its path and its whole text."""
    storage = open_storage(spark, path)
    if not isinstance(storage, Disk):
        return _read_text(spark, storage, path, wholetext=True)
    # Spark's text source copies all of Hadoop's settings for every file, which takes longer than to
    # read it. Its source of raw bytes does not, but asks S3 more and unpacks nothing.
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", True)
    files = reader.load(path).selectExpr(FILE_PATH, "CAST(content AS STRING) AS line")
    packed = [file for file in input_files(files) if re.search(PACKED, file)]
    if not packed:
        return files
    unpacked = spark.read.text(packed, wholetext=True).selectExpr(FILE_PATH, "value AS line")
    return files.filter(~F.col("file").rlike(PACKED)).unionByName(unpacked)


def read_log_files(spark: SparkSession, path: str) -> DataFrame:
    """One row per line of the log files: the file's path and the line."""
    return _read_text(spark, open_storage(spark, path), path, wholetext=False)


FILE_PATH = "_metadata.file_path AS file"
PACKED = r"\.(gz|bz2|deflate|lz4|snappy|zst)$"  # what Hadoop knows to unpack


def _read_text(spark: SparkSession, storage: Storage, path: str, *, wholetext: bool) -> DataFrame:
    reader = spark.read.option("recursiveFileLookup", True)
    texts = None
    if storage.is_flat and spark.version.startswith("3."):
        # Where this can't be done, the public way finds the files or says what is wrong.
        with suppress(StorageError, Py4JError, TypeError):
            texts = _read_listed_at_once(spark, storage, wholetext=wholetext)
    if texts is None:
        texts = reader.text(path, wholetext=wholetext)
    return texts.selectExpr(FILE_PATH, "value AS line")


def _read_listed_at_once(
    spark: SparkSession, storage: Storage, *, wholetext: bool
) -> DataFrame | None:
    """The text of all files below a path in S3, whose listing takes one request a thousand files.

    Spark 3's own reader lists folder by folder, and a catalogue has about as many folders as files.
    This hands it the listing, by classes that are Spark's own. Spark 4 does the same by itself.
    None where it finds no file: the path may be a pattern.
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
    """The paths of the files that a frame reads, in one call into the JVM however many they are."""
    jvm: Any = frame.sparkSession._jvm
    joined = jvm.org.apache.hadoop.util.StringUtils.join("\n", frame._jdf.inputFiles())
    return [unquote(path) for path in str(joined).splitlines()]


def find_unreadable(files: DataFrame) -> str:
    """The first file that cannot be read to its end, by halves; '' where all of them can.

    For a file that breaks off in its middle Spark says what is wrong, but not where.
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


def split_song_files(song_files: DataFrame) -> DataFrame:
    """One row per JSON object of a song file: it may be pretty-printed, or one of several."""
    return song_files.select("file", F.explode(F.split("line", BETWEEN_OBJECTS)).alias("line"))


def parse_lines(lines: DataFrame, schema: str) -> DataFrame:
    """One row per line that is not blank: file, line, the schema's fields, and its fault or null.

    The reasons are those that JSON alone gives; the callers add those of their source.
    """
    trimmed = F.expr(f"IF({LOOKS_TRIMMED}, line, {TRIMMED})")
    texts = lines.select("file", trimmed.alias("line")).filter("line != ''")
    # The parsed line stays one column: were its fields named here, Spark would parse for each.
    parsed = texts.select("file", "line", _text_fault().alias("fault"), _json(schema).alias("json"))
    return parsed.select("file", "line", "json.*", "fault").withColumn("fault", _fault(schema))


def build_song_data(song_files: DataFrame) -> DataFrame:
    """One row per song record with its outcome; file and line are kept for rejected ones only."""
    outcome = F.coalesce(
        "fault",
        F.when(is_blank("song_id"), "blank_song_id").when(is_blank("artist_id"), "blank_artist_id"),
        F.lit(LOADED),
    )
    records = parse_lines(split_song_files(song_files), SONG_SCHEMA).withColumn("outcome", outcome)
    return records.select(
        "outcome",
        *_if_rejected("file", "line"),
        *columns(SONG_SCHEMA),
        F.lit(0).alias("repaired"),
    )


def build_log_data(lines: DataFrame) -> DataFrame:
    """One row per event with its outcome, repaired names and start_time (UTC, milliseconds).

    `repaired` counts the repaired names of the row; file and line are kept for rejected rows only.
    """
    is_play = F.col("page").eqNullSafe("NextSong")
    possible_ts = F.coalesce(F.col("ts").between(EARLIEST_TS, LATEST_TS), F.lit(False))
    outcome = F.coalesce(
        "fault",
        F.when(~possible_ts, "impossible_ts")
        .when(is_play & is_blank("userId"), "blank_user_id")
        .when(~is_play, FILTERED),
        F.lit(LOADED),
    )
    events = parse_lines(lines, LOG_SCHEMA).withColumn("outcome", outcome)
    # The names are UTF-8 that was read as Latin-1, twice over. Each round is a step of its own.
    events = events.withColumns({f"{name}_once": undo_latin1(name) for name in NAMES})
    return events.select(
        "outcome",
        *_if_rejected("file", "line"),
        F.when(possible_ts, F.timestamp_millis("ts")).alias("start_time"),
        F.col("userId").alias("user_id"),
        F.col("firstName").alias("first_name"),
        F.col("lastName").alias("last_name"),
        *("gender", "level", "length", "location"),
        *(undo_latin1(f"{name}_once").alias(name) for name in NAMES),
        F.col("sessionId").alias("session_id"),
        F.col("itemInSession").alias("item_in_session"),
        F.col("userAgent").alias("user_agent"),
        functools.reduce(Column.__add__, map(_is_repaired, NAMES)).alias("repaired"),
    )


NAMES = ("song", "artist")
# Text whose characters are the bytes of well-formed UTF-8 (table 3-7 of the Unicode standard).
UTF8_AS_LATIN1 = (
    r"^(?:[\x00-\x7F]++|[\xC2-\xDF][\x80-\xBF]|\xE0[\xA0-\xBF][\x80-\xBF]"
    r"|[\xE1-\xEC\xEE\xEF][\x80-\xBF]{2}|\xED[\x80-\x9F][\x80-\xBF]|\xF0[\x90-\xBF][\x80-\xBF]{2}"
    r"|[\xF1-\xF3][\x80-\xBF]{3}|\xF4[\x80-\x8F][\x80-\xBF]{2})*+$"
)
LONGEST_NAME = 1_000  # characters; Java's regular expressions recurse, and no name is that long


def undo_latin1(name: str) -> Column:
    """A name whose UTF-8 was read as Latin-1, as it was meant; one that is right stays as it is.

    Only where it is exact: each character is a byte, and all together they are UTF-8.
    """
    value = F.col(name)
    is_suspect = (F.octet_length(value) != F.length(value)) & (F.length(value) <= LONGEST_NAME)
    decoded = F.encode(value, "ISO-8859-1").cast("string")
    return F.when(is_suspect & value.rlike(UTF8_AS_LATIN1), decoded).otherwise(value)


def _if_rejected(*names: str) -> list[Column]:
    return [F.when(_is_rejected(), F.col(name)).alias(name) for name in names]


def _is_rejected() -> Column:
    return ~F.col("outcome").isin(LOADED, FILTERED)


# These conditions meet every line of the log: each begins with what is cheap to ask of raw bytes,
# and only a line that looks odd is asked the rest. To count characters is dear, to find one is not.

# White space and the byte order mark: neither is part of an object.
TRIMMED = r"trim(BOTH ' \t\r\n\uFEFF' FROM line)"
LOOKS_TRIMMED = "startswith(line, '{') AND endswith(line, '}')"

# Spark's text is raw bytes: what is not UTF-8 does not survive a way through characters.
NO_UTF8 = "encode(line, 'UTF-8') != CAST(line AS BINARY)"

# A line without its strings, each object in it (up to four deep) put as a 0. In single steps and
# not as one pattern: Java's would overflow the stack on a long line.
SKELETON = functools.reduce(
    lambda bare, pattern: f"regexp_replace({bare}, r'{pattern}', '0')",
    [r"\{[^{}]*+\}"] * 4,
    r"""regexp_replace(regexp_replace(line, r'\\.', ''), r'"[^"]*+"', '')""",
)
# Spark reads the first of several objects and forgets the others.
ENDS_AT_FIRST_BRACE = "endswith(line, '}') AND split(line, '}', 2)[1] = ''"
ONE_OBJECT = f"startswith(line, '{{') AND ({ENDS_AT_FIRST_BRACE} OR {SKELETON} = '0')"
SEVERAL = rf"{SKELETON} RLIKE r'^(\[|0[\s,]*[0{{])'"


def _text_fault() -> Column:
    """Why a line is no single object in UTF-8, or null: what only its raw text can tell."""
    return F.when(F.expr(NO_UTF8), "not_json").when(
        F.expr(f"NOT ({ONE_OBJECT})"),
        F.when(F.expr(SEVERAL), "several_objects").otherwise("not_json"),
    )


def _fault(schema: str) -> Column:
    """Why a line is no complete JSON object with fields of the declared types, or null."""
    fields = columns(schema)
    texts = [name for name, kind in fields.items() if kind == "STRING"]
    doubles = [name for name, kind in fields.items() if kind == "DOUBLE"]
    as_text = ", ".join(f"{name} STRING" for name in fields)
    is_json = _json(as_text)["_corrupt"].isNull()
    return (
        F.when(F.col("fault").isNotNull(), F.col("fault"))
        .when(F.expr("_corrupt IS NOT NULL"), F.when(is_json, "wrong_type").otherwise("not_json"))
        .when(_any(map(_is_no_text, texts)), "wrong_type")
        .when(_any(map(_is_in_another_case, fields)), "key_in_another_case")
        .when(_any(f"abs({name}) = double('infinity')" for name in doubles), "number_out_of_range")
    )


def _json(schema: str) -> Column:
    return F.from_json("line", f"{schema}, _corrupt STRING", JSON_OPTIONS)


def _is_no_text(name: str) -> str:
    """Whether a text field holds an object, an array or a truth value, which Spark puts as text."""
    starts = " OR ".join(f"startswith({name}, '{start}')" for start in ("{", "[", "true", "false"))
    # Most text sorts before all four, and one comparison tells.
    looks_like_json = f"{name} >= '[' AND ({starts})"
    is_no_string = rf"""line RLIKE r'(?<!\\)"{name}"\s*:\s*[\[{{tf]'"""
    return f"coalesce({looks_like_json}, false) AND {is_no_string}"


def _is_in_another_case(name: str) -> str:
    """Whether a field is null because its key is there in another case, which Spark ignores."""
    is_absent = f"""{name} IS NULL AND NOT contains(line, '"{name}"')"""
    return f"""{is_absent} AND contains(lower(line), '"{name.lower()}"')"""


def _any(conditions: Iterable[str]) -> Column:
    """Whether one of them is true; one that is null is not."""
    return F.expr(" OR ".join(f"({condition}) IS TRUE" for condition in conditions))


def is_blank(name: str) -> Column:
    """Whether a text field is null, empty or white space."""
    # Most text begins with something beyond white space, and need not be trimmed to know.
    blank = rf"{name} < '!' AND trim(BOTH ' \t\r\n' FROM {name}) = ''"
    return F.coalesce(F.expr(blank), F.lit(True))


def _is_repaired(name: str) -> Column:
    return (~undo_latin1(f"{name}_once").eqNullSafe(F.col(name))).cast("int")


def loaded(source: DataFrame) -> DataFrame:
    """The records of a source that are to be loaded; duplicates are among them still."""
    return source.filter(F.col("outcome") == LOADED)


def rejected(source: DataFrame) -> DataFrame:
    """The rejected records of a source: why, which file, and the text, cut where it is long."""
    return source.filter(_is_rejected()).select(
        F.col("outcome").alias("reason"),
        "file",
        F.length("line").alias("length"),
        F.sha2("line", 256).alias("sha256"),
        F.substring("line", 1, LONGEST_REJECT).alias("line"),
    )


def build_account(outcomes: Mapping[str, int]) -> dict[str, Any]:
    """What became of a source's records: read = loaded + filtered + duplicate + rejected."""
    return {
        "files": 0,
        "read": sum(outcomes.values()),
        "loaded": outcomes.get(LOADED, 0),
        "filtered": outcomes.get(FILTERED, 0),
        "duplicate": 0,  # told apart from loaded once the tables are checked
        "rejected": {k: n for k, n in sorted(outcomes.items()) if k not in (LOADED, FILTERED)},
    }


def check_account(name: str, path: str, account: Mapping[str, Any], limit: float) -> None:
    """Raise SourceError where a source is empty, or where too much of it was rejected."""
    rejected = sum(account["rejected"].values())
    if rejected > account["read"] * limit / 100:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in account["rejected"].items())
        raise SourceError(
            f"{name}: {rejected:,} of {account['read']:,} records are rejected ({reasons}), more "
            f"than {limit:g} %; mend them, or allow more with --max-rejected-percent"
        )
    if not account["loaded"]:
        raise SourceError(
            f"{name}: {path} holds nothing to load ({account['read']:,} records read); "
            "is it the right path?"
        )
