"""How the two sources are read: every line of them is loaded, filtered or rejected with a reason.

Spark's own JSON reader is not enough here. It takes the first of two objects on a line and forgets
the second, reads a key in another case as null, and tells a good line from a bad one by the columns
that are selected. So lines are read as text, and judged one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from tables import columns


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
    return _read_text(spark, path, wholetext=True)


def read_log_files(spark: SparkSession, path: str) -> DataFrame:
    """One row per line of the log files: the file's path and the line."""
    return _read_text(spark, path, wholetext=False)


def _read_text(spark: SparkSession, path: str, *, wholetext: bool) -> DataFrame:
    reader = spark.read.option("recursiveFileLookup", True)
    return reader.text(path, wholetext=wholetext).select(
        F.col("_metadata.file_path").alias("file"), F.col("value").alias("line")
    )


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
    # White space and the byte order mark: neither is part of an object.
    trimmed = F.expr(r"trim(BOTH ' \t\r\n\uFEFF' FROM line)")
    # Parsed in a generator, so that no later filter makes Spark parse the line a second time.
    parsed = lines.select("file", trimmed.alias("line")).filter("line != ''")
    parsed = parsed.select("file", "line", F.inline(F.array(_json(schema))))
    return parsed.withColumn("fault", _fault(schema)).drop("_corrupt")


def build_song_data(song_files: DataFrame) -> DataFrame:
    """One row per song record with its outcome; file and line are kept for rejected ones only."""
    outcome = F.coalesce(
        "fault",
        F.when(is_blank("song_id"), "blank_song_id").when(is_blank("artist_id"), "blank_artist_id"),
        F.lit(LOADED),
    )
    return _with_outcome(parse_lines(split_song_files(song_files), SONG_SCHEMA), outcome).select(
        "outcome", "file", "line", *columns(SONG_SCHEMA), F.lit(0).alias("repaired")
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
    song, artist = repair_name(F.col("song")), repair_name(F.col("artist"))
    return _with_outcome(parse_lines(lines, LOG_SCHEMA), outcome).select(
        *("outcome", "file", "line"),
        F.when(possible_ts, F.timestamp_millis("ts")).alias("start_time"),
        F.col("userId").alias("user_id"),
        F.col("firstName").alias("first_name"),
        F.col("lastName").alias("last_name"),
        *("gender", "level", "length", "location"),
        song.alias("song"),
        artist.alias("artist"),
        F.col("sessionId").alias("session_id"),
        F.col("itemInSession").alias("item_in_session"),
        F.col("userAgent").alias("user_agent"),
        (_differ(song, "song") + _differ(artist, "artist")).alias("repaired"),
    )


# Text whose characters are the bytes of well-formed UTF-8 (table 3-7 of the Unicode standard).
UTF8_AS_LATIN1 = (
    r"^(?:[\x00-\x7F]++|[\xC2-\xDF][\x80-\xBF]|\xE0[\xA0-\xBF][\x80-\xBF]"
    r"|[\xE1-\xEC\xEE\xEF][\x80-\xBF]{2}|\xED[\x80-\x9F][\x80-\xBF]|\xF0[\x90-\xBF][\x80-\xBF]{2}"
    r"|[\xF1-\xF3][\x80-\xBF]{3}|\xF4[\x80-\x8F][\x80-\xBF]{2})*+$"
)
LONGEST_NAME = 1_000  # characters; Java's regular expressions recurse, and no name is that long


def repair_name(name: Column) -> Column:
    """A name whose UTF-8 was read as Latin-1, twice over in the logs, as it was meant.

    Each round is made only where it is exact; a name that is right already stays as it is.
    """
    is_suspect = (F.octet_length(name) != F.length(name)) & (F.length(name) <= LONGEST_NAME)
    return F.when(is_suspect, _repair_once(_repair_once(name))).otherwise(name)


def _repair_once(name: Column) -> Column:
    decoded = F.encode(name, "ISO-8859-1").cast("string")
    return F.when(name.rlike(UTF8_AS_LATIN1), decoded).otherwise(name)


def _with_outcome(parsed: DataFrame, outcome: Column) -> DataFrame:
    return (
        parsed.withColumn("outcome", outcome)
        .withColumn("file", F.when(_is_rejected(), F.col("file")))
        .withColumn("line", F.when(_is_rejected(), F.col("line")))
    )


def _is_rejected() -> Column:
    return ~F.col("outcome").isin(LOADED, FILTERED)


def _fault(schema: str) -> Column:
    """Why a line is no single, complete JSON object with fields of the declared types, or null."""
    fields = columns(schema)
    as_text = ", ".join(f"{name} STRING" for name in fields)
    is_json = _json(as_text)["_corrupt"].isNull()
    is_corrupt = F.col("_corrupt").isNotNull()
    return (
        F.when(~_is_utf8(), "not_json")
        .when(~_is_one_object() & _is_several(), "several_objects")
        .when(~_is_one_object() | (is_corrupt & ~is_json), "not_json")
        .when(
            is_corrupt
            | _any(_is_no_text(name) for name, kind in fields.items() if kind == "STRING"),
            "wrong_type",
        )
        .when(_any(_is_in_another_case(name) for name in fields), "key_in_another_case")
        .when(
            _any(_is_infinite(name) for name, kind in fields.items() if kind == "DOUBLE"),
            "number_out_of_range",
        )
    )


def _json(schema: str) -> Column:
    return F.from_json("line", f"{schema}, _corrupt STRING", JSON_OPTIONS)


def _is_utf8() -> Column:
    """Spark's text is raw bytes: what is not UTF-8 does not survive a way through characters."""
    return F.encode("line", "UTF-8") == F.col("line").cast("binary")


def _is_one_object() -> Column:
    """Whether a line is one object: Spark reads the first of several and forgets the others."""
    line = F.col("line")
    ends_at_first_brace = F.instr(line, "}") == F.length(line)
    return line.startswith("{") & (ends_at_first_brace | (_skeleton() == "0"))


def _is_several() -> Column:
    return _skeleton().rlike(r"^(\[|0[\s,]*[0{])")


def _skeleton() -> Column:
    """A line without its strings, each object in it (up to four deep) put as a 0.

    In single steps and not as one pattern: Java's would overflow the stack on a long line.
    """
    bare = F.regexp_replace("line", r"\\.", "")
    bare = F.regexp_replace(bare, r'"[^"]*+"', "")
    for _ in range(4):
        bare = F.regexp_replace(bare, r"\{[^{}]*+\}", "0")
    return bare


def _is_no_text(name: str) -> Column:
    """Whether a text field holds an object, an array or a truth value, which Spark puts as text."""
    looks_like_json = F.col(name).rlike(r"^([\[{]|true$|false$)")
    return looks_like_json & F.col("line").rlike(rf'(?<!\\)"{name}"\s*:\s*[\[{{tf]')


def _is_in_another_case(name: str) -> Column:
    """Whether a field is null because its key is there in another case, which Spark ignores."""
    line = F.col("line")
    absent = F.col(name).isNull() & ~line.contains(f'"{name}"')
    return absent & F.lower(line).contains(f'"{name.lower()}"')


def _is_infinite(name: str) -> Column:
    return F.coalesce(F.abs(F.col(name)) == float("inf"), F.lit(False))


def is_blank(name: str) -> Column:
    """Whether a text field is null, empty or white space."""
    return F.coalesce(F.expr(rf"trim(BOTH ' \t\r\n' FROM {name})") == "", F.lit(True))


def _differ(new: Column, old: str) -> Column:
    return (~new.eqNullSafe(F.col(old))).cast("int")


def _any(conditions: Iterable[Column]) -> Column:
    return functools.reduce(lambda a, b: a | b, (F.coalesce(c, F.lit(False)) for c in conditions))


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
