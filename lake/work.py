"""What a run has to do: what the input holds now, what the last run knew of it, and why."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lake.inputs import (
    Changes,
    State,
    describe_settings,
    explain_full_run,
    find_changes,
    read_published_state,
    read_state,
)
from lake.listing import Listing, SourceError, list_source
from lake.locations import find_overlap
from lake.ownership import probe_rename, refuse_obstacles
from lake.parsed import find_damage
from lake.paths import ETL, readable
from lake.published import Note, find_difference, read_owned, refuse_foreign_files
from lake.rebuild import Rebuild
from lake.sources import SOURCES
from lake.storage import Disk, StorageError

if TYPE_CHECKING:
    from configs import EtlConfig
    from lake.run import Run
    from lake.storage import Storage
    from lake.tables import Table

LITTLE = 30_000_000  # bytes, maybe of gzip files
MOST_TOLD = 20  # files of a kind that --dry-run names


@dataclass(frozen=True)
class Published:
    """What earlier runs have published: the note about it, and how the files differ from it."""

    note: Note
    difference: str


@dataclass(frozen=True)
class Work:
    """What a run has to do: what was known, what is there now, and how that differs."""

    known: State
    full: str  # why all of the input is read; '' if only what has changed
    listings: Mapping[str, Listing]
    changes: Mapping[str, Changes]

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.full) or any(self.changes.values())


# ---- The output ----------------------------------------------------------------------------------


def check_output(run: Run) -> Published:
    """Raise StorageError unless the run may and can replace the tables; returns what is its own.

    Comes before anything is read, so that a run that may not publish ends at once.
    """
    published = look_at_output(run)
    probe_rename(run.storage, run.report.run)
    return published


def look_at_output(run: Run) -> Published:
    """The same as far as it can be told without a change."""
    names = [table.name for table in run.tables]
    refuse_obstacles(run.storage, names)
    note = read_owned(run.storage)
    files = {name: run.storage.files(name) for name in names}
    refuse_foreign_files(run.storage, files, note.contents)
    return Published(note, find_difference(files, note.contents))


# ---- The input -----------------------------------------------------------------------------------


def find_work(run: Run, published: Published, rules: str) -> Work:
    """List both sources and compare them with what the last run knew of them."""
    with run.report.stage("listing") as facts:
        listings = list_sources(run)
        state = read_state(run.storage, published.note.inputs) if published.note.inputs else None
        settings = describe_settings(run.config)
        full = why_full(run, state, rules, settings, published)
        known = State() if full or state is None else state
        known = replace(known, run=run.report.run, rules=rules, settings=settings)
        changes = {
            name: find_changes(listing.files, known.source(name).files)
            for name, listing in listings.items()
        }
        facts.append(describe_work(full, changes))
    run.report.this_run = {
        "full": full,
        "files": {
            name: {kind: len(files) for kind, files in vars(found).items()}
            for name, found in changes.items()
        },
        "read": dict.fromkeys(changes, 0),
        "rebuilt": {},
    }
    return Work(known, full, listings, changes)


def why_full(run: Run, state: State | None, rules: str, settings: str, published: Published) -> str:
    """Why this run reads all of its input; '' if it need not."""
    if run.config.full:
        return "--full asks for it"
    if not run.config.incremental:
        return "incremental = no"
    if not published.note.contents:
        return "nothing is published here yet"
    damage = find_damage(run.storage, state.sources) if state else ""
    return explain_full_run(state, rules, settings, published.difference, damage)


def list_sources(run: Run) -> dict[str, Listing]:
    """The files of both sources; raises SourceError if one overlaps with the output."""
    listings = {}
    for source in SOURCES:
        path = getattr(run.config, source.name)
        listings[source.name] = list_source(run.spark, source.name, path)
        refuse_overlap(run, source.name, listings[source.name])
    return listings


def refuse_overlap(run: Run, name: str, listing: Listing) -> None:
    """Raise SourceError if a source overlaps with the output though their paths do not show it.

    One of them may leave out the default store.
    """
    folders = [*(table.name for table in run.tables), ETL]
    for storage in listing.storages:
        found = find_overlap({name: storage.root}, run.storage.root, folders)
        if found:
            raise SourceError(
                f"{name}: {storage.root} overlaps with {readable(run.storage.path(found[1]))}, "
                "which the job replaces: choose another output"
            )


# ---- Before Spark starts -------------------------------------------------------------------------


def will_read_little(config: EtlConfig, rules: str) -> bool:
    """Whether both sources are folders on this disk of which a run will read little.

    It is a guess, made without Spark, so that Java can be started to suit: what the run has to do
    is found by find_work.
    """
    folders = [getattr(config, source.name) for source in SOURCES]
    if not all(map(os.path.isdir, folders)):
        return False
    # As Hadoop names them, which resolve() does not: it follows links.
    paths = map(os.path.abspath, (config.output, *folders))
    output, *sources = (Disk(f"file:{path}") for path in paths)
    try:
        known = read_known_state(output, config, rules)
        listed = [source.versions() for source in sources]
    except StorageError:  # a folder that may not be read: the run will name it
        return False
    to_parse = (
        files[file].bytes
        for source, files in zip(SOURCES, listed)
        for file in find_changes(files, known.source(source.name).files).to_parse
    )
    return sum(to_parse) <= LITTLE


def read_known_state(output: Storage, config: EtlConfig, rules: str) -> State:
    """What a run knows of the input before it looks; nothing where it has to read all."""
    state = read_published_state(output) if config.incremental and not config.full else None
    full = explain_full_run(state, rules, describe_settings(config), "", "")
    return State() if state is None or full else state


# ---- In words ------------------------------------------------------------------------------------


def describe_work(full: str, changes: Mapping[str, Changes]) -> str:
    """What a run is going to read, and why."""
    if full:
        files = sum(len(found.to_parse) for found in changes.values())
        return f"all {files:,} files are read: {full}"
    told = [
        f"{name}: {', '.join(f'{len(files):,} {kind}' for kind, files in kinds.items() if files)}"
        for name, kinds in ((name, vars(found)) for name, found in changes.items() if found)
    ]
    return "; ".join(told) or "nothing is new"


def describe_plan(work: Work, tables: Collection[Table]) -> list[str]:
    """What a run would do, line by line, without doing it."""
    if not work:
        return ["nothing is new: a run would change nothing"]
    all_of_it = [f"all tables are built anew: {work.full}"]
    return [*list_files(work.changes), *(all_of_it if work.full else list_rebuilt(work, tables))]


def list_files(changes: Mapping[str, Changes]) -> Iterator[str]:
    """The files that a run would read, or whose records no longer count, and why."""
    for name, found in changes.items():
        for kind, files in vars(found).items():
            yield from (f"{name}: {kind}: {readable(file)}" for file in files[:MOST_TOLD])
            if len(files) > MOST_TOLD:
                yield f"{name}: {kind}: {len(files) - MOST_TOLD:,} more"


def list_rebuilt(work: Work, tables: Iterable[Table]) -> Iterator[str]:
    """What a run would build anew, as far as it is known before the new files are read."""
    log, changes = work.known.source("log_data").files, work.changes["log_data"]
    if work.changes["song_data"]:
        yield "songs, artists: all of it; songplays: all of it if plays match other songs now"
    if changes:
        yield "users: all of it"
    days = {day for file in changes.outdated for day in log[file].facts.days}
    for table in (table for table in tables if days and "start_time" in table.columns):
        folders = Rebuild({table.name: days}).partitions(table) or {"all of it"}
        yield f"{table.name}: {', '.join(sorted(folders))}: plays of changed and gone files"
    if changes.to_parse:
        yield "time, songplays: the partitions of the new plays, known when they are read"
