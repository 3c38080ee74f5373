"""Load what has changed in the lake into Redshift, through its Data API, in one transaction.

Run it as `python -m aws.redshift`, after `python -m aws.catalog`: the catalogue has to agree with
the published files. It prints the number of rows of each table. After any failure the tables are as
they were. Exit codes: 0 loaded or nothing has changed, 1 AWS or Redshift refused something, 2 usage
or configuration, 130 Ctrl-C. What has changed is found in aws/loaded.py.

The SQL is in aws/sql/, as templates for string.Template: build_values gives the values.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from aws.catalog import (
    NAME_EXPECTS,
    CatalogConfig,
    Published,
    add_lake_flags,
    compare_tables,
    connect_to_lake,
    find_tables,
    identifier,
    load_located_lake,
)
from aws.console import Progress, say
from aws.loaded import (
    build_contents,
    build_load,
    build_noted,
    build_query,
    build_statements,
    describe_load,
)
from aws.locations import locate_lake
from aws.session import (
    AwsError,
    CommonOptions,
    add_setting_flags,
    load_cluster_config,
    poll,
    read_common_options,
    run_script,
)
from configs import (
    DL_CFG,
    ConfigError,
    Flags,
    load_etl_config,
    load_section,
    open_dl_cfg,
    optional,
    setting,
    text,
)
from lake.exit_codes import ExitCode
from lake.formats import duration
from lake.tables import TABLES

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_redshift_data import RedshiftDataAPIServiceClient

SQL_FOLDER = Path(__file__).with_name("sql")
SCRIPTS = ("1_external_schema", "2_tables", "3_load")  # in the order in which they run
POLL_SECONDS = 5.0
ENDED = ("FINISHED", "FAILED", "ABORTED")


# ---- Settings and command line -------------------------------------------------------------------


def redshift_role(value: str) -> str:
    """The ARN of a role, or the word default."""
    if not re.fullmatch(r"default|arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+", value):
        raise ValueError
    return value


@dataclasses.dataclass(frozen=True)
class RedshiftConfig:
    """The Redshift that the lake is loaded into: [redshift] of dl.cfg."""

    workgroup: str | None = setting(optional(text), "the name of a workgroup, or nothing")
    cluster: str | None = setting(optional(text), "the identifier of a cluster, or nothing")
    database: str = setting(text, "the name of a database in Redshift")
    db_user: str | None = setting(optional(text), "a user of the cluster, or nothing")
    iam_role: str = setting(redshift_role, "default, or the ARN of a role attached to Redshift")
    schema: str = setting(identifier, NAME_EXPECTS)
    external_schema: str = setting(identifier, NAME_EXPECTS)


def load_redshift_config(
    path: Path = DL_CFG,
    flags: Flags | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    needs_target: bool = True,
) -> RedshiftConfig:
    """Redshift's settings; if needs_target, a ConfigError unless they name one place to run in."""
    config = load_section(open_dl_cfg(path, flags, environ), "redshift", RedshiftConfig)
    where = f"{path}: [redshift]"
    if needs_target and bool(config.workgroup) == bool(config.cluster):
        raise ConfigError(f"{where} workgroup, cluster: expected one of the two, not both")
    if config.db_user and config.workgroup:
        raise ConfigError(f"{where} db_user: expected nothing, only a cluster takes a user")
    if config.schema == config.external_schema:
        raise ConfigError(f"{where} schema, external_schema: expected two different names")
    return config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit code."""
    return run_script(load, argv)


def load(argv: Sequence[str] | None) -> int:
    """Load the tables as the command line says."""
    args = build_parser().parse_args(argv)
    options = read_common_options(vars(args))
    config = load_redshift_config(options.config, options.flags, needs_target=not args.dry_run)
    if args.dry_run:
        print_sql(config, options)
        return ExitCode.DONE
    session, lake = connect_to_lake(options)
    published = find_tables(session.client("s3"), lake.output)
    refuse_stale(session, lake, published)
    try:
        warehouse = Warehouse(session, config, options.poll_seconds)
        rows = load_tables(warehouse, lake, published, full=args.full)
    except CancelledError as error:
        say(f"{Path(__file__).name}: {error}")
        return ExitCode.CTRL_C
    print(json.dumps(rows) if args.json else "\n".join(f"{t}: {n:,} rows" for t, n in rows.items()))
    return ExitCode.DONE


def print_sql(config: RedshiftConfig, options: CommonOptions) -> None:
    """Print the SQL that would load everything, for the lake as a dry run sees it."""
    emr, etl = load_cluster_config(options), load_etl_config(options.config, options.flags)
    lake = load_located_lake(options, etl, locate_lake(None, emr, etl))
    values = build_values(config, lake)
    print("\n".join(Template(read_sql(name)).substitute(values) for name in SCRIPTS), end="")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    summary = str(__doc__).partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m aws.redshift", description=summary)
    dry_run = "print the SQL that loads all tables whole; do not call AWS"
    parser.add_argument("--dry-run", action="store_true", help=dry_run)
    parser.add_argument("--full", action="store_true", help="load all tables whole")
    parser.add_argument("--json", action="store_true", help="print the numbers of rows as JSON")
    parser.add_argument(
        "--poll-seconds", type=float, default=POLL_SECONDS, metavar="SECONDS", help="between polls"
    )
    add_lake_flags(parser)
    add_setting_flags(parser, "redshift", RedshiftConfig, ["workgroup", "cluster", "iam_role"])
    return parser


# ---- The SQL -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Script:
    """One statement, or several that Redshift runs as one transaction."""

    name: str
    statements: Sequence[str]


# IF NOT EXISTS keeps an external schema that already exists, whatever database it reads.
CHECK = "SELECT databasename FROM svv_external_schemas WHERE schemaname = '${external_schema}'"


def read_sql(name: str) -> str:
    """One file of aws/sql/, as the template that it is."""
    return (SQL_FOLDER / f"{name}.sql").read_text(encoding="utf-8")


def split_statements(sql: str) -> list[str]:
    """The statements of a file, without its comments and its BEGIN and COMMIT.

    BEGIN and COMMIT are for those who run a file by hand: the Data API makes one transaction of
    several statements. Every semicolon ends a statement: the files have none in a string, and
    comments only on lines of their own. Split first, then fill in: a value may hold a semicolon.
    """
    code = "\n".join(line for line in sql.splitlines() if not line.startswith("--"))
    statements = [statement.strip() for statement in code.split(";")]
    return [statement for statement in statements if statement not in ("", "BEGIN", "COMMIT")]


def build_script(name: str, statements: Sequence[str], values: Mapping[str, str]) -> Script:
    """A script whose templates are filled in."""
    return Script(name, [Template(statement).substitute(values) for statement in statements])


def build_values(redshift: RedshiftConfig, lake: CatalogConfig) -> dict[str, str]:
    """The values of the templates. Only the lake's path may hold a quote: the rest is checked."""
    role = redshift.iam_role
    return {
        "schema": redshift.schema,
        "external_schema": redshift.external_schema,
        "catalog": lake.database,
        "lake": lake.output.replace("'", "''"),
        "iam_role": role if role == "default" else f"'{role}'",
    }


# ---- Running it ----------------------------------------------------------------------------------


class CancelledError(AwsError):
    """Ctrl-C cancelled a script in Redshift."""


def load_tables(
    warehouse: Warehouse, lake: CatalogConfig, published: Sequence[Published], *, full: bool
) -> dict[str, int]:
    """Make Redshift's tables equal to the published ones; returns the number of rows of each."""
    values = build_values(warehouse.config, lake)
    external_schema, tables, whole = (split_statements(read_sql(name)) for name in SCRIPTS)
    warehouse.run(build_script(SCRIPTS[0], external_schema, values))
    rows = warehouse.run(build_script("check", [CHECK], values))
    check_external_schema(rows, warehouse.config, lake)
    warehouse.run(build_script(SCRIPTS[1], tables, values))
    noted = build_noted(warehouse.run(build_script("noted", [build_query(whole[-1])], values)))
    contents = [build_contents(found) for found in published]
    loads = [build_load(found, noted.get(found.name), full=full) for found in contents]
    say("\n".join(describe_load(load) for load in loads))
    if not any(load.is_needed for load in loads):
        say("nothing has changed since the last load: the tables are as they were")
        return {name: known.rows for name, known in noted.items()}
    return replace_rows(warehouse, build_script(SCRIPTS[2], build_statements(whole, loads), values))


def replace_rows(warehouse: Warehouse, script: Script) -> dict[str, int]:
    """Run the script that loads; returns the number of rows of each table."""
    counts = {str(name): int(count) for name, count in warehouse.run(script)}
    return {table.name: counts[table.name] for table in TABLES}


def refuse_stale(
    session: boto3.Session, lake: CatalogConfig, published: Sequence[Published]
) -> None:
    """Raise an AwsError where Spectrum would not read what is published."""
    changes = compare_tables(session.client("glue"), lake, published)
    stale = [change.name for change in changes if change.is_needed]
    if stale:
        raise AwsError(
            f"database {lake.database} of the catalogue does not agree with the published files "
            f"({', '.join(stale)}): run python -m aws.catalog first"
        )


def check_external_schema(
    rows: Sequence[Sequence[Any]], config: RedshiftConfig, lake: CatalogConfig
) -> None:
    """Raise an AwsError where the external schema reads another database of the catalogue.

    Redshift shows an external schema only to its owner, so no row is no fault.
    """
    databases = [str(name) for (name,) in rows]
    if databases and lake.database not in databases:
        raise AwsError(
            f"external schema {config.external_schema} reads {databases[0]}, not {lake.database}: "
            "drop it in Redshift, or name another external_schema in [redshift]"
        )


class Warehouse:
    """A Redshift, and how to run a script in it to its end."""

    def __init__(self, session: boto3.Session, config: RedshiftConfig, poll_seconds: float) -> None:
        self.data = session.client("redshift-data")
        self.config = config
        self.poll_seconds = poll_seconds

    def run(self, script: Script) -> list[list[Any]]:
        """Run a script to its end; returns the rows of its last statement."""
        statement_id = start_script(self.data, self.config, script)
        try:
            answer = self.follow(statement_id, script)
        except KeyboardInterrupt:
            self.data.cancel_statement(Id=statement_id)
            raise CancelledError(
                f"{script.name}: cancelled in Redshift; unless it had already finished, nothing "
                "was changed: run this again"
            ) from None
        if answer["Status"] != "FINISHED":
            raise AwsError(explain_failure(answer, script))
        parts = answer.get("SubStatements") or [answer]
        return fetch_rows(self.data, parts[-1]["Id"]) if parts[-1].get("HasResultSet") else []

    def follow(self, statement_id: str, script: Script) -> Mapping[str, Any]:
        """Wait for a script's end without a timeout, and show its progress."""
        started = time.monotonic()
        with Progress() as progress:
            for answer in poll(
                lambda: self.data.describe_statement(Id=statement_id), self.poll_seconds
            ):
                if answer["Status"] in ENDED:
                    break
                elapsed = duration(time.monotonic() - started)
                progress.show(f"{script.name}: {describe_progress(answer, script)}", elapsed)
        say(f"{script.name}: {answer['Status'].lower()}")
        return answer


def start_script(data: RedshiftDataAPIServiceClient, config: RedshiftConfig, script: Script) -> str:
    """Submit a script, several statements as one transaction; returns its id."""
    request: Any = build_request(config, script)
    if len(script.statements) == 1:
        return data.execute_statement(**request, Sql=script.statements[0])["Id"]
    return data.batch_execute_statement(**request, Sqls=script.statements)["Id"]


def build_request(config: RedshiftConfig, script: Script) -> dict[str, str]:
    """Where a script runs and its name, as ExecuteStatement and BatchExecuteStatement take them."""
    request = {
        "WorkgroupName": config.workgroup,
        "ClusterIdentifier": config.cluster,
        "DbUser": config.db_user,
        "Database": config.database,
        "StatementName": f"sparkify {script.name}",
    }
    return {key: value for key, value in request.items() if value}


def fetch_rows(data: RedshiftDataAPIServiceClient, statement_id: str) -> list[list[Any]]:
    """The rows of a finished statement."""
    pages = data.get_paginator("get_statement_result").paginate(Id=statement_id)
    records = [record for page in pages for record in page["Records"]]
    return [[value for field in record for value in field.values()] for record in records]


def describe_progress(answer: Mapping[str, Any], script: Script) -> str:
    """A script's state, with how many of its statements are done."""
    parts = answer.get("SubStatements", [])
    done = sum(part["Status"] == "FINISHED" for part in parts)
    count = f", {done} of {len(script.statements)} statements" if parts else ""
    return f"{answer['Status'].lower()}{count}"


def explain_failure(answer: Mapping[str, Any], script: Script) -> str:
    """Which statement failed, why, and what to do, in one line."""
    parts = answer.get("SubStatements", [])
    failed = [part for part in parts if part["Status"] in ("FAILED", "ABORTED")] or [answer]
    reason = failed[0].get("Error") or answer.get("Error") or "Redshift gives no reason"
    statement = failed[0].get("QueryString") or script.statements[0]
    return (
        f"{script.name} {answer['Status'].lower()} at {statement.splitlines()[0].rstrip(' (')}: "
        f"{' '.join(reason.split())}; the tables are as they were: fix it and run this again"
    )


if __name__ == "__main__":
    sys.exit(main())
