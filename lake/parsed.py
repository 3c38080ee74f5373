"""The parsed records of the input, kept so that no line is parsed twice.

_etl/parsed/<source>/run=<run>/ holds what one run has parsed, each record with its file. The
records of a file that has changed or gone since are dead: they stay there and are passed over.
Folders become fewer again when they are compacted, and go when no file of the input has records in
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lake.inputs import Changes, KnownFile, SourceState, read_published_state
from lake.layout import new_writer
from lake.lines import FILE_AS_LISTED, FILTERED
from lake.parsing import columns
from lake.paths import INPUTS, PARSED, inputs_path, is_run, parsed_path
from lake.sources import SOURCES, Source, setting

if TYPE_CHECKING:
    from lake.storage import Storage

MONTH = "parsed_month"  # the folder of a play, such as 201811: other months are not read
RUN = "run"  # the folder above it: of the run that has parsed the record
MOST_FOLDERS = 16  # more are compacted
# Spark sorts the rows by their folder before it writes them, unless no more than these are open.
OPEN_FOLDERS = "spark.sql.maxConcurrentOutputFileWriters"


# ---- Write and read ------------------------------------------------------------------------------


def write_parsed(records: DataFrame, path: str) -> None:
    """Add records to a folder, plays by their month."""
    by = [MONTH] if "start_time" in records.columns else []
    if by:
        records = records.withColumn(MONTH, F.expr("year(start_time) * 100 + month(start_time)"))
    with setting(records.sparkSession, OPEN_FOLDERS, "40"):
        new_writer(records, path).partitionBy(*by).mode("append").parquet(path)


def read_parsed(
    spark: SparkSession, storage: Storage, source: Source, state: SourceState
) -> DataFrame:
    """One row per record of the source's files as they are now."""
    return read_folders(spark, storage, source, state, state.folders)


def read_folders(
    spark: SparkSession,
    storage: Storage,
    source: Source,
    state: SourceState,
    folders: Iterable[str],
) -> DataFrame:
    """The records in some folders without the dead ones."""
    schema = f"{source.record}, {RUN} STRING"
    if "start_time" in columns(source.record):
        schema += f", {MONTH} INT"
    paths = [storage.path(parsed_path(source.name, run)) for run in folders]
    if not paths:
        nulls = [f"CAST(NULL AS {kind}) AS {name}" for name, kind in columns(schema).items()]
        return spark.range(0).selectExpr(*nulls)
    reader = spark.read.schema(schema).option("basePath", storage.path(f"{PARSED}/{source.name}"))
    records = reader.parquet(*paths)
    for run in folders:
        if state.dead.get(run):
            is_dead = F.expr(FILE_AS_LISTED).isin(list(state.dead[run]))
            records = records.filter((F.col(RUN) != run) | ~is_dead)
    return records


# ---- What is known after a run -------------------------------------------------------------------


def build_source_state(
    before: SourceState, changes: Changes, parsed: Mapping[str, KnownFile]
) -> SourceState:
    """What is known of a source once a run has parsed its changes; its own folder is not in it."""
    outdated = set(changes.outdated)
    files = {file: known for file, known in before.files.items() if file not in outdated}
    files.update(parsed)
    dead = {folder: list(of_folder) for folder, of_folder in before.dead.items()}
    for file in outdated:
        dead.setdefault(before.files[file].parsed, []).append(file)
    return drop_empty_folders(SourceState(files, before.folders, dead))


def drop_empty_folders(state: SourceState) -> SourceState:
    """The state without the folders that hold no record which counts."""
    used = {known.parsed for known in state.files.values() if known.facts.outcomes}
    return replace(
        state,
        folders={run: files for run, files in state.folders.items() if run in used},
        dead={run: sorted(files) for run, files in state.dead.items() if run in used},
    )


def find_folders_to_compact(state: SourceState) -> list[str]:
    """The folders to write anew: those that are mostly dead, and the smaller half of too many."""
    live: dict[str, int] = {}
    for known in state.files.values():
        live[known.parsed] = live.get(known.parsed, 0) + 1
    chosen = {run for run, files in state.dead.items() if len(files) > live.get(run, 0)}
    if len(state.folders) > MOST_FOLDERS:
        by_size = sorted(state.folders, key=lambda run: (sum(state.folders[run].values()), run))
        chosen.update(by_size[: len(by_size) // 2])
    return sorted(chosen & state.folders.keys())


def compact(
    spark: SparkSession, storage: Storage, source: Source, state: SourceState, run: str
) -> SourceState:
    """Copy the records of folders that are to be compacted into the run's own folder."""
    folders = find_folders_to_compact(state)
    if not folders:
        return state
    records = read_folders(spark, storage, source, state, folders)
    records = records.filter(F.col("outcome") != FILTERED)  # counted, and of no further use
    in_few_files = records.repartition(MONTH) if MONTH in records.columns else records.coalesce(1)
    write_parsed(in_few_files.drop(RUN), storage.path(parsed_path(source.name, run)))
    files = {
        file: known._replace(parsed=run) if known.parsed in folders else known
        for file, known in state.files.items()
    }
    return drop_empty_folders(replace(state, files=files))


def add_folder(storage: Storage, source: Source, state: SourceState, run: str) -> SourceState:
    """The state with the files that a run has written, as they are in the store."""
    files = storage.files(parsed_path(source.name, run))
    return replace(state, folders={**state.folders, run: files}) if files else state


# ---- Whether it is still there -------------------------------------------------------------------


def find_damage(storage: Storage, sources: Mapping[str, SourceState]) -> str:
    """What is wrong with the parsed records: a file that is gone or has other bytes; '' if none."""
    found = {f"{PARSED}/{file}": size for file, size in storage.files(PARSED).items()}
    noted = {
        f"{parsed_path(name, run)}/{file}": size
        for name, source in sources.items()
        for run, files in source.folders.items()
        for file, size in files.items()
    }
    wrong = [file for file, size in noted.items() if found.get(file) != size]
    if wrong:
        return f"{wrong[0]} is not as it was written"
    return ""


def drop_unused(storage: Storage) -> None:
    """Delete the states and parsed folders of runs that the published state does not name."""
    state = read_published_state(storage)
    for source in SOURCES:
        used = state.source(source.name).folders if state else {}
        for folder in storage.folders(f"{PARSED}/{source.name}"):
            run = folder.removeprefix(f"{RUN}=")
            if is_run(run) and run not in used:
                storage.delete(parsed_path(source.name, run))
    for file in storage.files(INPUTS):
        run = file.removesuffix(".json")
        if is_run(run) and not (state and run == state.run):
            storage.delete(inputs_path(run))
