"""What becomes of each record of the input: it is loaded, filtered, or rejected with a reason."""

from __future__ import annotations

import functools

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lake.names import undo_latin1
from lake.parsing import (
    ENDS_AT_FIRST_BRACE,
    build_objects_of_array,
    columns,
    fault,
    find_text_fault,
    let,
    parse_lines,
)

# Only the fields that some table needs: the parser skips all others.
SONG_SCHEMA = """
    song_id STRING, title STRING, duration DOUBLE, year BIGINT,
    artist_id STRING, artist_name STRING, artist_location STRING,
    artist_latitude DOUBLE, artist_longitude DOUBLE
"""
LOG_SCHEMA = """
    ts BIGINT, page STRING, userId STRING, firstName STRING, lastName STRING, gender STRING,
    level STRING, song STRING, artist STRING, length DOUBLE, sessionId BIGINT,
    itemInSession BIGINT, location STRING, userAgent STRING
"""
# What is kept of each record, as it is parsed.
OUTCOME = "file STRING, outcome STRING, detail STRING, line STRING, converted INT"
SONG_RECORD = f"""{OUTCOME}, song_id STRING, title STRING, duration DOUBLE, artist_id STRING,
    artist_name STRING, artist_location STRING, artist_latitude DOUBLE, artist_longitude DOUBLE,
    year INT, repaired INT"""
LOG_RECORD = f"""{OUTCOME}, start_time TIMESTAMP, user_id STRING, first_name STRING,
    last_name STRING, gender STRING, level STRING, length DOUBLE, location STRING, song STRING,
    artist STRING, session_id BIGINT, item_in_session BIGINT, user_agent STRING, repaired INT"""
LOADED, FILTERED = "loaded", "filtered"  # the outcomes of a line; any other is a rejection's reason
EARLIEST_TS, LATEST_TS = 946_684_800_000, 4_102_444_800_000  # 2000 to 2100: no seconds, no us
LONGEST_REJECT = 65_536  # characters of a rejected line that are kept
LONGEST_PAGE = 40  # characters of the page of a filtered event, to count them by it
# Spark gives the path of a file as a URI. url_decode takes a plus sign for a space.
FILE_AS_LISTED = "url_decode(replace(file, '+', '%2B'))"
NAMES = ("song", "artist")  # of the log, to be repaired

# ---- Songs ---------------------------------------------------------------------------------------

# In JSON a line break never stands inside a string. So one between } and { is between two objects.
BETWEEN_OBJECTS = r"(?<=\})[ \t]*+[\r\n]\s*+(?=\{)"
# A text without a line break before its end needs no split: most song files are such.
HAS_LINES = r"line RLIKE r'[\r\n][ \t\r\n]*+[^ \t\r\n]'"
# Where that leaves no JSON, a line break next to a brace is taken for the end of a record.
BETWEEN_LINES = r"(?<=\})[ \t]*+[\r\n]|[\r\n][ \t]*+(?=\{)"
LONGEST_ARTIST_ID = 80  # bytes: it may be the name of a folder, with each byte as three characters
NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"  # as the name of a folder it stands for null


def build_song_data(song_files: DataFrame) -> DataFrame:
    """One row per song record with its file and outcome."""
    possible_values = {
        "artist_id": f"artist_id != '{NO_PARTITION}' AND octet_length(artist_id) <= "
        f"{LONGEST_ARTIST_ID}",
        "year": "year = 0 OR year BETWEEN 1000 AND 2100",
        "duration": "duration > 0",
        "artist_latitude": "artist_latitude BETWEEN -90 AND 90",
        "artist_longitude": "artist_longitude BETWEEN -180 AND 180",
    }
    is_wrong = [
        f"WHEN NOT ({is_possible}) THEN {fault('wrong_value', name)}"  # null is possible
        for name, is_possible in possible_values.items()
    ]
    faults = F.coalesce(
        "fault",
        F.when(is_blank("song_id"), F.expr(fault("blank_song_id", "song_id"))),
        F.when(is_blank("artist_id"), F.expr(fault("blank_artist_id", "artist_id"))),
        F.expr(f"CASE {' '.join(is_wrong)} END"),
    )
    records = parse_lines(split_song_files(song_files), SONG_SCHEMA).withColumn("fault", faults)
    records = records.withColumn("outcome", F.coalesce("fault.reason", F.lit(LOADED)))
    values = [F.col(name) for name in columns(SONG_SCHEMA) if name != "year"]
    return records.select(
        *_outcome_columns(F.lit(None)),
        *values,
        F.when(~_is_rejected(), F.col("year")).cast("int").alias("year"),
        F.lit(0).alias("repaired"),
    )


def split_song_files(song_files: DataFrame) -> DataFrame:
    """One row per record of a song file: it may be pretty-printed, one of several, or an array."""
    is_one = f"startswith(line, '{{') AND ({ENDS_AT_FIRST_BRACE.format('line')} OR NOT {HAS_LINES})"
    objects = _split("line", BETWEEN_OBJECTS)
    trimmed = r"trim(BOTH ' \t\r\n\uFEFF' FROM piece)"
    records = f"transform({objects}, piece -> {trimmed})"
    records = f"flatten(transform({records}, piece -> {_split_piece('piece')}))"
    split = F.expr(f"CASE WHEN {is_one} THEN array(line) ELSE {records} END")
    return song_files.select("file", F.explode(split).alias("line"))


def _split_piece(piece: str) -> str:
    """The records of a text between two objects' borders, as SQL."""
    records = f"""CASE
        WHEN reason IS NULL THEN array({piece})
        WHEN startswith({piece}, '[') AND reason = 'several_objects'
            THEN coalesce({build_objects_of_array(piece)}, array({piece}))
        WHEN startswith({piece}, '[') THEN array({piece})
        ELSE {_split(piece, BETWEEN_LINES)} END"""
    return let("reason", find_text_fault(piece), records)


def _split(text: str, pattern: str) -> str:
    """A text split as Latin-1, so that bytes which are no UTF-8 survive and are judged later."""
    latin1 = f"decode(CAST({text} AS BINARY), 'ISO-8859-1')"
    pieces = f"split({latin1}, r'{pattern}')"
    return f"transform({pieces}, part -> CAST(encode(part, 'ISO-8859-1') AS STRING))"


# ---- Events --------------------------------------------------------------------------------------


def build_log_data(lines: DataFrame) -> DataFrame:
    """One row per event with its outcome, repaired names and start_time (UTC, milliseconds).

    `repaired` counts the repaired names of the row; only a play has a start_time.
    """
    is_play = F.col("page").eqNullSafe("NextSong")
    possible_ts = F.coalesce(F.col("ts").between(EARLIEST_TS, LATEST_TS), F.lit(False))
    possible_level = F.coalesce(F.col("level").isin("free", "paid"), F.lit(False))
    faults = F.coalesce(
        "fault",
        F.when(~possible_ts, F.expr(fault("impossible_ts", "ts")))
        .when(is_play & is_blank("userId"), F.expr(fault("blank_user_id", "userId")))
        .when(is_play & ~possible_level, F.expr(fault("wrong_value", "level"))),
    )
    events = parse_lines(lines, LOG_SCHEMA).withColumn("fault", faults)
    not_rejected = F.when(is_play, LOADED).otherwise(FILTERED)
    events = events.withColumn("outcome", F.coalesce("fault.reason", not_rejected))
    # The names were decoded wrongly twice, so they are repaired twice. Each time needs a select of
    # its own: nested in one expression, Spark would compute the inner repair again and again.
    events = events.withColumns({f"{name}_once": undo_latin1(name) for name in NAMES})
    page = F.when(F.col("outcome") == FILTERED, F.substring("page", 1, LONGEST_PAGE))
    return events.select(
        *_outcome_columns(page),
        F.when(_is_loaded(), F.timestamp_millis("ts")).alias("start_time"),
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


# ---- Records -------------------------------------------------------------------------------------


def loaded(records: DataFrame) -> DataFrame:
    """The records of a source that are to be loaded, duplicates included."""
    return records.filter(_is_loaded())


def rejected(records: DataFrame) -> DataFrame:
    """The rejected records of a source: why, field, file, and the text, shortened if it is long."""
    return records.filter(_is_rejected()).select(
        F.col("outcome").alias("reason"),
        F.col("detail").alias("field"),
        F.expr(f"regexp_replace({FILE_AS_LISTED}, '^file:', '')").alias("file"),
        F.length("line").alias("length"),
        F.sha2("line", 256).alias("sha256"),
        F.substring("line", 1, LONGEST_REJECT).alias("line"),
    )


def is_blank(name: str) -> Column:
    """Whether a text field is null, empty or white space."""
    # Most text begins with a character after white space: one comparison, and no trim, tells.
    blank = rf"{name} < '!' AND trim(BOTH ' \t\r\n' FROM {name}) = ''"
    return F.coalesce(F.expr(blank), F.lit(True))


def _outcome_columns(page: Column) -> list[Column]:
    """What became of a record: its file, outcome and detail, its text only if it is rejected."""
    return [
        F.col("file"),
        F.col("outcome"),
        F.coalesce("fault.field", page).alias("detail"),  # the field, or the page if it is filtered
        F.when(_is_rejected(), F.col("line")).alias("line"),
        F.col("converted"),
    ]


def _is_loaded() -> Column:
    return F.col("outcome") == LOADED


def _is_rejected() -> Column:
    return ~F.col("outcome").isin(LOADED, FILTERED)


def _is_repaired(name: str) -> Column:
    return (~undo_latin1(f"{name}_once").eqNullSafe(F.col(name))).cast("int")
