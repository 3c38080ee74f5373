"""Read and change tables and partitions of the AWS Glue Data Catalog."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from aws.ownership import OWN_PARAMETERS
from aws.session import AwsError

if TYPE_CHECKING:
    from mypy_boto3_glue import GlueClient
    from mypy_boto3_glue.type_defs import PartitionInputTypeDef, TableInputTypeDef

Values = tuple[str, ...]  # the values of one partition, in the order of the partition keys
Action = Literal["create", "update", "replace", "keep"]

# Glue's limits for one batch request, from docs.aws.amazon.com/glue/latest/webapi/:
CREATE_LIMIT = 100  # API_BatchCreatePartition
UPDATE_LIMIT = 100  # API_BatchUpdatePartition
DELETE_LIMIT = 25  # API_BatchDeletePartition


@dataclasses.dataclass(frozen=True)
class Registered:
    """What the catalogue holds of one table; `table` is None where it holds nothing."""

    table: Mapping[str, Any] | None
    partitions: Mapping[Values, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class TableChange:
    """What has to change in the catalogue for one table to agree with its files."""

    name: str
    action: Action  # for the table itself; the three lists are for its partitions
    table: TableInputTypeDef
    create: Sequence[PartitionInputTypeDef]
    update: Sequence[PartitionInputTypeDef]
    delete: Sequence[Values]

    @property
    def is_needed(self) -> bool:
        """Whether anything has to change."""
        return self.action != "keep" or bool(self.create or self.update or self.delete)


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
    """Create the database if it does not exist."""
    about = "Sparkify's data lake"
    with contextlib.suppress(glue.exceptions.AlreadyExistsException):
        glue.create_database(
            DatabaseInput={
                "Name": database,
                "Description": about,
                "Parameters": OWN_PARAMETERS,
            }
        )


def apply_change(glue: GlueClient, database: str, change: TableChange) -> None:
    """Change one table and its partitions; after an error, what was changed stays changed."""
    if change.action == "replace":
        # DeleteTable removes the partitions later, "at the discretion of the service"
        # (docs.aws.amazon.com/glue/latest/webapi/API_DeleteTable.html). Old partitions could still
        # be there when the table is created again, so they are deleted first.
        delete_partitions(glue, database, change)
        with contextlib.suppress(glue.exceptions.EntityNotFoundException):
            glue.delete_table(DatabaseName=database, Name=change.name)
    if change.action in ("create", "replace"):
        # boto3 retries a request whose answer was lost. The retry then finds the table created.
        with contextlib.suppress(glue.exceptions.AlreadyExistsException):
            glue.create_table(DatabaseName=database, TableInput=change.table)
    if change.action == "update":
        glue.update_table(DatabaseName=database, TableInput=change.table)
    create_partitions(glue, database, change)
    update_partitions(glue, database, change)
    if change.action != "replace":
        delete_partitions(glue, database, change)


def create_partitions(glue: GlueClient, database: str, change: TableChange) -> None:
    """Add the new partitions; one that already exists is no error."""
    for batch in batches(change.create, CREATE_LIMIT):
        answer = glue.batch_create_partition(
            DatabaseName=database, TableName=change.name, PartitionInputList=batch
        )
        check_errors(answer.get("Errors", []), f"add to {change.name}", "AlreadyExistsException")


def update_partitions(glue: GlueClient, database: str, change: TableChange) -> None:
    """Update the partitions whose columns or folder have changed."""
    for batch in batches(change.update, UPDATE_LIMIT):
        entries = [
            {"PartitionValueList": partition["Values"], "PartitionInput": partition}
            for partition in batch
        ]
        answer = glue.batch_update_partition(
            DatabaseName=database,
            TableName=change.name,
            Entries=entries,  # type: ignore[arg-type]  # the stubs let Values be missing
        )
        check_errors(answer.get("Errors", []), f"update in {change.name}")


def delete_partitions(glue: GlueClient, database: str, change: TableChange) -> None:
    """Delete partitions; one that does not exist is no error."""
    for batch in batches(change.delete, DELETE_LIMIT):
        answer = glue.batch_delete_partition(
            DatabaseName=database,
            TableName=change.name,
            PartitionsToDelete=[{"Values": list(values)} for values in batch],
        )
        check_errors(
            answer.get("Errors", []), f"remove from {change.name}", "EntityNotFoundException"
        )


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items in groups of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))


def check_errors(answers: Sequence[Mapping[str, Any]], what: str, harmless: str = "") -> None:
    """Raise an AwsError for what Glue refused in a batch; it lists refusals in its answer."""
    refused = [answer for answer in answers if answer["ErrorDetail"]["ErrorCode"] != harmless]
    if refused:
        first, detail = refused[0], refused[0]["ErrorDetail"]
        values = first.get("PartitionValues") or first.get("PartitionValueList") or ["?"]
        raise AwsError(
            f"Glue could not {what}: partition {'/'.join(values)}: {detail.get('ErrorMessage')} "
            f"({detail['ErrorCode']}), {len(refused)} in all; what was changed stays changed: "
            "run this again"
        )
