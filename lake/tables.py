"""What the five published tables are, once, as data.

The job writes and checks them from here. The catalogue and the tests of the SQL and the README read
it too. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Table:
    """What one published table is; whatever writes, checks or describes it reads it from here."""

    name: str
    columns: Mapping[str, str]  # name -> type in Spark's SQL, in order
    key: tuple[str, ...]
    sort_by: tuple[str, ...]
    partition_choices: tuple[str, ...] = ()  # the columns that [partitions] of dl.cfg may name
    partition_by: tuple[str, ...] = ()  # those that it names: partitioned_tables fills them in
    required: tuple[str, ...] = ()
    references: Mapping[str, str] = field(default_factory=dict)  # column -> table.column
    rules: Mapping[str, str] = field(default_factory=dict)  # what must hold -> as SQL

    @property
    def schema(self) -> str:
        """The columns and their types as Spark takes them."""
        return ", ".join(f"{name} {kind}" for name, kind in self.columns.items())

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells a row from all others, and for an event also when it happened."""
        moment = ["start_time"] if "start_time" in self.columns else []
        return tuple(dict.fromkeys([*moment, *self.key]))


DATE_PARTS = ("year", "month", "day")  # the partition columns that come from start_time
LEVEL_RULE = {"level is free or paid": "level IN ('free', 'paid')"}

SONGS = Table(
    name="songs",
    columns={
        "song_id": "STRING",
        "title": "STRING",
        "artist_id": "STRING",
        "year": "INT",
        "duration": "DOUBLE",
    },
    key=("song_id",),
    sort_by=("artist_id", "song_id"),
    partition_choices=("year", "artist_id"),
    required=("artist_id", "year"),
    references={"artist_id": "artists.artist_id"},
)
ARTISTS = Table(
    name="artists",
    columns={
        "artist_id": "STRING",
        "name": "STRING",
        "location": "STRING",
        "latitude": "DOUBLE",
        "longitude": "DOUBLE",
    },
    key=("artist_id",),
    sort_by=("artist_id",),
)
USERS = Table(
    name="users",
    columns={
        "user_id": "STRING",
        "first_name": "STRING",
        "last_name": "STRING",
        "gender": "STRING",
        "level": "STRING",
    },
    key=("user_id",),
    sort_by=("user_id",),
    rules=LEVEL_RULE,
)
TIME = Table(
    name="time",
    columns={
        "start_time": "TIMESTAMP",
        "hour": "INT",
        "day": "INT",
        "week": "INT",
        "month": "INT",
        "year": "INT",
        "weekday": "INT",
    },
    key=("start_time",),
    sort_by=("start_time",),
    partition_choices=DATE_PARTS,
    rules={
        "month is 1 to 12": "month BETWEEN 1 AND 12",
        "weekday is 1 to 7": "weekday BETWEEN 1 AND 7",
    },
)
SONGPLAYS = Table(
    name="songplays",
    columns={
        "songplay_id": "BIGINT",
        "start_time": "TIMESTAMP",
        "user_id": "STRING",
        "level": "STRING",
        "song_id": "STRING",
        "artist_id": "STRING",
        "session_id": "BIGINT",
        "location": "STRING",
        "user_agent": "STRING",
    },
    key=("songplay_id",),
    sort_by=("start_time", "user_id", "session_id"),
    partition_choices=DATE_PARTS,
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


def partitioned_tables(partitions: Mapping[str, tuple[str, ...]]) -> list[Table]:
    """The tables, each partitioned as [partitions] of dl.cfg says."""
    return [replace(table, partition_by=partitions.get(table.name, ())) for table in TABLES]


def stored_schema(table: Table) -> str:
    """The schema of a table as it is read back: with the partition columns that are derived."""
    derived = [name for name in table.partition_by if name not in table.columns]
    return ", ".join([table.schema, *(f"{name} INT" for name in derived)])
