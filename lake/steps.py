"""The steps of a run that has something to do: parse, stage, check, publish, report."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lake import publishing
from lake.accounting import FileFacts, build_account, check_account, read_file_facts
from lake.causes import BYTES_LOOKED_AT, LOOKED_AT, Cause, find_cause, find_emptiness
from lake.checks import (
    MATCHED,
    ROWS,
    DataQualityError,
    Findings,
    build_source_keys,
    check_counts,
    check_schema,
    find_shrinkage,
    read_findings,
)
from lake.inputs import (
    Figures,
    KnownFile,
    SourceState,
    State,
    find_touched_days,
    settle_version,
    write_state,
)
from lake.layout import lay_out, stage_table
from lake.lines import FILE_AS_LISTED, rejected
from lake.listing import SourceError
from lake.parsed import add_folder, build_source_state, compact, read_parsed, write_parsed
from lake.paths import REJECTS, parsed_path, readable, staged_path
from lake.published import read_last_report
from lake.rebuild import Rebuild, plan_rebuild, rebuild_all
from lake.report import Report, describe_passed_over, now, tell
from lake.run import Run, write_report
from lake.sources import SOURCES, Source, find_unreadable
from lake.spark import one_line
from lake.tables import ARTISTS, SONGPLAYS, SONGS, TIME, USERS, Table, stored_schema

if TYPE_CHECKING:
    from lake.listing import Listing
    from lake.work import Published, Work

LayOut = Callable[[Table, DataFrame], DataFrame]


@dataclass(frozen=True)
class Parsed:
    """A source after its changes were parsed: all its records, and what is known of its files."""

    records: DataFrame
    state: SourceState


# ---- Read ----------------------------------------------------------------------------------------


def read_source(run: Run, source: Source, work: Work) -> Parsed:
    """Parse the changes of a source, and return the records of all its files.

    The rejected records of all files go to rejects/<run>, even if the run fails later. Raises
    SourceError if a file cannot be read, nothing is there to load, or too much is rejected.
    """
    name, listing, changes = source.name, work.listings[source.name], work.changes[source.name]
    with run.report.stage(name) as facts:
        found = parse_files(run, source, listing, changes.to_parse)
        state = build_source_state(work.known.source(name), changes, found)
        state = compact(run.spark, run.storage, source, state, run.report.run)
        state = add_folder(run.storage, source, state, run.report.run)
        records = read_parsed(run.spark, run.storage, source, state)
        read = sum(of.records for known in found.values() for of in known.facts.outcomes)
        facts.append(f"{read:,} records in {len(found):,} files")
    run.report.this_run["read"][name] = read
    note_account(run, source, listing, state)
    write_rejects(run, source, records)
    parsed = Parsed(records, state)
    account, limit = run.report.sources[name], run.config.max_rejected_percent
    explain = functools.partial(explain_failure, run, source, work, parsed)
    check_account(name, getattr(run.config, name), account, limit, explain)
    return parsed


def parse_files(
    run: Run, source: Source, listing: Listing, files: Collection[str]
) -> dict[str, KnownFile]:
    """Parse files into the run's own folder of parsed records; returns what is known of each."""
    if not files:
        return {}
    path = run.storage.path(parsed_path(source.name, run.report.run))
    try:
        records = source.build(source.read(run.spark, listing, frozenset(files)))
        write_parsed(records, path)
    except (PySparkException, Py4JJavaError) as error:
        unreadable = find_unreadable(run.spark, files)
        if not unreadable:
            raise
        raise SourceError(
            f"{source.name}: cannot read {readable(unreadable)}: {one_line(error)}; fix or remove "
            "it, and run again"
        ) from error
    facts = read_file_facts(run.spark.read.schema(source.record).parquet(path))
    return {
        file: KnownFile(
            settle_version(listing.files[file], listing.began, listing.ended),
            run.report.run,
            facts.get(file, FileFacts([], {})),
        )
        for file in files
    }


def note_account(run: Run, source: Source, listing: Listing, state: SourceState) -> None:
    """Enter what became of all records of a source."""
    files = {file: known.facts.outcomes for file, known in state.files.items()}
    account = build_account(files, len(listing.passed_over))
    run.report.sources[source.name] = account
    run.report.repaired_names += account["repaired"]
    if listing.passed_over:
        tell(
            f"           {source.name}: {describe_passed_over(account['passed_over'])}, such as "
            f"{readable(listing.passed_over[0])}"
        )


def write_rejects(run: Run, source: Source, records: DataFrame) -> None:
    """Write the rejected records of a source, if there are any."""
    if run.report.sources[source.name]["rejected"]:
        rejects = run.storage.path(f"{REJECTS}/{run.report.run}/{source.name}")
        rejected(records).coalesce(1).write.json(rejects)
        tell(f"           {source.name}: rejected records are in {readable(rejects)}")


def explain_failure(run: Run, source: Source, work: Work, parsed: Parsed) -> Cause | None:
    """The likely cause why nothing of a source is loaded, or too little; None if it is unknown."""
    files, commonest = parsed.state.files, run.report.sources[source.name]["commonest"]
    if not any(known.facts.outcomes for known in files.values()):
        return find_emptiness(list(files), work.listings[source.name].passed_over)
    told = commonest[0]["file"] if commonest else ""
    suspect = next((file for file in files if readable(file) == told), "")
    if not suspect or not all(found.is_rejection for found in files[suspect].facts.outcomes):
        return None  # some of its records are as they should be
    start = F.expr(f"substring(CAST(line AS BINARY), 1, {BYTES_LOOKED_AT})")
    of_suspect = parsed.records.filter(F.expr(FILE_AS_LISTED) == suspect).select(start)
    return find_cause(source.name, [bytes(line) for (line,) in of_suspect.head(LOOKED_AT)])


# ---- Stage and check -----------------------------------------------------------------------------


def find_rebuild(run: Run, work: Work, parsed: Mapping[str, Parsed], matches: str) -> Rebuild:
    """Which parts of the tables the changes touch."""
    log = parsed["log_data"].state
    if work.full:
        return rebuild_all(run.tables, log.days)
    return plan_rebuild(
        songs_changed=bool(work.changes["song_data"]),
        matches_changed=matches != work.known.matches,
        touched_days=find_touched_days(
            work.changes["log_data"], work.known.source("log_data"), log
        ),
        plays=log.days,
    )


def find_matches(run: Run, work: Work, matches: DataFrame) -> str:
    """A hash of the songs that plays are matched with, as they are after this run."""
    if not work.full and not work.changes["song_data"]:
        return work.known.matches
    with run.report.stage("matches") as facts:
        hashed = matches.selectExpr("count(1) AS songs", "bit_xor(xxhash64(*)) AS hash").first()
        songs, hash_of_all = hashed or (0, 0)
        facts.append(f"{songs:,} songs to match plays with")
    return f"{songs} {hash_of_all}"


def plan_layout(run: Run, rebuild: Rebuild) -> LayOut:
    """How rows go to files: a partition with more plays than the limit of rows has several.

    Plays that are in no part of a table which is built anew are left out.
    """
    limit = run.config.max_rows_per_file
    tables = {table.name: table for table in run.tables}

    def lay_out_table(table: Table, rows: DataFrame) -> DataFrame:
        table = tables[table.name]
        if "start_time" not in table.columns or table.name not in rebuild.tables:
            return lay_out(rows, table, {}, limit)
        large = {unit: n for unit, n in rebuild.sizes(table).items() if n > limit}
        return lay_out(rebuild.restrict(table, rows), table, large, limit)

    return lay_out_table


def stage_tables(run: Run, rebuild: Rebuild, tables: Mapping[str, DataFrame]) -> None:
    """Write what is built anew of each table to the staging area."""
    for table in run.tables:
        if table.name in rebuild.tables:
            with run.report.stage(table.name):
                path = run.staged(table.name)
                stage_table(tables[table.name], table, path, run.config.max_rows_per_file)


def check_tables(
    run: Run, work: Work, rebuild: Rebuild, songs: DataFrame, plays: DataFrame
) -> Figures:
    """Check what was really written; raises DataQualityError with table, rule and count.

    Returns what the whole lake holds now.
    """
    rebuilt = [table for table in run.tables if table.name in rebuild.tables]
    staged = {
        table.name: run.storage.files(staged_path(run.report.run, table.name)) for table in rebuilt
    }
    # A table of which nothing is left in the parts that are built anew has no rows to check.
    rebuilt = [table for table in rebuilt if staged[table.name] or rebuild.units(table) is None]
    with run.report.stage("checks") as facts:
        check_schemas(run, rebuilt, staged)
        frames = read_tables(run, rebuilt, songs, plays)
        source_keys = build_source_keys(rebuilt, songs, plays, rebuild.restrict)
        found = read_findings(rebuilt, frames, source_keys) if rebuilt else Findings({}, {})
        check_counts(found.counts)
        run.report.checks = len(found.counts)
        facts.append(f"{run.report.checks:,} checks, no rule broken")
    figures = build_figures(run.tables, work.known.figures, rebuild, found)
    note_figures(run.report, figures)
    warn_of_shrinkage(run)
    return figures


def read_tables(
    run: Run, rebuilt: Collection[Table], songs: DataFrame, plays: DataFrame
) -> dict[str, DataFrame]:
    """The tables as they are staged, with the schema of their contract.

    For one that is not built anew stand the keys of its source, to which others refer: when it was
    published it was found to be complete, and reading it again costs S3 a file a partition.
    """
    sources = {
        table.name: source.select(*table.key).distinct()
        for table, source in ((SONGS, songs), (ARTISTS, songs), (USERS, plays))
    }
    staged = {
        table.name: run.spark.read.schema(stored_schema(table)).parquet(run.staged(table.name))
        for table in rebuilt
    }
    return {**sources, **staged}


def check_schemas(
    run: Run, tables: Collection[Table], files: Mapping[str, Collection[str]]
) -> None:
    """Raise DataQualityError unless each table has files, and they have its columns and types."""
    for table in tables:
        if not files[table.name]:
            raise DataQualityError(
                f"{table.name}: no row is staged, and an empty table is not published"
            )
        first = f"{run.staged(table.name)}/{min(files[table.name])}"
        check_schema(table, run.spark.read.parquet(first).schema)


def build_figures(
    tables: Collection[Table], before: Figures, rebuild: Rebuild, found: Findings
) -> Figures:
    """What the lake holds after a run: what it has built anew, and the rest as it was."""
    rows = dict(before.rows)
    per_day = {}
    for table in tables:
        if "start_time" not in table.columns:
            rows[table.name] = found.counts.get((table.name, ROWS), rows.get(table.name, 0))
            continue
        for measure in (table.name, MATCHED) if table.name == SONGPLAYS.name else (table.name,):
            known = before.per_day.get(measure, {})
            held = rebuild.held(table, known)
            kept = {day: n for day, n in known.items() if day not in held}
            per_day[measure] = dict(sorted({**kept, **found.per_day.get(measure, {})}.items()))
    return Figures(rows, per_day)


def note_figures(report: Report, figures: Figures) -> None:
    """Enter what the tables hold, and tell duplicates from loaded records."""
    report.plays_per_day = dict(figures.per_day[SONGPLAYS.name])
    report.matched_plays = sum(figures.per_day[MATCHED].values())
    rows = dict(figures.rows)
    rows.update({name: sum(figures.per_day[name].values()) for name in (TIME.name, SONGPLAYS.name)})
    for source, table in (("song_data", SONGS), ("log_data", SONGPLAYS)):
        account = report.sources[source]
        account["duplicate"] = account["loaded"] - rows[table.name]
        account["loaded"] = rows[table.name]
    for name, count in rows.items():
        report.tables[name] = {"rows": count, "partitions": 0, "files": 0, "bytes": 0}


def note_files(report: Report, contents: Mapping[str, Any]) -> None:
    """Enter the partitions, files and bytes of the tables."""
    for name, partitions in contents.items():
        sizes = [size for known in partitions.values() for size in known["files"].values()]
        known = {"partitions": len(partitions), "files": len(sizes), "bytes": sum(sizes)}
        report.tables[name] = {**report.tables.get(name, {"rows": 0}), **known}


def warn_of_shrinkage(run: Run) -> None:
    """Warn where the lake holds much less than after the last published run."""
    previous = read_last_report(run.storage)
    rows = {table: known["rows"] for table, known in run.report.tables.items()}
    if previous and rows.keys() <= previous["tables"].keys():
        before = {table: known["rows"] for table, known in previous["tables"].items()}
        matched = run.report.matched_plays
        for warning in find_shrinkage(rows, matched, before, previous["matched_plays"]):
            run.report.warn(warning)


# ---- Publish -------------------------------------------------------------------------------------


def publish_tables(
    run: Run, published: Published, rebuild: Rebuild, state: State, parsed: Mapping[str, Parsed]
) -> None:
    """Commit what is staged and swap it in; after the commit a run can only be finished."""
    tables = {table.name: table for table in run.tables if table.name in rebuild.tables}
    with run.report.stage("commit"):
        if run.config.incremental:
            sources = {name: source.state for name, source in parsed.items()}
            write_state(run.storage, replace(state, sources=sources))
        rebuilt = {name: rebuild.partitions(table) for name, table in tables.items()}
        name, inputs = run.report.run, run.report.run if run.config.incremental else ""
        plan = publishing.build_plan(run.storage, name, rebuilt, published.note.contents, inputs)
        note_files(run.report, plan.contents or {})
        run.report.this_run["rebuilt"] = {
            table.name: len(table.put) + len(table.remove) for table in plan.tables
        }
        plan = replace(plan, report=asdict(run.report))
        publishing.commit(run.storage, run.lock, plan)
        run.report.status = "committed"
    with run.report.stage("swap") as facts:
        publishing.swap(run.storage, run.lock, plan)
        facts.append(describe_swap(run.report))
    report = {**asdict(run.report), "status": "published", "finished": now()}
    publishing.settle(run.storage, plan, report)
    run.report.status = "published"
    publishing.keep_latest(run.storage, run.config.keep_reports, run.report.run)


def describe_swap(report: Report) -> str:
    """How many partitions a run has replaced or removed, of those that the lake has."""
    rebuilt = sum(report.this_run["rebuilt"].values())
    total = sum(table["partitions"] for table in report.tables.values())
    return f"{rebuilt:,} partitions; the lake has {total:,}"


def report_unchanged(run: Run, published: Published, work: Work) -> None:
    """Report a run that found nothing to do: it changes nothing else."""
    tell("nothing is new: the published tables are as they were")
    run.report.status = "unchanged"
    for source in SOURCES:
        state = work.known.source(source.name)
        note_account(run, source, work.listings[source.name], state)
    note_figures(run.report, work.known.figures)
    note_files(run.report, published.note.contents)
    write_report(run.storage, run.report)
    publishing.keep_latest(run.storage, run.config.keep_reports, published.note.inputs)
