"""Whether two lakes hold the same rows, found in DuckDB so that tens of millions are no trouble."""

from __future__ import annotations

from pathlib import Path

import duckdb

# Every column as one type, whatever type a writer chose: moments are microseconds since 1970, UTC.
COLUMNS = {
    "songs": "song_id::varchar, title::varchar, artist_id::varchar, year::int, duration::double",
    "artists": "artist_id::varchar, name::varchar, location::varchar, latitude::double,"
    " longitude::double",
    "users": "user_id::varchar, first_name::varchar, last_name::varchar, gender::varchar,"
    " level::varchar",
    "time": "epoch_us(start_time), hour::int, day::int, week::int, month::int, year::int,"
    " weekday::int",
    "songplays": "epoch_us(start_time), user_id::varchar, level::varchar, song_id::varchar,"
    " artist_id::varchar, session_id::bigint, location::varchar, user_agent::varchar, year::int,"
    " month::int",
}


def differences(lake: Path, other: Path) -> list[str]:
    """A sentence for each table whose rows are not the same in both lakes."""
    found = (_difference(table, lake, other) for table in COLUMNS)
    return [sentence for sentence in found if sentence]


def repeated_ids(lake: Path) -> int:
    """How many songplay_ids too few there are for every play to have its own."""
    query = f"select count(*) - count(distinct songplay_id) from {_source('songplays', lake)}"
    return duckdb.sql(query).fetchall()[0][0]


def _difference(table: str, lake: Path, other: Path) -> str:
    if _fingerprint(table, lake) == _fingerprint(table, other):
        return ""
    here, there = _rows(table, lake), _rows(table, other)
    only_here = duckdb.sql(f"({here}) except all ({there}) order by all limit 3").fetchall()
    only_there = duckdb.sql(f"({there}) except all ({here}) order by all limit 3").fetchall()
    return f"{table} differs: only in {lake}: {only_here}; only in {other}: {only_there}"


def _fingerprint(table: str, lake: Path) -> tuple[int, int]:
    """The number of rows and a sum of their hashes: equal for equal rows in any order."""
    rows = _rows(table, lake)
    query = f"select count(*), sum(hash(row_of_table)::hugeint) from ({rows}) as row_of_table"
    return duckdb.sql(query).fetchall()[0]


def _rows(table: str, lake: Path) -> str:
    return f"select {COLUMNS[table]} from {_source(table, lake)}"


def _source(table: str, lake: Path) -> str:
    return (
        f"read_parquet('{lake / table}/**/*.parquet', hive_partitioning = true,"
        " hive_types_autocast = false)"  # an id in a folder's name stays text
    )
