"""What becomes of each line of input: it is loaded, filtered, or rejected with a reason.

Spark's own JSON reader is not enough. It takes the first of two objects on a line and forgets the
second, reads a key in another case as null, and what it calls corrupt depends on the columns that
are selected. So lines are read as text and judged here, one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lake.names import undo_latin1
from lake.tables import columns

# Only the fields that some table needs: the parser skips all others.
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
JSON_OPTIONS = {
    "mode": "PERMISSIVE",
    "columnNameOfCorruptRecord": "_corrupt",
    "allowSingleQuotes": "false",
    "allowNonNumericNumbers": "false",
}
LOADED, FILTERED = "loaded", "filtered"  # the outcomes of a line; any other is a rejection's reason
EARLIEST_TS, LATEST_TS = 946_684_800_000, 4_102_444_800_000  # 2000 to 2100: no seconds, no us
LONGEST_REJECT = 65_536  # characters of a rejected line that are kept
NAMES = ("song", "artist")  # of the log, to be repaired

# ---- Building records ----------------------------------------------------------------------------

# In JSON a line break never stands inside a string. So one next to a brace is between two objects.
BETWEEN_OBJECTS = r"(?<=\})[ \t]*+[\r\n]|[\r\n][ \t]*+(?=\{)"


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


def split_song_files(song_files: DataFrame) -> DataFrame:
    """One row per JSON object of a song file: it may be pretty-printed, or one of several."""
    return song_files.select("file", F.explode(F.split("line", BETWEEN_OBJECTS)).alias("line"))


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
    # The names were decoded wrongly twice, so they are repaired twice. Each time needs a select of
    # its own: nested in one expression, Spark would compute the inner repair again and again.
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


def loaded(records: DataFrame) -> DataFrame:
    """The records of a source that are to be loaded, duplicates included."""
    return records.filter(F.col("outcome") == LOADED)


def rejected(records: DataFrame) -> DataFrame:
    """The rejected records of a source: why, which file, and the text, shortened if it is long."""
    return records.filter(_is_rejected()).select(
        F.col("outcome").alias("reason"),
        "file",
        F.length("line").alias("length"),
        F.sha2("line", 256).alias("sha256"),
        F.substring("line", 1, LONGEST_REJECT).alias("line"),
    )


def is_blank(name: str) -> Column:
    """Whether a text field is null, empty or white space."""
    # Most text begins with a character after white space: one comparison, and no trim, tells.
    blank = rf"{name} < '!' AND trim(BOTH ' \t\r\n' FROM {name}) = ''"
    return F.coalesce(F.expr(blank), F.lit(True))


def _if_rejected(*names: str) -> list[Column]:
    return [F.when(_is_rejected(), F.col(name)).alias(name) for name in names]


def _is_rejected() -> Column:
    return ~F.col("outcome").isin(LOADED, FILTERED)


def _is_repaired(name: str) -> Column:
    return (~undo_latin1(f"{name}_once").eqNullSafe(F.col(name))).cast("int")


# ---- Judging lines -------------------------------------------------------------------------------

# This runs for every line of the log. Each condition first tests bytes (startswith, contains); only
# a line that looks suspicious is trimmed, measured with length() or matched with a pattern.

# White space and the byte order mark are not part of an object.
TRIMMED = r"trim(BOTH ' \t\r\n\uFEFF' FROM line)"
LOOKS_TRIMMED = "startswith(line, '{') AND endswith(line, '}')"

# A Spark string is raw bytes: invalid UTF-8 does not survive being decoded and encoded again.
INVALID_UTF8 = "encode(line, 'UTF-8') != CAST(line AS BINARY)"

# A line without its strings, in which each object (up to four deep) is replaced by a 0. Replaced
# step by step: one pattern for it all would overflow Java's stack on a long line.
SKELETON = functools.reduce(
    lambda bare, pattern: f"regexp_replace({bare}, r'{pattern}', '0')",
    [r"\{[^{}]*+\}"] * 4,
    r"""regexp_replace(regexp_replace(line, r'\\.', ''), r'"[^"]*+"', '')""",
)
# Spark reads the first of several objects and forgets the others.
ENDS_AT_FIRST_BRACE = "endswith(line, '}') AND split(line, '}', 2)[1] = ''"
ONE_OBJECT = f"startswith(line, '{{') AND ({ENDS_AT_FIRST_BRACE} OR {SKELETON} = '0')"
SEVERAL_OBJECTS = rf"{SKELETON} RLIKE r'^(\[|0[\s,]*[0{{])'"


def parse_lines(lines: DataFrame, schema: str) -> DataFrame:
    """One row per line that is not blank: file, line, the schema's fields, and its fault or null.

    These are the faults of any JSON line; the callers add those of their source.
    """
    trimmed = F.expr(f"IF({LOOKS_TRIMMED}, line, {TRIMMED})")
    texts = lines.select("file", trimmed.alias("line")).filter("line != ''")
    # The parsed object stays one column here: Spark would parse the line again for each field.
    parsed = texts.select("file", "line", _text_fault().alias("fault"), _json(schema).alias("json"))
    return parsed.select("file", "line", "json.*", "fault").withColumn("fault", _fault(schema))


def _text_fault() -> Column:
    """Why a line is not exactly one object in UTF-8, as far as its raw text tells, or null."""
    return F.when(F.expr(INVALID_UTF8), "not_json").when(
        F.expr(f"NOT ({ONE_OBJECT})"),
        F.when(F.expr(SEVERAL_OBJECTS), "several_objects").otherwise("not_json"),
    )


def _fault(schema: str) -> Column:
    """Why a line is not a JSON object with fields of the declared types, or null."""
    fields = columns(schema)
    texts = [name for name, kind in fields.items() if kind == "STRING"]
    doubles = [name for name, kind in fields.items() if kind == "DOUBLE"]
    as_text = ", ".join(f"{name} STRING" for name in fields)
    is_json = _json(as_text)["_corrupt"].isNull()
    return (
        F.when(F.col("fault").isNotNull(), F.col("fault"))
        .when(F.expr("_corrupt IS NOT NULL"), F.when(is_json, "wrong_type").otherwise("not_json"))
        .when(_any(map(_is_not_text, texts)), "wrong_type")
        .when(_any(map(_is_in_another_case, fields)), "key_in_another_case")
        .when(_any(f"abs({name}) = double('infinity')" for name in doubles), "number_out_of_range")
    )


def _json(schema: str) -> Column:
    return F.from_json("line", f"{schema}, _corrupt STRING", JSON_OPTIONS)


def _is_not_text(name: str) -> str:
    """Whether a text field holds an object, an array or a boolean: Spark reads those as text."""
    starts = " OR ".join(f"startswith({name}, '{start}')" for start in ("{", "[", "true", "false"))
    # Most text sorts before all four of these: one comparison tells.
    looks_like_json = f"{name} >= '[' AND ({starts})"
    is_no_string = rf"""line RLIKE r'(?<!\\)"{name}"\s*:\s*[\[{{tf]'"""
    return f"coalesce({looks_like_json}, false) AND {is_no_string}"


def _is_in_another_case(name: str) -> str:
    """Whether a field is null because its key is there in another case, which Spark ignores."""
    is_absent = f"""{name} IS NULL AND NOT contains(line, '"{name}"')"""
    return f"""{is_absent} AND contains(lower(line), '"{name.lower()}"')"""


def _any(conditions: Iterable[str]) -> Column:
    """Whether one of the conditions is true; a condition that is null counts as false."""
    return F.expr(" OR ".join(f"({condition}) IS TRUE" for condition in conditions))
