"""The published lake in the AWS Glue Data Catalog: what belongs there, and what has to change.

The files decide: a table's partition keys and its partitions are those of the published folders, so
that the catalogue holds what the job has written, whatever layout it was told to use.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from aws.cluster import PROJECT_TAG
from aws.s3 import list_keys, split_uri
from aws.session import AwsError
from lake.tables import DATE_PARTS, TABLES, Table

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_glue import GlueClient
    from mypy_boto3_glue.type_defs import PartitionInputTypeDef, TableInputTypeDef
    from mypy_boto3_s3 import S3Client

    from configs import CatalogConfig

Values = tuple[str, ...]  # one partition's, in the order of the keys

# The files hold timestamps as INT64 microseconds in UTC (TIMESTAMP_MICROS), and a plain timestamp
# is what a catalogue's reader makes of them. Athena documents milliseconds as its finest
# resolution, and no timestamp here is finer. Of Redshift users report both that it reads such files
# right (github.com/apache/arrow/issues/38000) and, long ago, that it does not
# (github.com/dask/fastparquet/issues/432): the load compares them with their hours and years.
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
OURS = dict([PROJECT_TAG])  # in a table's parameters: what this script may change and drop
CREATE_AT_ONCE = 100
UPDATE_AT_ONCE = 100
DELETE_AT_ONCE = 25


@dataclasses.dataclass(frozen=True)
class Published:
    """One table's files: where they are, and the folder of each of its partitions."""

    table: Table  # partitioned as its folders are
    location: str
    partitions: Mapping[Values, str]


@dataclasses.dataclass(frozen=True)
class Registered:
    """What the catalogue holds of one table; no table where there is none yet."""

    table: Mapping[str, Any] | None
    partitions: Mapping[Values, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class TableChange:
    """What brings one table of the catalogue in line with its files."""

    name: str
    action: str  # create, update, replace or keep
    table: TableInputTypeDef
    create: Sequence[PartitionInputTypeDef]
    update: Sequence[PartitionInputTypeDef]
    delete: Sequence[Values]

    @property
    def is_needed(self) -> bool:
        """Whether anything is to be done."""
        return self.action != "keep" or bool(self.create or self.update or self.delete)


# ---- What belongs there --------------------------------------------------------------------------


def build_published(table: Table, location: str, files: Sequence[str]) -> Published:
    """A table as its files show it; the files are relative to its location."""
    folders = sorted({file.rpartition("/")[0] for file in files if not is_hidden(file)})
    if not folders:
        raise AwsError(f"{location} holds no files: run the job on this output first")
    layouts = {partition_names(folder) for folder in folders}
    if len(layouts) > 1:
        shown = " and ".join("/".join(names) or "no partitions" for names in sorted(layouts))
        raise AwsError(
            f"{location} mixes layouts ({shown}): delete what the job has not written, or run it"
        )
    partitioned = dataclasses.replace(table, partition_by=layouts.pop())
    check_partition_names(partitioned, location)
    partitions = {
        partition_values(partitioned, folder): f"{location}{folder}/" for folder in folders
    }
    return Published(partitioned, location, partitions if partitioned.partition_by else {})


def is_hidden(file: str) -> bool:
    """Whether Athena, Spectrum and Spark pass over a file; a bare folder is none either."""
    return file.endswith("/") or any(part.startswith(("_", ".")) for part in file.split("/"))


def partition_names(folder: str) -> tuple[str, ...]:
    """The columns that a folder such as year=2018/month=11 is a partition by."""
    return tuple(part.partition("=")[0] for part in folder.split("/")) if folder else ()


def check_partition_names(table: Table, location: str) -> None:
    """Raise an AwsError for a folder that is no partition."""
    for name in table.partition_by:
        if name not in table.columns and name not in DATE_PARTS:
            raise AwsError(f"{location} has folders by {name!r}, which is no partition column")


def partition_values(table: Table, folder: str) -> Values:
    """A folder's values as Spark meant them: it escapes special characters in the names."""
    values = tuple(unquote(part.partition("=")[2]) for part in folder.split("/") if part)
    for name, value in zip(table.partition_by, values):
        if column_type(table, name) == "int" and not value.removeprefix("-").isdigit():
            raise AwsError(f"{table.name}/{folder} is no partition: {name} has to be a number")
    return values


def column_type(table: Table, name: str) -> str:
    """A column's type in the catalogue; a partition column that is derived is a number."""
    return GLUE_TYPES[table.columns.get(name, "INT")]


def build_table_input(published: Published) -> TableInputTypeDef:
    """The table as CreateTable takes it."""
    table = published.table
    return {
        "Name": table.name,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {"EXTERNAL": "TRUE", "classification": "parquet", **OURS},
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
    """Where and how rows are stored; partition keys are no columns of the files."""
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
            if values in known and not holds(known[values], wanted[values])
        ],
        delete=[
            values
            for values in sorted(registered.partitions)
            if values not in wanted or action == "replace"
        ],
    )


def choose_action(table: TableInputTypeDef, found: Mapping[str, Any] | None) -> str:
    """What is to be done with the table itself."""
    if found is None:
        return "create"
    if not holds(found.get("Parameters"), OURS):
        raise AwsError(
            f"{found.get('DatabaseName')}.{found['Name']} in the catalogue was not made by this "
            "project: delete it, or name another database in [catalog]"
        )
    # Glue refuses to alter the partition keys of a table.
    if not holds(found.get("PartitionKeys"), table.get("PartitionKeys", [])):
        return "replace"
    return "keep" if holds(found, table) else "update"


def holds(found: Any, wanted: Any) -> bool:  # noqa: ANN401 (any part of an answer)
    """Whether an answer of Glue has all that is wanted; it adds fields of its own to objects."""
    if isinstance(wanted, Mapping):
        return all(holds((found or {}).get(key), value) for key, value in wanted.items())
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        return len(found or ()) == len(wanted) and all(map(holds, found or (), wanted))
    return bool(found == wanted)


# ---- Asking and changing -------------------------------------------------------------------------


def publish_catalog(
    session: boto3.Session, config: CatalogConfig, *, dry_run: bool = False
) -> list[TableChange]:
    """Bring the catalogue in line with the published files; returns what had to change.

    It can be repeated, and is run again after every run and every recovery. While a table with a
    new layout is replaced it is missing for some seconds.
    """
    s3, glue = session.client("s3"), session.client("glue")
    changes = find_changes(s3, glue, config)
    if not dry_run and any(change.is_needed for change in changes):
        create_database(glue, config.database)
        for change in changes:
            apply_change(glue, config.database, change)
    return changes


def find_changes(s3: S3Client, glue: GlueClient, config: CatalogConfig) -> list[TableChange]:
    """What publish_catalog would do."""
    refuse_unfinished(s3, config.output)
    published = [find_published(s3, config.output, table) for table in TABLES]
    refuse_unfinished(s3, config.output)  # a swap may begin while the files are listed
    return [
        build_change(found, fetch_registered(glue, config.database, found.table.name))
        for found in published
    ]


def refuse_unfinished(s3: S3Client, output: str) -> None:
    """Raise an AwsError while the tables are neither a run's nor those of the run before it."""
    bucket, root = split_uri(f"{output}/_etl/")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=root, Delimiter="/")
    folders = [found["Prefix"] for page in pages for found in page.get("CommonPrefixes", [])]
    for folder in folders:
        plan = f"{folder}plan.json"
        if s3.list_objects_v2(Bucket=bucket, Prefix=plan, MaxKeys=1)["KeyCount"]:
            raise AwsError(
                f"s3://{bucket}/{plan}: this run's tables are not all in place yet; wait for it, "
                "or if it is dead, run etl.py --recover on this output, and then this again"
            )


def find_published(s3: S3Client, output: str, table: Table) -> Published:
    """A table as its files in S3 show it."""
    location = f"{output}/{table.name}/"
    bucket, prefix = split_uri(location)
    keys = list_keys(s3, bucket, prefix)
    return build_published(table, location, [key.removeprefix(prefix) for key in keys])


def fetch_registered(glue: GlueClient, database: str, name: str) -> Registered:
    """What the catalogue holds of one table."""
    try:
        table = glue.get_table(DatabaseName=database, Name=name)["Table"]
    except glue.exceptions.EntityNotFoundException:
        return Registered(None, {})
    pages = glue.get_paginator("get_partitions").paginate(DatabaseName=database, TableName=name)
    partitions = [found for page in pages for found in page["Partitions"]]
    return Registered(table, {tuple(found["Values"]): found for found in partitions})


def create_database(glue: GlueClient, database: str) -> None:
    """Make the database unless it is there."""
    about = "Sparkify's data lake"
    with contextlib.suppress(glue.exceptions.AlreadyExistsException):
        glue.create_database(DatabaseInput={"Name": database, "Description": about})


def apply_change(glue: GlueClient, database: str, change: TableChange) -> None:
    """Change one table and its partitions; what was done before an error stays done."""
    if change.action == "replace":
        # Glue drops a table's partitions in its own time: they could outlive the table's return.
        delete_partitions(glue, database, change)
        with contextlib.suppress(glue.exceptions.EntityNotFoundException):
            glue.delete_table(DatabaseName=database, Name=change.name)
    if change.action in ("create", "replace"):
        # boto3 repeats a request whose answer got lost, and then finds its own table.
        with contextlib.suppress(glue.exceptions.AlreadyExistsException):
            glue.create_table(DatabaseName=database, TableInput=change.table)
    if change.action == "update":
        glue.update_table(DatabaseName=database, TableInput=change.table)
    create_partitions(glue, database, change)
    update_partitions(glue, database, change)
    if change.action != "replace":
        delete_partitions(glue, database, change)


def create_partitions(glue: GlueClient, database: str, change: TableChange) -> None:
    """Add the new partitions; one that is there already is as good."""
    for batch in batches(change.create, CREATE_AT_ONCE):
        answer = glue.batch_create_partition(
            DatabaseName=database, TableName=change.name, PartitionInputList=batch
        )
        check_errors(answer.get("Errors", []), f"add to {change.name}", "AlreadyExistsException")


def update_partitions(glue: GlueClient, database: str, change: TableChange) -> None:
    """Describe partitions anew whose columns or folder are not what they were."""
    for batch in batches(change.update, UPDATE_AT_ONCE):
        entries = [
            {"PartitionValueList": partition["Values"], "PartitionInput": partition}
            for partition in batch
        ]
        answer = glue.batch_update_partition(
            DatabaseName=database,
            TableName=change.name,
            Entries=entries,  # type: ignore[arg-type]  # the stubs' Values may be missing
        )
        check_errors(answer.get("Errors", []), f"change in {change.name}")


def delete_partitions(glue: GlueClient, database: str, change: TableChange) -> None:
    """Remove partitions; one that is gone already is as good."""
    for batch in batches(change.delete, DELETE_AT_ONCE):
        answer = glue.batch_delete_partition(
            DatabaseName=database,
            TableName=change.name,
            PartitionsToDelete=[{"Values": list(values)} for values in batch],
        )
        check_errors(
            answer.get("Errors", []), f"remove from {change.name}", "EntityNotFoundException"
        )


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items in groups of at most so many, as Glue takes them."""
    return (items[start : start + size] for start in range(0, len(items), size))


def check_errors(answers: Sequence[Mapping[str, Any]], what: str, harmless: str = "") -> None:
    """Raise an AwsError for what Glue refused: it says so in its answer and not by an exception."""
    refused = [answer for answer in answers if answer["ErrorDetail"]["ErrorCode"] != harmless]
    if refused:
        first, detail = refused[0], refused[0]["ErrorDetail"]
        values = first.get("PartitionValues") or first.get("PartitionValueList") or ["?"]
        raise AwsError(
            f"Glue could not {what}: partition {'/'.join(values)}: {detail.get('ErrorMessage')} "
            f"({detail['ErrorCode']}), {len(refused)} in all; what is done is kept: run this again"
        )
