"""Which parts of the tables a run builds anew, and the rows that it needs for them.

A day of plays that a change touches makes its partitions of time and songplays be built anew, from
all plays of all files in them. The tables of the catalogue and of the users are built as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lake.parsed import MONTH
from lake.tables import ARTISTS, DATE_PARTS, SONGPLAYS, SONGS, TIME, USERS, Table

if TYPE_CHECKING:
    from lake.layout import Sizes

Unit = tuple[int, ...]  # the values of a partition's date columns, such as (2018, 11)


@dataclass(frozen=True)
class Rebuild:
    """What a run builds anew: for each table the days that are touched, or all of it."""

    days: Mapping[str, Collection[str] | None] = field(default_factory=dict)  # None: all of it
    plays: Mapping[str, int] = field(default_factory=dict)  # day -> plays, of the whole log

    @property
    def tables(self) -> Collection[str]:
        """The names of the tables of which some part is built anew."""
        return self.days.keys()

    def units(self, table: Table) -> set[Unit] | None:
        """The partitions of a table to build anew, by the values of their date columns."""
        days = self.days[table.name]
        by_date = set(table.partition_by) & set(DATE_PARTS) and "start_time" in table.columns
        return {unit_of(day, table) for day in days} if days is not None and by_date else None

    def partitions(self, table: Table) -> set[str] | None:
        """The same as folders, such as year=2018/month=11; None for the whole table."""
        units = self.units(table)
        if units is None:
            return None
        return {
            "/".join(f"{name}={value}" for name, value in zip(table.partition_by, unit))
            for unit in units
        }

    def held(self, table: Table, days: Iterable[str]) -> set[str]:
        """Those of some days whose plays are in a part of a table that is built anew."""
        if table.name not in self.tables:
            return set()
        units = self.units(table)
        return {day for day in days if units is None or unit_of(day, table) in units}

    def sizes(self, table: Table) -> Sizes:
        """The plays in each partition to build anew, duplicates included."""
        sizes: dict[Unit, int] = {}
        for day in self.held(table, self.plays):
            unit = unit_of(day, table)
            sizes[unit] = sizes.get(unit, 0) + self.plays[day]
        return sizes

    def restrict(self, table: Table, plays: DataFrame) -> DataFrame:
        """The plays that are in a part of a table which is built anew."""
        if self.units(table) is None:
            return plays
        days = sorted(self.held(table, self.plays))
        plays = plays.filter(F.col(MONTH).isin(sorted({int(f"{d[:4]}{d[5:7]}") for d in days})))
        if "day" in table.partition_by:
            plays = plays.filter(F.date_format("start_time", "yyyy-MM-dd").isin(days))
        return plays


def unit_of(day: str, table: Table) -> Unit:
    """The partition that a day's rows are in."""
    parts = dict(zip(DATE_PARTS, map(int, day.split("-"))))
    return tuple(parts[name] for name in table.partition_by)


def plan_rebuild(
    *,
    songs_changed: bool,
    matches_changed: bool,
    touched_days: Collection[str],
    plays: Mapping[str, int],
) -> Rebuild:
    """What to build anew after the catalogue or the log has changed."""
    days: dict[str, Collection[str] | None] = {}
    if songs_changed:
        days.update(dict.fromkeys((SONGS.name, ARTISTS.name)))
    if touched_days:
        days[USERS.name] = None
        days[TIME.name] = touched_days
    if matches_changed:
        days[SONGPLAYS.name] = None
    elif touched_days:
        days[SONGPLAYS.name] = touched_days
    return Rebuild(days, plays)


def rebuild_all(tables: Sequence[Table], plays: Mapping[str, int]) -> Rebuild:
    """All of all tables."""
    return Rebuild(dict.fromkeys(table.name for table in tables), plays)
