"""What a run did: told line by line while it runs, as tables at its end, and as JSON for later.

Standard library only.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from lake.formats import aligned, duration, size, utc_now

STILL_SECONDS = 30.0  # how often a long stage says that it lives, where there is no terminal


def now() -> str:
    """This moment in UTC, as ISO 8601."""
    return utc_now().isoformat(timespec="milliseconds")


def tell(line: str) -> None:
    """Narrate on stderr; stdout is for the result."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def still_running(name: str) -> Iterator[None]:
    """Say every half minute that a stage goes on; on a terminal Spark's progress bar shows it."""
    done = threading.Event()

    def keep_telling() -> None:
        start = time.perf_counter()
        while not done.wait(STILL_SECONDS):
            tell(f"           {name}: still running after {duration(time.perf_counter() - start)}")

    thread = threading.Thread(target=keep_telling, daemon=True)
    if not sys.stderr.isatty():
        thread.start()
    try:
        yield
    finally:
        done.set()


@dataclass
class Report:
    """What one run did; it becomes <output>/_etl/reports/<run>.json."""

    run: str
    status: str = "failed"  # until it is committed, then published; unchanged: nothing was new
    started: str = field(default_factory=now)
    finished: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    this_run: dict[str, Any] = field(default_factory=dict)  # what it has read and built anew
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    tables: dict[str, dict[str, int]] = field(default_factory=dict)
    checks: int = 0  # rules and measures that held
    repaired_names: int = 0
    matched_plays: int = 0
    plays_per_day: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    error: str = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[list[str]]:
        """Time a stage and tell of it on one line, with the facts that it adds to the list."""
        start = time.perf_counter()
        facts: list[str] = []
        with still_running(name):
            yield facts
        self.seconds[name] = round(time.perf_counter() - start, 3)
        tell(f"{self.seconds[name]:>7.1f} s  {name:<10} {', '.join(facts)}".rstrip())

    def warn(self, warning: str) -> None:
        """Keep a warning and tell it."""
        self.warnings.append(warning)
        tell(f"  warning: {warning}")

    def as_json(self) -> str:
        """The report as it is stored."""
        return json.dumps(asdict(self), indent=2) + "\n"


def render(report: Report) -> str:
    """What became of the input and what was published, as a person reads it."""
    sources = [
        [
            name,
            *(account[key] for key in ("files", "read", "loaded", "filtered", "duplicate")),
            sum(account["rejected"].values()),
        ]
        for name, account in report.sources.items()
    ]
    notes = [note for name, account in report.sources.items() for note in describe(name, account)]
    tables = [
        [name, table["rows"], table["partitions"], table["files"], size(table["bytes"])]
        for name, table in report.tables.items()
    ]
    return "\n".join(
        [
            "",
            *describe_this_run(report),
            *_aligned(
                ["source", "files", "read", "loaded", "filtered", "duplicate", "rejected"], sources
            ),
            *notes,
            "",
            *_aligned(["table", "rows", "partitions", "files", "size"], tables),
            "",
            f"{report.matched_plays:,} plays have a song of the catalogue; "
            f"{report.repaired_names:,} names were repaired",
        ]
    )


def describe_this_run(report: Report) -> list[str]:
    """What an incremental run has read and built anew; nothing of a full one."""
    done = report.this_run
    if not done or done["full"]:
        return []
    read = [
        f"{done['read'][name]:,} records of {files['new'] + files['changed']:,} files of {name}"
        for name, files in done["files"].items()
        if any(files.values())
    ]
    rebuilt = [f"{name} ({partitions:,})" for name, partitions in done["rebuilt"].items()]
    if not read:
        return ["nothing was new", ""]
    return [f"read: {', '.join(read)}; partitions rebuilt: {', '.join(rebuilt) or 'none'}", ""]


def describe(source: str, account: Mapping[str, Any]) -> list[str]:
    """What is worth a line of a source: the commonest rejections, conversions, other files."""
    notes = []
    for found in account["commonest"]:
        field = f" ({found['field']})" if found["field"] else ""
        why = f"{found['reason']}{field}, such as in {found['file']}"
        notes.append(f"  {found['records']:,} rejected from {source}: {why}")
    told = sum(found["records"] for found in account["commonest"])
    others = sum(account["rejected"].values()) - told
    if others:
        notes.append(f"  {others:,} rejected from {source} for other reasons")
    if account["converted"]:
        notes.append(f"  {account['converted']:,} values of {source} converted to whole numbers")
    if account["passed_over"]:
        notes.append(f"  {source}: {describe_passed_over(account['passed_over'])}")
    return notes


def describe_passed_over(files: int) -> str:
    """How many files of a source were not read, and why."""
    return f"passed over: {files:,} files whose names say that they are no input"


def _aligned(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    texts = [[str(x) if isinstance(x, str) else f"{x:,}" for x in row] for row in (header, *rows)]
    return aligned(texts, [number > 0 for number in range(len(header))])
