"""Show a run of the job as one static HTML page: no server, no network, readable on a phone.

The page is made from <output>/_etl/reports/<run>.json and some of the rejected lines in
<output>/_etl/rejects/<run>. A rejected line may hold anything, HTML included: every text is
escaped, and the page's content security policy forbids scripts and requests. Standard library only.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import unquote

from lake.formats import duration, size

EXAMPLES = 3  # of each reason
LONGEST_EXAMPLE = 1_000  # characters
MOST_LINES = 20_000  # rejected lines that are searched for examples
MOST_BARS = 100  # more days than that are shown by month, and more months by year

WIDE = ("What to look at", "Plays per day")  # sections over the whole width
PAGE = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))

# Why a line is rejected, for the page and for docs/lines.md.
REASONS = {
    "not_json": "not one JSON object: cut off, followed by other text, not UTF-8, or with half a"
    " character such as \\ud83c alone",
    "several_objects": "several objects on one line, or in the log an array",
    "wrong_type": "a field of the wrong type: text for a number, a fraction for a whole number,"
    " or an object for text",
    "wrong_value": "a value that no table may hold: a play whose level is not free or paid, a song"
    " with a year that is not 0 or 1000 to 2100, a duration not above 0, coordinates off the globe,"
    " or an artist_id that cannot be the name of a folder",
    "number_out_of_range": "a number too large for a double",
    "key_in_another_case": "a key in another case, such as userid for userId",
    "impossible_ts": "no ts, or one outside the years 2000 to 2099",
    "blank_user_id": "a play without a user",
    "blank_song_id": "a song without a song_id",
    "blank_artist_id": "a song without an artist_id",
}
MATCHED = (
    "A play has a song where title, artist and length agree with one of the song files. All other"
    " plays are kept, without a song: the share is low where the song files are only a part of what"
    " is played."
)

Record = Mapping[str, Any]


class PageError(Exception):
    """The page cannot be made; the message says what is missing, where, and what to do next."""


# ---- From the files ------------------------------------------------------------------------------


def find_report(output: str, run: str | None) -> Path:
    """The report of a run, or of the latest."""
    if "://" in output:
        raise PageError(
            f"{output} is not on this machine: copy {output}/_etl below a folder here, say with "
            f"'aws s3 cp --recursive {output}/_etl output/_etl', and give that with --output output"
        )
    reports = sorted(Path(output, "_etl", "reports").glob("*.json"))
    if not reports:
        raise PageError(f"{output}/_etl/reports holds no report: has etl.py run with this output?")
    if run is None:
        return reports[-1]
    for report in reports:
        if report.stem == run:
            return report
    raise PageError(
        f"{output}/_etl/reports holds no report of run {run}; the latest is {reports[-1].stem}"
    )


def find_examples(rejects: Path, wanted: int = EXAMPLES) -> dict[str, list[Record]]:
    """The first few rejected lines of a source for each reason."""
    examples: dict[str, list[Record]] = {}
    for number, reject in enumerate(read_rejects(rejects)):
        known = examples.setdefault(str(reject.get("reason")), [])
        if len(known) < wanted:
            known.append(reject)
        if number >= MOST_LINES:
            break
    return examples


def read_rejects(folder: Path) -> Iterator[Record]:
    """The rejected lines of a source, with their reasons and files."""
    for path in sorted(folder.glob("*.json")):
        with path.open(encoding="utf-8", errors="replace") as lines:
            yield from (json.loads(line) for line in lines)


# ---- To HTML: pure -------------------------------------------------------------------------------


def render_page(
    report: Record, examples: Mapping[str, Mapping[str, Sequence[Record]]], lake: str
) -> str:
    """The whole page of a run on the lake; the examples are by source and reason."""
    sections = (
        ("What to look at", render_problems(report)),
        ("What became of the input", render_sources(report["sources"])),
        ("Rejected, by reason", render_rejects(report["sources"], examples)),
        ("Plays per day", render_plays(report.get("plays_per_day") or {})),
        ("Tables", render_tables(report["tables"])),
        ("This run", render_this_run(report.get("this_run") or {})),
        ("Time by stage", render_seconds(report["seconds"])),
    )
    return PAGE.substitute(
        lake=text(lake),
        run=text(report["run"]),
        status=text(report["status"]),
        state="good" if report["status"] in {"published", "unchanged"} else "bad",
        started=text(str(report["started"])[:19].replace("T", " ")),
        took=text(duration(elapsed(report))),
        figures=render_figures(report),
        sections="".join(
            f"<section{' class=wide' if name in WIDE else ''}><h2>{name}</h2>{body}</section>"
            for name, body in sections
            if body
        ),
    )


def text(value: object) -> str:
    """A value as text for HTML: escaped, and with invisible characters as their codes."""
    shown = (c if c.isprintable() else f"\\u{ord(c):04x}" for c in str(value))
    return html.escape("".join(shown))


def render_figures(report: Record) -> str:
    """The few numbers that tell whether a run was as usual."""
    tables, sources = report["tables"], report["sources"]
    plays = tables.get("songplays", {}).get("rows", 0)
    rejected = sum(sum(account["rejected"].values()) for account in sources.values())
    figures = {
        "plays": f"{plays:,}",
        "have a song of the catalogue": percent(report["matched_plays"], plays),
        "records rejected": f"{rejected:,}",
        "names repaired": f"{report['repaired_names']:,}",
        "in all tables": size(sum(table["bytes"] for table in tables.values())),
    }
    if report.get("checks") and report["status"] == "published":
        figures["checks, no rule broken"] = f"{report['checks']:,}"
    return "".join(f"<div><dd>{value}</dd><dt>{name}</dt></div>" for name, value in figures.items())


def render_this_run(done: Record) -> str:
    """What the run has read, why, and what it has built anew."""
    if not done:
        return ""
    why = f"It read all of the input: {done['full']}." if done["full"] else "It read what was new."
    rows = [
        f"<tr><th>{text(name)}</th><td>{done['read'][name]:,} records</td>"
        f"<td>{', '.join(f'{n:,} {text(kind)}' for kind, n in files.items())} files</td>"
        for name, files in done["files"].items()
    ]
    rebuilt = ", ".join(f"{text(name)} {n:,}" for name, n in done["rebuilt"].items()) or "none"
    table = f"<table>{''.join(f'{row}</tr>' for row in rows)}</table>"
    return f"<p>{text(why)}</p>{table}<p>Partitions built anew: {rebuilt}.</p>"


def render_problems(report: Record) -> str:
    """The error and the warnings, if there are any."""
    problems = [f"<li class=bad>{text(report['error'])}</li>"] if report["error"] else []
    problems += [f"<li>{text(warning)}</li>" for warning in report["warnings"]]
    return f"<ul>{''.join(problems)}</ul>" if problems else ""


def render_sources(sources: Mapping[str, Record]) -> str:
    """A column per source: read = loaded + filtered + duplicate + rejected."""
    if not sources:
        return "<p>No source was read.</p>"
    outcomes = ("files", "read", "loaded", "filtered", "duplicate")
    rows = [[name, *(f"{account[name]:,}" for account in sources.values())] for name in outcomes]
    rejected = (sum(account["rejected"].values()) for account in sources.values())
    rows.append(["rejected", *(f"{count:,}" for count in rejected)])
    return render_table(["", *sources], rows) + (
        "<p class=note>read = loaded + filtered (no plays) + duplicate + rejected</p>"
    )


def render_rejects(
    sources: Mapping[str, Record], examples: Mapping[str, Mapping[str, Sequence[Record]]]
) -> str:
    """Each reason with its count and its meaning, and a few of its lines to unfold."""
    reasons = [
        (source, reason, count)
        for source, account in sources.items()
        for reason, count in sorted(account["rejected"].items(), key=lambda item: -item[1])
    ]
    parts = [
        f"<details><summary><b>{count:,}</b> {text(reason)} <small>{text(source)}:"
        f" {REASONS.get(reason, 'not known to this page')}</small></summary>"
        f"{''.join(map(render_example, examples.get(source, {}).get(reason, ())))}</details>"
        for source, reason, count in reasons
    ]
    return "".join(parts) or "<p>Nothing was rejected.</p>"


def render_example(reject: Record) -> str:
    """One rejected line: its file, and its beginning."""
    line = str(reject.get("line", ""))
    length = int(reject.get("length") or len(line))
    is_cut = length > LONGEST_EXAMPLE
    cut = f", the first {LONGEST_EXAMPLE:,} of {length:,} characters" if is_cut else ""
    return (
        f"<p class=file>{text(path_of(str(reject.get('file', ''))))}{cut}</p>"
        f"<pre>{text(line[:LONGEST_EXAMPLE])}</pre>"
    )


def path_of(uri: str) -> str:
    """A file as ls and aws s3 ls take it; Spark names files by percent-encoded URIs."""
    path = unquote(uri) if re.match(r"\w+:/", uri) else uri
    return re.sub(r"^file:/+", "/", path)


def render_plays(plays_per_day: Mapping[str, int]) -> str:
    """A bar per day, days without a play included, and the same as a table to unfold."""
    if not plays_per_day:
        return ""
    unit, counts = condense(plays_per_day)
    most = max(counts.values())
    busiest = max(counts, key=lambda period: counts[period])
    message = (
        f"{sum(counts.values()):,} plays in {len(counts):,} {unit}s; "
        f"the busiest {unit} was {busiest} with {most:,}."
    )
    first, last = min(counts), max(counts)
    rows = [[period, f"{count:,}"] for period, count in counts.items()]
    return (
        f"<p>{text(message).replace(busiest, f'<time>{busiest}</time>')}</p>"
        f"<p class=axis>{most:,}</p>{render_columns(counts, most, message)}"
        f"<p class=axis><span>{text(first)}</span><span>{text(last)}</span></p>"
        f"<details><summary>As a table</summary>{render_table([unit, 'plays'], rows)}</details>"
    )


def render_columns(counts: Mapping[str, int], most: int, message: str) -> str:
    """A bar chart in SVG, as wide as its section."""
    step = 100 / len(counts)
    columns = "".join(
        f'<rect x="{number * step:.3f}%" y="{100 - 100 * count / most:.2f}%"'
        f' width="{step * 0.8:.3f}%" height="{100 * count / most:.2f}%">'
        f"<title>{text(period)}: {count:,}</title></rect>"
        for number, (period, count) in enumerate(counts.items())
    )
    return f'<svg class=columns role=img aria-label="{text(message)}">{columns}</svg>'


def condense(plays_per_day: Mapping[str, int]) -> tuple[str, dict[str, int]]:
    """The plays by day, or by month or year where that is too many bars; 0 without a play."""
    days = [date.fromisoformat(day) for day in plays_per_day]
    span = range((max(days) - min(days)).days + 1)
    every_day = [str(min(days) + timedelta(number)) for number in span]
    for unit, length in (("day", 10), ("month", 7), ("year", 4)):
        counts = Counter({day[:length]: 0 for day in every_day})
        for day, plays in plays_per_day.items():
            counts[day[:length]] += plays
        if len(counts) <= MOST_BARS or unit == "year":
            break
    return unit, dict(counts)


def render_tables(tables: Mapping[str, Record]) -> str:
    """What was published: rows, partitions, files and bytes."""
    rows = [
        [
            name,
            *(f"{table[key]:,}" for key in ("rows", "partitions", "files")),
            size(table["bytes"]),
        ]
        for name, table in tables.items()
    ]
    if not rows:
        return "<p>No table was published by this run.</p>"
    head = ["table", "rows", "parts", "files", "size"]
    return render_table(head, rows) + f"<p class=note>{MATCHED}</p>"


def render_seconds(seconds: Mapping[str, float]) -> str:
    """A bar per stage, in the order in which they ran."""
    longest = max(seconds.values(), default=0) or 1
    rows = "".join(
        f"<tr><th scope=row>{text(stage)}</th><td>{spent:,.1f} s</td><td class=bar>"
        f'<svg aria-hidden=true><rect width="{100 * spent / longest:.1f}%" height="100%"/></svg>'
        "</td></tr>"
        for stage, spent in seconds.items()
    )
    return f"<table><tbody>{rows}</tbody></table>"


def render_table(header: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column names the row."""
    head = "".join(f"<th scope=col>{text(name)}</th>" for name in header)
    body = "".join(
        f"<tr><th scope=row>{text(row[0])}</th>"
        f"{''.join(f'<td>{text(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def elapsed(report: Record) -> float:
    """The seconds that a run took from its start to its report."""
    started, finished = (datetime.fromisoformat(report[key]) for key in ("started", "finished"))
    return (finished - started).total_seconds()


def percent(part: int, whole: int) -> str:
    """A share to read; none where there is nothing to have a share of."""
    return f"{100 * part / whole:.1f} %" if whole else "none"


# ---- Start ---------------------------------------------------------------------------------------


def write_page(output: str, run: str | None = None, page: Path | None = None) -> Path:
    """Write the page of a run, by default the latest, and return where it is."""
    path = find_report(output, run)
    rejects = Path(output, "_etl", "rejects", path.stem)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        examples = {source: find_examples(rejects / source) for source in report["sources"]}
        content = render_page(report, examples, str(Path(output).resolve()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PageError(f"{path} or its rejects in {rejects} cannot be read: {error!r}") from error
    target = page or Path(output, "_etl", "report.html")
    target.write_text(content, encoding="utf-8")
    return target


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="report_page.py", description="Show a run of etl.py as a static HTML page."
    )
    parser.add_argument("--output", default="output", metavar="PATH", help="folder of the lake")
    parser.add_argument("--run", metavar="RUN", help="which run; by default the latest")
    parser.add_argument(
        "--page",
        type=Path,
        metavar="FILE",
        help="where to write the page; by default <output>/_etl/report.html",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and print its path on stdout; returns the exit code."""
    arguments = parse_args(argv)
    try:
        page = write_page(arguments.output, arguments.run, arguments.page)
    except (PageError, OSError) as error:
        sys.stderr.write(f"report_page.py: error: {error}\n")
        return 1
    sys.stderr.write("open this page in a browser to see the run:\n")
    sys.stdout.write(f"{page.resolve()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
