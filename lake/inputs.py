"""What a run knows of its input: each file, what it held, and where its parsed records are.

_etl/inputs/<run>.json is this state. _etl/published.json names the run whose state it is, so that
both change in one step: the state says of which input the published tables are.

The next run lists the input and compares. It parses what is new or changed, and rebuilds only what
the records of new, changed and gone files touch. The result is that of a full run.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from lake import accounting, checks, layout, lines, names, parsing, sources, tables
from lake.accounting import FileFacts, Outcome
from lake.paths import inputs_path
from lake.published import read_note
from lake.storage import MissingError, Storage, Version

if TYPE_CHECKING:
    from configs import EtlConfig

FORMAT = 1  # of the state's file
# The code that decides what is published.
RULES = (sources, parsing, lines, names, accounting, tables, layout, checks)


class KnownFile(NamedTuple):
    """What is known of one file of the input."""

    version: Version
    parsed: str  # the run in whose parsed folder its records are
    facts: FileFacts


@dataclass(frozen=True)
class SourceState:
    """What is known of one source: its files, and the folders that hold their parsed records."""

    files: Mapping[str, KnownFile] = field(default_factory=dict)
    folders: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # run -> file -> bytes
    # run -> files of the input whose records in that folder no longer count
    dead: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def days(self) -> dict[str, int]:
        """The loaded plays of each day, duplicates included."""
        days: dict[str, int] = {}
        for known in self.files.values():
            for day, plays in known.facts.days.items():
                days[day] = days.get(day, 0) + plays
        return days


@dataclass(frozen=True)
class Figures:
    """What the whole lake holds: the parts that a run does not rebuild keep theirs."""

    rows: Mapping[str, int] = field(default_factory=dict)  # of the tables without a start_time
    per_day: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # measure -> day -> rows


@dataclass(frozen=True)
class State:
    """The input that the published tables were built from."""

    run: str = ""
    rules: str = ""
    settings: str = ""
    matches: str = ""  # a hash of the songs that plays are matched with
    sources: Mapping[str, SourceState] = field(default_factory=dict)
    figures: Figures = field(default_factory=Figures)

    def source(self, name: str) -> SourceState:
        """What is known of a source; nothing if it is new."""
        return self.sources.get(name, SourceState())


# ---- What has changed ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Changes:
    """How a source differs from what is known of it; a changed file is gone and new as well."""

    new: Sequence[str]
    changed: Sequence[str]
    gone: Sequence[str]

    @property
    def to_parse(self) -> list[str]:
        """The files whose records are not known yet."""
        return sorted([*self.new, *self.changed])

    @property
    def outdated(self) -> list[str]:
        """The files whose known records no longer count."""
        return sorted([*self.changed, *self.gone])

    def __bool__(self) -> bool:
        """Whether there is any change."""
        return bool(self.new or self.changed or self.gone)


def find_changes(listed: Mapping[str, Version], known: Mapping[str, KnownFile]) -> Changes:
    """The files that are new, changed and gone since a source was last read."""
    return Changes(
        new=sorted(listed.keys() - known.keys()),
        changed=sorted(
            file
            for file, version in listed.items()
            if file in known and known[file].version != version
        ),
        gone=sorted(known.keys() - listed.keys()),
    )


def find_touched_days(changes: Changes, before: SourceState, after: SourceState) -> set[str]:
    """The days whose plays a change of the log may alter: those of its old and its new files."""
    outdated = (before.files[file].facts.days for file in changes.outdated)
    parsed = (after.files[file].facts.days for file in changes.to_parse)
    return {day for days in (*outdated, *parsed) for day in days}


RACY_NANOSECONDS = 20_000_000  # how coarse a disk's clock may be
COARSE_NANOSECONDS = 2_000_000_000  # where a store keeps whole seconds only


def settle_version(version: Version, began: int, ended: int) -> Version:
    """The version to note: one that no listing equals if a file changed while it was listed.

    It may have changed once more within the same tick of the store's clock, with as many bytes.
    A time that lies further in the future is no reason to read a file again.
    """
    if not version.changed:
        return version
    tick = RACY_NANOSECONDS if version.changed % 1_000_000_000 else COARSE_NANOSECONDS
    is_racy = began - tick <= version.changed <= ended + tick
    return version._replace(changed=-1) if is_racy else version


# ---- Why all is read -----------------------------------------------------------------------------


def find_rules(job: Iterable[Any]) -> str:
    """A hash of the code that decides what is published: of these functions' modules, and ours."""
    modules = {sys.modules[function.__module__] for function in job} | set(RULES)
    texts = sorted(inspect.getsource(module) for module in modules)
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def describe_settings(config: EtlConfig) -> str:
    """The settings that what is published depends on."""
    return json.dumps([dict(config.partitions), config.max_rows_per_file], sort_keys=True)


def explain_full_run(
    state: State | None, rules: str, settings: str, published: str, parsed: str
) -> str:
    """Why a run reads all of its input; '' if it need not.

    `published` and `parsed` say what is wrong with the tables and with the parsed records.
    """
    if state is None:
        return "no state of an earlier run can be read"
    if state.rules != rules:
        return "the job's rules have changed since the last run"
    if state.settings != settings:
        return "[partitions] or max_rows_per_file has changed since the last run"
    return published or parsed


# ---- The state's file ----------------------------------------------------------------------------


def read_state(storage: Storage, run: str) -> State | None:
    """The state that a run has left; None if it is missing, damaged or of another version."""
    try:
        noted = json.loads(storage.read(inputs_path(run)))
        if noted.pop("format") != FORMAT or noted["run"] != run:
            return None
        known = {name: decode_source(source) for name, source in noted.pop("sources").items()}
        return State(**{**noted, "sources": known, "figures": Figures(**noted["figures"])})
    except (MissingError, ValueError, TypeError, AttributeError, KeyError):
        return None


def read_published_state(storage: Storage) -> State | None:
    """The state that belongs to the published tables; None if there is none that can be read."""
    note = read_note(storage)
    return read_state(storage, note.inputs) if note and note.inputs else None


def write_state(storage: Storage, state: State) -> None:
    """Write the state of a run; it counts as soon as published.json names the run."""
    noted = {
        **vars(state),
        "format": FORMAT,
        "sources": {name: vars(source) for name, source in state.sources.items()},
        "figures": vars(state.figures),
    }
    storage.write(inputs_path(state.run), json.dumps(noted))


def decode_source(noted: Mapping[str, Any]) -> SourceState:
    """What is known of a source, from its JSON."""
    files = {
        file: KnownFile(
            Version(*version), parsed, FileFacts([Outcome(*found) for found in outcomes], days)
        )
        for file, (version, parsed, (outcomes, days)) in noted["files"].items()
    }
    return SourceState(files, noted["folders"], noted["dead"])
