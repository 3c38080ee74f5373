"""What became of the records of the input: counted by file, and accounted for by source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lake.lines import FILTERED, LOADED
from lake.listing import SourceError
from lake.paths import readable
from lake.sources import path_of

if TYPE_CHECKING:
    from lake.causes import Cause

PAGES_TOLD = 5  # of the filtered events, the commonest


class Outcome(NamedTuple):
    """What became of some records of a file alike."""

    outcome: str
    detail: str | None  # the field of a rejection, the page of a filtered event
    records: int
    repaired: int  # names
    converted: int  # values

    @property
    def is_rejection(self) -> bool:
        """Whether the records were rejected; the outcome is then the reason."""
        return self.outcome not in (LOADED, FILTERED)


class FileFacts(NamedTuple):
    """What is known of the records of one file."""

    outcomes: list[Outcome]
    days: dict[str, int]  # ISO date in UTC -> loaded plays, duplicates included


def read_file_facts(records: DataFrame) -> dict[str, FileFacts]:
    """The facts of each file that has a record, by its path."""
    day = "CAST(start_time AS DATE)" if "start_time" in records.columns else "CAST(NULL AS DATE)"
    counted = records.groupBy("file", "outcome", "detail", F.expr(day)).agg(
        F.count(F.lit(1)), F.sum("repaired"), F.sum("converted")
    )
    facts: dict[str, FileFacts] = {}
    for file, outcome, detail, date, *counts in counted.collect():
        known = facts.setdefault(path_of(file), FileFacts([], {}))
        known.outcomes.append(Outcome(outcome, detail, *counts))
        if date is not None:
            known.days[date.isoformat()] = known.days.get(date.isoformat(), 0) + counts[0]
    return {
        file: FileFacts(add_up(known.outcomes), dict(sorted(known.days.items())))
        for file, known in facts.items()
    }


def add_up(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes with one row for each outcome and detail, in order."""
    sums: dict[tuple[str, str | None], list[int]] = {}
    for found in outcomes:
        counts = sums.setdefault(found[:2], [0, 0, 0])
        counts[:] = [sum(pair) for pair in zip(counts, found[2:])]
    ordered = sorted(sums.items(), key=lambda item: (item[0][0], item[0][1] or ""))
    return [Outcome(*key, *counts) for key, counts in ordered]


def build_account(files: Mapping[str, Iterable[Outcome]], passed_over: int) -> dict[str, Any]:
    """What became of a source's records: read = loaded + filtered + duplicate + rejected."""
    outcomes = add_up(found for of_file in files.values() for found in of_file)
    loaded = [found for found in outcomes if found.outcome == LOADED]
    rejected: Counter[str] = Counter()
    for found in outcomes:
        if found.is_rejection:
            rejected[found.outcome] += found.records
    pages = {found.detail or "": found.records for found in outcomes if found.outcome == FILTERED}
    return {
        "files": len(files),
        "passed_over": passed_over,  # files whose names say that they are no input
        "read": sum(found.records for found in outcomes),
        "loaded": sum(found.records for found in loaded),
        "filtered": sum(pages.values()),
        "filtered_pages": dict(sorted(pages.items(), key=lambda page: (-page[1], page[0]))),
        "duplicate": 0,  # known when the tables have been checked
        "repaired": sum(found.repaired for found in loaded),
        "converted": sum(found.converted for found in loaded),
        "rejected": dict(sorted(rejected.items())),
        "commonest": find_commonest(files, outcomes),
    }


def find_commonest(
    files: Mapping[str, Iterable[Outcome]], outcomes: Iterable[Outcome], wanted: int = 3
) -> list[dict[str, Any]]:
    """The commonest reasons for a rejection with their fields, each with one file."""
    rejected = [found for found in outcomes if found.is_rejection]
    rejected.sort(key=lambda found: (-found.records, found.outcome, found.detail or ""))
    return [
        {
            "reason": common.outcome,
            "field": common.detail,
            "records": common.records,
            "file": readable(
                min(
                    file
                    for file, of_file in files.items()
                    if any(found[:2] == common[:2] for found in of_file)
                )
            ),
        }
        for common in rejected[:wanted]
    ]


def check_account(
    name: str,
    path: str,
    account: Mapping[str, Any],
    limit: float,
    explain: Callable[[], Cause | None] = lambda: None,
) -> None:
    """Raise SourceError where a source is empty, or where too much of it was rejected."""
    rejected = sum(account["rejected"].values())
    if rejected > account["read"] * limit / 100:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in account["rejected"].items())
        common, cause = account["commonest"][0], explain()
        field = f" ({common['field']})" if common["field"] else ""
        advice = (
            f": {cause.what}; {cause.cure}, and run again"
            if cause
            else f"{field}; fix them, or allow more with --max-rejected-percent"
        )
        raise SourceError(
            f"{name}: {rejected:,} of {account['read']:,} records are rejected ({reasons}), more "
            f"than {limit:g} %, such as in {common['file']}{advice}"
        )
    if not account["loaded"]:
        pages = list(account["filtered_pages"].items())[:PAGES_TOLD]
        found = f", of the pages {', '.join(f'{p} ({n:,})' for p, n in pages)}" if pages else ""
        cause = explain()
        raise SourceError(
            f"{name}: {path} holds nothing to load ({account['read']:,} records read{found})"
            f"{f': {cause.what}; {cause.cure}' if cause else '; is it the right path?'}"
        )
