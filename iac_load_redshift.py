"""Load the published tables into Redshift, through its Data API, in one transaction.

Prints the rows of each table. Whatever fails, the tables are as they were. The catalogue has to
show what is published: run iac_publish_catalog.py first. Exit codes: 0 loaded, 1 AWS or Redshift
refused something, 2 usage or configuration.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aws.catalog import find_changes
from aws.console import Progress, duration, say
from aws.redshift_sql import Script, build_scripts, build_values
from aws.session import AwsError, connect, load_config, poll, run_script
from configs import RedshiftConfig, load_catalog_config, load_redshift_config
from iac_publish_catalog import add_flags, given_flags

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_redshift_data import RedshiftDataAPIServiceClient

    from configs import CatalogConfig

REDSHIFT_FLAGS = (
    ("redshift.workgroup", "--workgroup", "of Redshift Serverless"),
    ("redshift.cluster", "--cluster", "the identifier of a cluster, instead of a workgroup"),
    ("redshift.iam_role", "--iam-role", "default, or the ARN of a role attached to Redshift"),
)
POLL_SECONDS = 5.0
ENDED = ("FINISHED", "FAILED", "ABORTED")
# What an external schema that was there before reads: IF NOT EXISTS leaves it as it is.
CHECK = Script(
    "check",
    (),
    [
        "SELECT databasename FROM svv_external_schemas WHERE schemaname = '${external_schema}'",
    ],
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and give its exit code."""
    return run_script(load, argv)


def load(argv: Sequence[str] | None) -> int:
    """Load the tables as the command line says."""
    args = parse_args(argv)
    flags = given_flags(args)
    config, lake = load_redshift_config(args.config, flags), load_catalog_config(args.config, flags)
    values = build_values(config, lake)
    if args.dry_run:
        print("\n".join(script.fill(values).text for script in build_scripts()), end="")
        return 0
    session = connect(args, load_config(args))
    refuse_stale(session, lake)
    warehouse = Warehouse(session, config, args.poll_seconds)
    external_schema, tables, load_tables = (script.fill(values) for script in build_scripts())
    warehouse.run(external_schema)
    check_external_schema(warehouse.run(CHECK.fill(values)), config, lake)
    warehouse.run(tables)
    rows = {str(name): int(count) for name, count in warehouse.run(load_tables)}
    print(json.dumps(rows) if args.json else "\n".join(f"{t}: {n:,} rows" for t, n in rows.items()))
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="print the SQL; ask AWS nothing")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument(
        "--poll-seconds", type=float, default=POLL_SECONDS, metavar="SECONDS", help="between looks"
    )
    add_flags(parser, *REDSHIFT_FLAGS)
    return parser.parse_args(argv)


def refuse_stale(session: boto3.Session, lake: CatalogConfig) -> None:
    """Raise an AwsError where Spectrum would read something else than what is published."""
    changes = find_changes(session.client("s3"), session.client("glue"), lake)
    stale = [change.name for change in changes if change.is_needed]
    if stale:
        raise AwsError(
            f"the catalogue's {lake.database} does not show what is published "
            f"({', '.join(stale)}): run iac_publish_catalog.py first"
        )


def check_external_schema(
    rows: Sequence[Sequence[Any]], config: RedshiftConfig, lake: CatalogConfig
) -> None:
    """Raise an AwsError where the external schema is of another catalogue database.

    Redshift shows it to its owner only: no row is no fault.
    """
    reads = [str(name) for (name,) in rows]
    if reads and lake.database not in reads:
        raise AwsError(
            f"external schema {config.external_schema} reads {reads[0]}, not {lake.database}: drop "
            "it in Redshift, or name another external_schema in [redshift]"
        )


class Warehouse:
    """A Redshift that runs scripts; what it accepts counts for nothing until it has finished."""

    def __init__(self, session: boto3.Session, config: RedshiftConfig, poll_seconds: float) -> None:
        self.data = session.client("redshift-data")
        self.config = config
        self.poll_seconds = poll_seconds

    def run(self, script: Script) -> list[list[Any]]:
        """Run a script to its end, and return the rows of its last statement."""
        statement_id = start(self.data, build_request(self.config, script), script.statements)
        try:
            answer = self.follow(statement_id, script)
        except KeyboardInterrupt:
            self.data.cancel_statement(Id=statement_id)
            raise AwsError(
                f"{script.name}: asked Redshift to stop; unless it had finished, nothing is changed"
            ) from None
        if answer["Status"] != "FINISHED":
            raise AwsError(explain(answer, script))
        parts = answer.get("SubStatements") or [answer]
        return fetch_rows(self.data, parts[-1]["Id"]) if parts[-1].get("HasResultSet") else []

    def follow(self, statement_id: str, script: Script) -> Mapping[str, Any]:
        """Wait for a script's end, telling how far it is; it may take as long as it takes."""
        started = time.monotonic()
        with Progress() as progress:
            for answer in poll(
                lambda: self.data.describe_statement(Id=statement_id), self.poll_seconds
            ):
                if answer["Status"] in ENDED:
                    break
                elapsed = duration(time.monotonic() - started)
                progress.show(f"{script.name}: {describe(answer, script)}", elapsed)
        say(f"{script.name}: {answer['Status'].lower()}")
        return answer


def build_request(config: RedshiftConfig, script: Script) -> dict[str, str]:
    """Where a script runs and what it is called, as both of the Data API's calls take it."""
    request = {
        "WorkgroupName": config.workgroup,
        "ClusterIdentifier": config.cluster,
        "DbUser": config.db_user,
        "Database": config.database,
        "StatementName": f"sparkify {script.name}",
    }
    return {key: value for key, value in request.items() if value}


def start(
    data: RedshiftDataAPIServiceClient, request: Mapping[str, Any], statements: Sequence[str]
) -> str:
    """Have one statement accepted, or several as one transaction; returns the id."""
    if len(statements) == 1:
        return data.execute_statement(**request, Sql=statements[0])["Id"]
    return data.batch_execute_statement(**request, Sqls=statements)["Id"]


def fetch_rows(data: RedshiftDataAPIServiceClient, statement_id: str) -> list[list[Any]]:
    """The rows of a finished statement."""
    pages = data.get_paginator("get_statement_result").paginate(Id=statement_id)
    records = [record for page in pages for record in page["Records"]]
    return [[value for field in record for value in field.values()] for record in records]


def describe(answer: Mapping[str, Any], script: Script) -> str:
    """How far a script is."""
    parts = answer.get("SubStatements", [])
    done = sum(part["Status"] == "FINISHED" for part in parts)
    count = f", {done} of {len(script.statements)} statements" if parts else ""
    return f"{answer['Status'].lower()}{count}"


def explain(answer: Mapping[str, Any], script: Script) -> str:
    """What failed, where and what to do, in one line."""
    parts = answer.get("SubStatements", [])
    failed = [part for part in parts if part["Status"] in ("FAILED", "ABORTED")] or [answer]
    told = failed[0].get("Error") or answer.get("Error") or "Redshift gives no reason"
    statement = failed[0].get("QueryString") or script.statements[0]
    return (
        f"{script.name} {answer['Status'].lower()} at {statement.splitlines()[0].rstrip(' (')}: "
        f"{' '.join(told.split())}; the tables are as they were: mend it and run this again"
    )


if __name__ == "__main__":
    sys.exit(main())
