"""Register the published tables in the AWS Glue Data Catalog, for Athena and Redshift Spectrum.

Run it as `python -m aws.catalog` after every run of the job and after every recovery; running it
again changes nothing. It prints what changed in each table. Exit codes: 0 the catalogue agrees with
the published files, 1 AWS refused something or a run has not finished its swap, 2 usage or
configuration.

The files decide: a table's partition keys and partitions are read from its published folders, so
the catalogue agrees with them whatever [partitions] in dl.cfg says today.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from aws.console import say
from aws.glue import (
    Action,
    Registered,
    TableChange,
    Values,
    apply_change,
    create_database,
    fetch_registered,
)
from aws.locations import locate_lake
from aws.ownership import OWN_PARAMETERS, has_own_parameter
from aws.s3 import list_etags, split_uri
from aws.session import (
    AwsError,
    CommonOptions,
    add_file_flags,
    add_setting_flags,
    connect,
    load_cluster_config,
    read_common_options,
    run_script,
)
from configs import (
    DL_CFG,
    EmrConfig,
    EtlConfig,
    Flags,
    load_etl_config,
    load_section,
    open_dl_cfg,
    s3_folder,
    setting,
)
from lake.exit_codes import ExitCode
from lake.paths import is_hidden, partition_of
from lake.tables import DATE_PARTS, TABLES, Table

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_glue import GlueClient
    from mypy_boto3_glue.type_defs import PartitionInputTypeDef, TableInputTypeDef
    from mypy_boto3_s3 import S3Client

# The files hold timestamps as INT64 microseconds in UTC (TIMESTAMP_MICROS), for which the Data
# Catalog has one type, timestamp. Athena documents milliseconds as its finest resolution, and no
# timestamp here is finer. Redshift: some users report that it reads such files correctly
# (github.com/apache/arrow/issues/38000), others, long ago, that it does not
# (github.com/dask/fastparquet/issues/432). So the load into Redshift compares start_time with the
# hour and year columns.
GLUE_TYPES = {
    "STRING": "string",
    "INT": "int",
    "BIGINT": "bigint",
    "DOUBLE": "double",
    "TIMESTAMP": "timestamp",
}
PARQUET = {
    "InputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
    "OutputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
    "SerdeInfo": {
        "SerializationLibrary": "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe",
        "Parameters": {"serialization.format": "1"},
    },
}
OUTPUT_EXPECTS = "the lake's folder in S3, such as s3://my-bucket/lake"
NAME_EXPECTS = "a name of a-z, 0-9 and _"


# ---- Settings and command line -------------------------------------------------------------------


def lake_uri(value: str) -> str:
    """The s3:// URI of the lake; the job itself also writes to local folders."""
    return s3_folder(re.sub(r"^s3a://", "s3://", value))


def identifier(value: str) -> str:
    """A name that every SQL engine takes without quotes."""
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,126}", value):
        raise ValueError
    return value


@dataclasses.dataclass(frozen=True)
class CatalogConfig:
    """Where the lake is and where it is registered: [etl] output and [catalog] of dl.cfg."""

    database: str = setting(identifier, f"{NAME_EXPECTS} for the Glue database")
    output: str = ""


def load_catalog_config(
    path: Path = DL_CFG,
    flags: Flags | None = None,
    environ: Mapping[str, str] = os.environ,
) -> CatalogConfig:
    """The catalogue's settings; raises ConfigError where the lake is not in S3."""
    settings = open_dl_cfg(path, flags, environ)
    output = settings.get("etl", "output", lake_uri, OUTPUT_EXPECTS)
    return dataclasses.replace(load_section(settings, "catalog", CatalogConfig), output=output)


def connect_to_lake(options: CommonOptions) -> tuple[boto3.Session, CatalogConfig]:
    """A session, and the lake that dl.cfg names, or else that of the project's bucket."""
    emr, etl = load_cluster_config(options), load_etl_config(options.config, options.flags)
    session = connect(options, emr)
    return session, load_located_lake(options, etl, locate_lake(session, emr, etl))


def load_located_lake(options: CommonOptions, etl: EtlConfig, output: str) -> CatalogConfig:
    """The catalogue's settings with this output, where it is not the one that dl.cfg names."""
    located = {("etl", "output"): output} if output != etl.output else {}
    return load_catalog_config(options.config, {**options.flags, **located})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit code."""
    return run_script(publish, argv)


def publish(argv: Sequence[str] | None) -> int:
    """Register the tables as the command line says."""
    args = build_parser().parse_args(argv)
    session, config = connect_to_lake(read_common_options(vars(args)))
    changes = publish_catalog(session, config, dry_run=args.dry_run)
    if args.json:
        print(json.dumps([dataclasses.asdict(change) for change in changes], indent=2))
    else:
        print("\n".join(describe_change(change) for change in changes))
    done = "dry run: nothing was changed" if args.dry_run else "all tables are"
    say(f"{done} in {config.database} in {session.region_name}")
    return ExitCode.DONE


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    summary = str(__doc__).partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m aws.catalog", description=summary)
    parser.add_argument("--dry-run", action="store_true", help="print what would change")
    parser.add_argument("--json", action="store_true", help="print the changes as JSON")
    add_lake_flags(parser)
    return parser


def add_lake_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of each script that reads the published lake."""
    add_file_flags(parser)
    add_setting_flags(parser, "emr", EmrConfig, ["region", "bucket"])
    add_setting_flags(parser, "catalog", CatalogConfig, ["database"])
    parser.add_argument("--output", dest="etl.output", metavar="VALUE", help=OUTPUT_EXPECTS)


def describe_change(change: TableChange) -> str:
    """What changes in one table, in one line."""
    if not change.is_needed:
        return f"{change.name}: unchanged"
    counts = ((change.create, "added"), (change.update, "changed"), (change.delete, "removed"))
    done = [f"{len(partitions):,} {verb}" for partitions, verb in counts if partitions]
    words = {
        "keep": "",
        "create": "new table",
        "update": "changed table",
        "replace": "new layout, table created again",
    }[change.action]
    partitions = f"partitions: {', '.join(done)}" if done else ""
    return f"{change.name}: {'; '.join(part for part in (words, partitions) if part)}"


# ---- Publish -------------------------------------------------------------------------------------


def publish_catalog(
    session: boto3.Session, config: CatalogConfig, *, dry_run: bool = False
) -> list[TableChange]:
    """Make the catalogue agree with the published files; returns what had to change.

    A table whose partition keys have changed is missing for some seconds while it is replaced.
    """
    s3, glue = session.client("s3"), session.client("glue")
    changes = find_changes(s3, glue, config)
    if not dry_run and any(change.is_needed for change in changes):
        create_database(glue, config.database)
        for change in changes:
            apply_change(glue, config.database, change)
    return changes


def find_changes(s3: S3Client, glue: GlueClient, config: CatalogConfig) -> list[TableChange]:
    """What publish_catalog would change."""
    return compare_tables(glue, config, find_tables(s3, config.output))


def find_tables(s3: S3Client, output: str) -> list[Published]:
    """All tables as their files in S3 show them; an AwsError while a run swaps them in."""
    refuse_unfinished(s3, output)
    published = [find_published(s3, output, table) for table in TABLES]
    refuse_unfinished(s3, output)  # a swap may have begun during the listing
    return published


def compare_tables(
    glue: GlueClient, config: CatalogConfig, published: Sequence[Published]
) -> list[TableChange]:
    """What has to change in the catalogue for it to agree with these tables."""
    return [
        build_change(found, fetch_registered(glue, config.database, found.table.name))
        for found in published
    ]


def refuse_unfinished(s3: S3Client, output: str) -> None:
    """Raise an AwsError while a run has committed but not swapped in all of its tables."""
    bucket, root = split_uri(f"{output}/_etl/")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=root, Delimiter="/")
    folders = [found["Prefix"] for page in pages for found in page.get("CommonPrefixes", [])]
    for folder in folders:
        plan = f"{folder}plan.json"
        if s3.list_objects_v2(Bucket=bucket, Prefix=plan, MaxKeys=1)["KeyCount"]:
            raise AwsError(
                f"s3://{bucket}/{plan}: this run has not yet put all tables in place; wait for it, "
                "or if it is dead, run etl.py --recover on this output, then run this again"
            )


def find_published(s3: S3Client, output: str, table: Table) -> Published:
    """A table as its files in S3 show it."""
    location = f"{output}/{table.name}/"
    bucket, prefix = split_uri(location)
    etags = list_etags(s3, bucket, prefix)
    files = {key.removeprefix(prefix): etag for key, etag in etags.items()}
    return build_published(table, location, files)


# ---- A table as its files show it ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Published:
    """One table's files: their location, the folder of each partition, and each file's ETag."""

    table: Table  # its partition_by is that of the folders
    location: str
    partitions: Mapping[Values, str]
    files: Mapping[str, str]  # those that readers see, with paths relative to the location


def build_published(table: Table, location: str, files: Mapping[str, str]) -> Published:
    """A table as its files show it; their paths are relative to the location."""
    # Consoles make an empty object, named with a slash at its end, where a user makes a folder.
    visible = {
        file: etag for file, etag in files.items() if not is_hidden(file) and file[-1:] != "/"
    }
    folders = sorted({partition_of(file) for file in visible})
    if not folders:
        raise AwsError(f"{location} holds no files: run the job on this output first")
    layouts = {partition_names(folder) for folder in folders}
    if len(layouts) > 1:
        shown = " and ".join("/".join(names) or "no partitions" for names in sorted(layouts))
        raise AwsError(
            f"{location} mixes layouts ({shown}): delete the files that the job did not write, "
            "or run the job again"
        )
    partitioned = dataclasses.replace(table, partition_by=layouts.pop())
    check_partition_names(partitioned, location)
    partitions = {
        partition_values(partitioned, folder): f"{location}{folder}/" for folder in folders
    }
    return Published(partitioned, location, partitions if partitioned.partition_by else {}, visible)


def partition_names(folder: str) -> tuple[str, ...]:
    """The partition columns of a folder such as year=2018/month=11."""
    return tuple(part.partition("=")[0] for part in folder.split("/")) if folder else ()


def check_partition_names(table: Table, location: str) -> None:
    """Raise an AwsError for a folder that is not a partition."""
    for name in table.partition_by:
        if name not in table.columns and name not in DATE_PARTS:
            raise AwsError(
                f"{location} has folders by {name!r}, which is no partition column: "
                "delete what the job did not write"
            )


def partition_values(table: Table, folder: str) -> Values:
    """The partition values of a folder; Spark writes special characters as %XX in its name."""
    values = tuple(unquote(part.partition("=")[2]) for part in folder.split("/") if part)
    for name, value in zip(table.partition_by, values):
        if column_type(table, name) == "int" and not value.removeprefix("-").isdigit():
            raise AwsError(
                f"{table.name}/{folder} is no partition, {name} has to be a number: "
                "delete what the job did not write"
            )
    return values


def column_type(table: Table, name: str) -> str:
    """A column's type in the catalogue; year, month and day of start_time are numbers."""
    return GLUE_TYPES[table.columns.get(name, "INT")]


def build_table_input(published: Published) -> TableInputTypeDef:
    """The table as CreateTable takes it."""
    table = published.table
    return {
        "Name": table.name,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {"EXTERNAL": "TRUE", "classification": "parquet", **OWN_PARAMETERS},
        "PartitionKeys": [
            {"Name": name, "Type": column_type(table, name)} for name in table.partition_by
        ],
        "StorageDescriptor": build_storage(table, published.location),
    }


def build_partition_inputs(published: Published) -> dict[Values, PartitionInputTypeDef]:
    """Each partition as BatchCreatePartition takes it."""
    return {
        values: {
            "Values": list(values),
            "StorageDescriptor": build_storage(published.table, folder),
        }
        for values, folder in published.partitions.items()
    }


def build_storage(table: Table, location: str) -> Any:  # noqa: ANN401 (one dict, two TypedDicts)
    """Where and how rows are stored; the partition columns are not in the files."""
    stored = [name for name in table.columns if name not in table.partition_by]
    described = [{"Name": name, "Type": column_type(table, name)} for name in stored]
    return {"Columns": described, "Location": location, **PARQUET}


# ---- What has to change --------------------------------------------------------------------------


def build_change(published: Published, registered: Registered) -> TableChange:
    """The difference between a table's files and its entry in the catalogue."""
    table, found = build_table_input(published), registered.table
    action = choose_action(table, found)
    known = {} if action == "replace" else registered.partitions
    wanted = build_partition_inputs(published)
    if found and action == "update":
        table["Parameters"] = {**found.get("Parameters", {}), **table.get("Parameters", {})}
    return TableChange(
        published.table.name,
        action,
        table,
        create=[wanted[values] for values in sorted(wanted) if values not in known],
        update=[
            wanted[values]
            for values in sorted(wanted)
            if values in known and not includes(known[values], wanted[values])
        ],
        delete=[
            values
            for values in sorted(registered.partitions)
            if values not in wanted or action == "replace"
        ],
    )


def choose_action(table: TableInputTypeDef, found: Mapping[str, Any] | None) -> Action:
    """What to do with the table itself."""
    if found is None:
        return "create"
    if not has_own_parameter(found):
        raise AwsError(
            f"{found.get('DatabaseName')}.{found['Name']} in the catalogue was not made by this "
            "project: delete it, or name another database in [catalog]"
        )
    # Glue refuses to change the partition keys of a table.
    if not includes(found.get("PartitionKeys"), table.get("PartitionKeys", [])):
        return "replace"
    return "keep" if includes(found, table) else "update"


def includes(found: Any, wanted: Any) -> bool:  # noqa: ANN401 (any part of an answer)
    """Whether Glue's answer includes all that is wanted; Glue adds fields of its own to objects."""
    if isinstance(wanted, Mapping):
        return all(includes((found or {}).get(key), value) for key, value in wanted.items())
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        return len(found or ()) == len(wanted) and all(map(includes, found or (), wanted))
    return bool(found == wanted)


if __name__ == "__main__":
    sys.exit(main())
