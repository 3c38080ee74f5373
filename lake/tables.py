"""What the five published tables are, once, as data.

The job writes and checks them from here, and the catalogue, the SQL and the README's test read it.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """What one published table is; whatever writes, checks or describes it reads it from here."""

    name: str
    schema: str
    key: tuple[str, ...]
    sort_by: tuple[str, ...]
    partition_by: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    references: Mapping[str, str] = field(default_factory=dict)  # column -> table.column
    rules: Mapping[str, str] = field(default_factory=dict)  # what must hold -> as SQL

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells a row from all others, and for an event also when it happened."""
        moment = ["start_time"] if "start_time" in columns(self.schema) else []
        return tuple(dict.fromkeys([*moment, *self.key]))


LEVEL_RULE = {"level is free or paid": "level IN ('free', 'paid')"}

SONGS = Table(
    name="songs",
    schema="song_id STRING, title STRING, artist_id STRING, year INT, duration DOUBLE",
    key=("song_id",),
    sort_by=("artist_id", "song_id"),
    partition_by=("year",),
    required=("artist_id", "year"),
    references={"artist_id": "artists.artist_id"},
)
ARTISTS = Table(
    name="artists",
    schema="artist_id STRING, name STRING, location STRING, latitude DOUBLE, longitude DOUBLE",
    key=("artist_id",),
    sort_by=("artist_id",),
)
USERS = Table(
    name="users",
    schema="user_id STRING, first_name STRING, last_name STRING, gender STRING, level STRING",
    key=("user_id",),
    sort_by=("user_id",),
    rules=LEVEL_RULE,
)
TIME = Table(
    name="time",
    schema="""start_time TIMESTAMP, hour INT, day INT, week INT, month INT, year INT,
              weekday INT""",
    key=("start_time",),
    sort_by=("start_time",),
    partition_by=("year", "month"),
    rules={
        "month is 1 to 12": "month BETWEEN 1 AND 12",
        "weekday is 1 to 7": "weekday BETWEEN 1 AND 7",
    },
)
SONGPLAYS = Table(
    name="songplays",
    schema="""songplay_id BIGINT, start_time TIMESTAMP, user_id STRING, level STRING,
              song_id STRING, artist_id STRING, session_id BIGINT, location STRING,
              user_agent STRING""",
    key=("songplay_id",),
    sort_by=("start_time", "user_id", "session_id"),
    partition_by=("year", "month"),
    required=("start_time", "user_id"),
    references={
        "user_id": "users.user_id",
        "start_time": "time.start_time",
        "song_id": "songs.song_id",
        "artist_id": "artists.artist_id",
    },
    rules=LEVEL_RULE,
)
TABLES = (SONGS, ARTISTS, USERS, TIME, SONGPLAYS)  # dimensions first: the order of the swap

DATE_PARTS = ("year", "month", "day")  # the partition columns that come from start_time


def columns(schema: str) -> dict[str, str]:
    """The columns of a schema with their types, in order."""
    name_and_type = (column.split() for column in schema.split(","))
    return {name: kind for name, kind in name_and_type}  # noqa: C416 (dict() loses the types)


def stored_schema(table: Table) -> str:
    """The schema of a table as it is read back: with the partition columns that are derived."""
    derived = [name for name in table.partition_by if name not in columns(table.schema)]
    return ", ".join([table.schema, *(f"{name} INT" for name in derived)])
