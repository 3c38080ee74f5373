"""The five tables computed a second time, in DuckDB SQL, from the rules and not from etl.py's code.

Two derivations of the same rules that agree row by row are worth more than one. songplay_id is
missing: it is a hash of Spark's own, so a test can only ask that it is unique and never changes.
"""

from __future__ import annotations

import argparse
import codecs
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb

Row = tuple[Any, ...]

SONG_FIELDS = {
    "song_id": "text",
    "title": "text",
    "artist_id": "text",
    "artist_name": "text",
    "artist_location": "text",
    "artist_latitude": "real",
    "artist_longitude": "real",
    "year": "long",
    "duration": "real",
}
EVENT_FIELDS = {
    "ts": "long",
    "page": "text",
    "userId": "text",
    "firstName": "text",
    "lastName": "text",
    "gender": "text",
    "level": "text",
    "sessionId": "long",
    "itemInSession": "long",
    "song": "text",
    "artist": "text",
    "length": "real",
    "location": "text",
    "userAgent": "text",
}
SQL_TYPES = {"text": "varchar", "real": "double", "long": "bigint"}
NUMBER = ("BIGINT", "UBIGINT", "DOUBLE")
# What JSON may hold for a field: a name that is a number is text ("311"), and a whole number may be
# given as text or with a fraction of zero.
JSON_TYPES = {"text": ("VARCHAR", *NUMBER), "real": NUMBER, "long": ("VARCHAR", *NUMBER)}
DIGITS = "-?(0|[1-9][0-9]*)"
SPELT = rf"{DIGITS}(\.[0-9]+)?([eE][+-]?[0-9]+)?"

COLUMNS = {
    "songs": "song_id, title, artist_id, year, duration",
    "artists": "artist_id, name, location, latitude, longitude",
    "users": "user_id, first_name, last_name, gender, level",
    "time": "start_time, hour, day, week, month, year, weekday",
    "songplays": "start_time, user_id, level, song_id, artist_id, session_id, location, user_agent,"
    " year, month",
}

BLANK = r"create macro blank(value) as regexp_full_match(coalesce(value, ''), '\s*')"

# Which records count. The winner among the records of one song_id is known here once, with its
# artist's name, because both the table of songs and the matching need it.
SONG_RECORDS = """
create table good_songs as
from song_records
where not blank(song_id) and not blank(artist_id)
    and isfinite(coalesce(duration, 0))
    and coalesce(artist_latitude, 0) between -90 and 90
    and coalesce(artist_longitude, 0) between -180 and 180
    and (coalesce(year, 0) = 0 or year between 1000 and 2100)
    and coalesce(duration, 1) > 0
    and artist_id <> '__HIVE_DEFAULT_PARTITION__' and strlen(artist_id) <= 80;

create table winning_songs as
from good_songs
qualify row_number() over (
    partition by song_id order by title, artist_id, year, duration, artist_name) = 1;
"""

SONGS = """
create view songs as
select song_id, title, artist_id, cast(coalesce(year, 0) as integer) as year, duration
from winning_songs;
"""

ARTISTS = """
create view artists as
select artist_id, artist_name as name, artist_location as location,
    artist_latitude as latitude, artist_longitude as longitude
from (
    select *, count(*) over (partition by artist_id, artist_name) as name_count from good_songs)
qualify row_number() over (
    partition by artist_id
    order by (latitude is not null and longitude is not null) desc,
        blank(location),
        name_count desc,
        length(name),
        coalesce(year, 0) desc,
        name, location, latitude, longitude) = 1;
"""

# A ts of another century is a mistake: seconds or microseconds, most likely.
GOOD_PLAYS = """
create table good_plays as
from events
where page = 'NextSong' and not blank("userId") and isfinite(coalesce(length, 0))
    and level in ('free', 'paid')
    and ts between epoch_ms(timestamp '2000-01-01') and epoch_ms(timestamp '2100-01-01');
"""

# A name is repaired by reading its characters as Latin-1 bytes and those as UTF-8, at most twice.
# One that has a character above U+00FF, or whose bytes are no UTF-8, stays as it stands.
REPAIR = """
create macro latin1_bytes(value) as
    unhex(array_to_string(list_transform(
        string_split(value, ''), letter -> printf('%02X', unicode(letter))), ''));
create macro undo_round(value) as
    case when regexp_full_match(value, '[\\x{00}-\\x{FF}]*')
        then coalesce(try(decode(latin1_bytes(value))), value) else value end;

create table repaired_names as
select raw, undo_round(undo_round(raw)) as repaired
from (select song as raw from good_plays union select artist from good_plays)
where regexp_matches(raw, '[^\\x{00}-\\x{7F}]');
"""

# Songs that share title, artist's name and duration are one match: the smallest song_id.
MATCHES = """
create table matches as
select title, artist_name, duration, min(song_id) as song_id,
    arg_min(artist_id, song_id) as artist_id
from winning_songs
group by title, artist_name, duration;
"""

# Of two records with one key that one stands which the columns of the table put first.
PLAYS = """
create table plays as
select make_timestamp(ts * 1000) as start_time, good_plays.*, matches.song_id, matches.artist_id
from good_plays
left join repaired_names as songs_repaired on songs_repaired.raw = song
left join repaired_names as artists_repaired on artists_repaired.raw = artist
left join matches
    on matches.title = coalesce(songs_repaired.repaired, song)
    and matches.artist_name = coalesce(artists_repaired.repaired, artist)
    and matches.duration = length
qualify row_number() over (
    partition by ts, "userId", "sessionId", "itemInSession"
    order by level, matches.song_id, matches.artist_id, location, "userAgent"
) = 1;
"""

# Only copies of one play can tie: these and the user are its key.
USERS = """
create view users as
select "userId" as user_id, "firstName" as first_name, "lastName" as last_name, gender, level
from good_plays
qualify row_number() over (
    partition by "userId"
    order by ts desc, "sessionId" desc, "itemInSession" desc,
        level, first_name, last_name, gender) = 1;
"""

TIME = """
create view "time" as
select start_time,
    cast(hour(start_time) as integer) as hour,
    cast(day(start_time) as integer) as day,
    cast(week(start_time) as integer) as week,
    cast(month(start_time) as integer) as month,
    cast(year(start_time) as integer) as year,
    cast(dayofweek(start_time) + 1 as integer) as weekday
from (select distinct start_time from plays);
"""

SONGPLAYS = """
create view songplays as
select start_time, "userId" as user_id, level, song_id, artist_id,
    "sessionId" as session_id, location, "userAgent" as user_agent,
    cast(year(start_time) as integer) as year, cast(month(start_time) as integer) as month,
    "itemInSession" as item_in_session
from plays;
"""

RULES = (
    BLANK,
    SONG_RECORDS,
    SONGS,
    ARTISTS,
    GOOD_PLAYS,
    REPAIR,
    MATCHES,
    PLAYS,
    USERS,
    TIME,
    SONGPLAYS,
)


def build_tables(song_data: Path, log_data: Path) -> dict[str, list[Row]]:
    """Each table's rows, sorted, every input line judged on its own: for data with bad lines."""
    with duckdb.connect() as database:
        _load_documents(database, "song_records", SONG_FIELDS, song_documents(song_data))
        _load_documents(database, "events", EVENT_FIELDS, _log_documents(log_data))
        _apply_rules(database)
        return {
            table: database.execute(f'select {columns} from "{table}" order by all').fetchall()
            for table, columns in COLUMNS.items()
        }


def write_tables(
    song_data: Path, log_data: Path, output: Path, partition_songs: str = "year"
) -> None:
    """Write the five tables as Parquet below output, by the fastest reading that DuckDB offers.

    Bad lines are skipped by DuckDB's own reader, which is less strict than build_tables.
    """
    output.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as database:
        _scan_files(database, "song_records", SONG_FIELDS, song_data, "unstructured")
        _scan_files(database, "events", EVENT_FIELDS, log_data, "newline_delimited")
        _apply_rules(database)
        partitions = {"songs": partition_songs, "time": "year, month", "songplays": "year, month"}
        for table, columns in COLUMNS.items():
            _copy(database, table, columns, output / table, partitions.get(table))


def _apply_rules(database: duckdb.DuckDBPyConnection) -> None:
    database.execute("set default_null_order = 'nulls_last'")
    for rule in RULES:
        database.execute(rule)


def find_files(folder: Path) -> list[Path]:
    """All files below a folder but hidden ones, as Spark finds them."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not path.name.startswith((".", "_")))


def read_content(path: Path) -> bytes:
    """A file's content, unpacked if it is gzipped."""
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


def song_documents(folder: Path) -> Iterator[str]:
    """A song file is an object or an array of them on any lines, or else an object a line."""
    for path in find_files(folder):
        content = read_content(path)
        if _is_json(content):
            text = content.decode("utf-8-sig").strip()
            yield from map(json.dumps, json.loads(text)) if text.startswith("[") else [text]
        else:
            yield from _lines(content)


def _log_documents(folder: Path) -> Iterator[str]:
    for path in find_files(folder):
        yield from _lines(read_content(path))


def _is_json(content: bytes) -> bool:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    return duckdb.execute("select json_valid(?)", [text]).fetchall() == [(True,)]


def _lines(content: bytes) -> Iterator[str]:
    for line in content.removeprefix(codecs.BOM_UTF8).splitlines():
        try:
            yield line.decode()
        except UnicodeDecodeError:
            continue  # a rejected line


def _load_documents(
    database: duckdb.DuckDBPyConnection,
    name: str,
    fields: dict[str, str],
    documents: Iterator[str],
) -> None:
    """Make a table of the documents that are objects whose fields all have their declared type."""
    values = {field: _value(field, kind) for field, kind in fields.items()}
    typed = ", ".join(f'{value} as "{field}"' for field, value in values.items())
    correct = " and ".join(_has_type(field, fields[field], values[field]) for field in fields)
    database.execute(
        "create temp table documents as"
        " select text::json as document from (select unnest(?::varchar[]) as text)"
        " where json_valid(text)",
        [list(documents)],
    )
    database.execute(
        f"create table {name} as select {typed} from documents"
        f" where json_type(document) = 'OBJECT' and {correct}"
    )
    database.execute("drop table documents")


def _value(field: str, kind: str) -> str:
    text = f"(document->>'$.{field}')"
    number = f"try_cast({text} as double)"
    exact = f"regexp_full_match({text}, '{SPELT}') and abs({number}) <= {2**53}"
    whole = f"case when {exact} and {number} % 1 = 0 then cast({number} as bigint) end"
    if kind == "long":
        is_plain = f"regexp_full_match({text}, '{DIGITS}')"
        return f"case when {is_plain} then try_cast({text} as bigint) else {whole} end"
    if kind == "text":
        is_spelt = f"json_type(document, '$.{field}') = 'DOUBLE'"
        return (
            f"case when {is_spelt} then coalesce(cast({whole} as varchar), {text}) else {text} end"
        )
    return f"try_cast({text} as {SQL_TYPES[kind]})"


def _has_type(field: str, kind: str, value: str) -> str:
    json_type = f"coalesce(json_type(document, '$.{field}'), 'NULL')"
    return f"({json_type} = 'NULL' or ({json_type} in {JSON_TYPES[kind]} and {value} is not null))"


def _scan_files(
    database: duckdb.DuckDBPyConnection,
    name: str,
    fields: dict[str, str],
    folder: Path,
    layout: str,
) -> None:
    columns = ", ".join(f"\"{field}\": '{SQL_TYPES[kind]}'" for field, kind in fields.items())
    tolerant = layout == "newline_delimited"
    database.execute(
        f"create view {name} as from read_json({[str(path) for path in find_files(folder)]},"
        f" columns = {{{columns}}}, format = '{layout}', ignore_errors = {tolerant},"
        " maximum_object_size = 33554432)"
    )


def _copy(
    database: duckdb.DuckDBPyConnection,
    table: str,
    columns: str,
    folder: Path,
    partition_by: str | None,
) -> None:
    if table == "songplays":  # an id of DuckDB's own kind, so that the same work is done
        key = "start_time, user_id, session_id, item_in_session"
        columns = f"cast(hash({key}) >> 1 as bigint) as songplay_id, {columns}"
    if partition_by:
        target, options = folder, f"format parquet, partition_by ({partition_by})"
    else:
        folder.mkdir()
        target, options = folder / "part-0.parquet", "format parquet"
    database.execute(f"copy (select {columns} from \"{table}\") to '{target}' ({options})")


def main() -> None:
    """Write the tables from the command line, as the benchmark does."""
    parser = argparse.ArgumentParser(description=__doc__)
    for flag in ("--song-data", "--log-data", "--output"):
        parser.add_argument(flag, type=Path, required=True)
    parser.add_argument("--partition-songs", default="year")
    arguments = parser.parse_args()
    write_tables(
        arguments.song_data, arguments.log_data, arguments.output, arguments.partition_songs
    )


if __name__ == "__main__":
    main()
