"""Ask the published tables a question in Athena, and print the rows.

Run it as `python -m aws.athena "SELECT ..."` or `python -m aws.athena --file FILE`, after
`python -m aws.catalog` or iac_submit_etl.py --catalog. A file may hold several queries, such as
exploration/questions.sql. Exit codes: 0 answered, 1 AWS or Athena refused something, 2 usage or
configuration, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aws.catalog import add_lake_flags, connect_to_lake
from aws.console import Progress, say
from aws.s3 import split_uri
from aws.session import AwsError, poll, read_common_options, run_script
from configs import ConfigError
from lake.exit_codes import ExitCode
from lake.formats import aligned, duration, size

if TYPE_CHECKING:
    from mypy_boto3_athena import AthenaClient

    from aws.catalog import CatalogConfig

WORKGROUP = "primary"  # every account has this one
RESULTS = "athena"  # the folder of the lake's bucket that Athena writes its answers to
POLL_SECONDS = 1.0
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
# How Athena spells the values of each type; all others are texts. A NaN is no number in JSON.
NUMBERS: Mapping[str, Callable[[str], int | float]] = {
    **dict.fromkeys(("tinyint", "smallint", "integer", "bigint"), int),
    **dict.fromkeys(("float", "double", "decimal"), float),
}


@dataclasses.dataclass(frozen=True)
class Query:
    """One query of a file or of the command line."""

    name: str
    question: str
    sql: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """The rows that a query returns, as Athena spells their values."""

    columns: Sequence[str]
    types: Sequence[str]
    rows: Sequence[Sequence[str | None]]


# The command line.


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit code."""
    return run_script(ask, argv)


def ask(argv: Sequence[str] | None) -> ExitCode:
    """Run the queries one after the other, and print each answer."""
    args = build_parser().parse_args(argv)
    queries = read_queries(args.query, args.file)
    session, lake = connect_to_lake(read_common_options(vars(args)))
    engine = Engine(session.client("athena"), lake, args.workgroup, args.poll_seconds)
    answers = {}
    for query in queries:
        try:
            answers[query.name] = engine.run(query)
        except KeyboardInterrupt:
            say("athena.py: stopped; the query is cancelled")
            return ExitCode.CTRL_C
        if not args.json:
            print(render_answer(query, answers[query.name]), flush=True)
    if args.json:
        print(json.dumps(build_json(answers, one=args.query is not None), indent=2))
    return ExitCode.DONE


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    summary = str(__doc__).partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m aws.athena", description=summary)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("query", nargs="?", help='one query: "SELECT ..."')
    what.add_argument("--file", type=Path, help="a file of queries, each ended by a semicolon")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--workgroup", default=WORKGROUP, metavar="NAME", help="of Athena")
    parser.add_argument(
        "--poll-seconds", type=float, default=POLL_SECONDS, metavar="SECONDS", help="between looks"
    )
    add_lake_flags(parser)
    return parser


# Queries.


def read_queries(query: str | None, file: Path | None) -> list[Query]:
    """The queries of the command line or of its file; raises a ConfigError where there is none."""
    if query is not None or file is None:
        return [Query("query", "", str(query).strip().rstrip(";"))]
    try:
        queries = split_queries(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--file {file}: cannot be read: {error}") from None
    if not queries:
        raise ConfigError(f"--file {file}: it holds no query")
    return queries


def split_queries(text: str) -> list[Query]:
    """The queries of a file, named by "-- name: ...", else by their number.

    A query ends with a semicolon at the end of a line. The comments just above it are its question.
    """
    queries: list[Query] = []
    code: list[str] = []
    comments: list[str] = []
    for line in text.splitlines():
        if line.startswith("--"):
            comments.append(line.lstrip("- "))
        elif code or line.strip():
            code.append(line)
        else:  # a blank line between queries: the comments above it are about the whole file
            comments.clear()
        if code and line.rstrip().endswith(";") and not line.startswith("--"):
            queries.append(build_query(len(queries) + 1, comments, code))
            code, comments = [], []
    if code:  # the last semicolon may be missing
        queries.append(build_query(len(queries) + 1, comments, code))
    return queries


def build_query(number: int, comments: Sequence[str], code: Sequence[str]) -> Query:
    """A query with the name and the question that its comments give it."""
    names = [text.partition(":")[2].strip() for text in comments if text.startswith("name:")]
    question = " ".join(text for text in comments if not text.startswith("name:"))
    return Query([*names, str(number)][0], question, "\n".join(code).rstrip().rstrip(";"))


# Running them.


class Engine:
    """Athena for one lake, and how to run a query in it to its end."""

    def __init__(
        self, athena: AthenaClient, lake: CatalogConfig, workgroup: str, poll_seconds: float
    ) -> None:
        self.athena, self.database = athena, lake.database
        self.workgroup, self.poll_seconds = workgroup, poll_seconds
        self.results = choose_results(athena, workgroup, lake.output)

    def run(self, query: Query) -> Answer:
        """Run a query to its end; Ctrl-C cancels it. Raises an AwsError if Athena gives up."""
        query_id = self.athena.start_query_execution(
            QueryString=query.sql,
            QueryExecutionContext={"Catalog": "AwsDataCatalog", "Database": self.database},
            WorkGroup=self.workgroup,
            **self.results,
        )["QueryExecutionId"]
        try:
            execution = self.follow(query_id, query)
        except KeyboardInterrupt:
            self.athena.stop_query_execution(QueryExecutionId=query_id)
            raise
        if execution["Status"]["State"] != "SUCCEEDED":
            raise AwsError(explain_failure(execution, query, self.database))
        answer = fetch_answer(self.athena, query_id)
        say(f"{query.name}: {describe_execution(execution, answer)}")
        return answer

    def follow(self, query_id: str, query: Query) -> Mapping[str, Any]:
        """Wait for a query's end, and show its progress."""
        started = time.monotonic()
        looks = poll(
            lambda: self.athena.get_query_execution(QueryExecutionId=query_id)["QueryExecution"],
            self.poll_seconds,
        )
        with Progress() as progress:
            while True:
                execution = next(looks)
                state = execution["Status"]["State"]
                if state in ENDED:
                    return execution
                elapsed = duration(time.monotonic() - started)
                progress.show(f"{query.name}: {state.lower()}", elapsed)


def choose_results(athena: AthenaClient, workgroup: str, output: str) -> dict[str, Any]:
    """Where the answers go, as StartQueryExecution takes it: nothing if the workgroup says it."""
    found = athena.get_work_group(WorkGroup=workgroup)["WorkGroup"].get("Configuration", {})
    managed = found.get("ManagedQueryResultsConfiguration", {}).get("Enabled")
    if managed or found.get("ResultConfiguration", {}).get("OutputLocation"):
        return {}
    return {"ResultConfiguration": {"OutputLocation": f"s3://{split_uri(output)[0]}/{RESULTS}/"}}


def explain_failure(execution: Mapping[str, Any], query: Query, database: str) -> str:
    """Why Athena gave up, and what to do, in one line."""
    status = execution["Status"]
    reason = status.get("StateChangeReason") or "Athena gives no reason"
    is_missing = re.search(r"TABLE_NOT_FOUND|SCHEMA_NOT_FOUND|does not exist", reason)
    cure = f"; python -m aws.catalog registers the tables in {database}" if is_missing else ""
    return f"{query.name} {status['State'].lower()}: {' '.join(reason.split())}{cure}"


def describe_execution(execution: Mapping[str, Any], answer: Answer) -> str:
    """What a query has returned and read, which is what it costs, and how long it took."""
    statistics = execution.get("Statistics", {})
    seconds = statistics.get("TotalExecutionTimeInMillis", 0) / 1000
    read = size(statistics.get("DataScannedInBytes", 0))
    return f"{len(answer.rows):,} rows; Athena read {read} in {seconds:.1f} s"


def fetch_answer(athena: AthenaClient, query_id: str) -> Answer:
    """The rows of a finished query, without the row of names that Athena puts before a SELECT's."""
    pages = list(athena.get_paginator("get_query_results").paginate(QueryExecutionId=query_id))
    columns = pages[0]["ResultSet"]["ResultSetMetadata"]["ColumnInfo"]
    names = [column["Name"] for column in columns]
    rows = [
        [field.get("VarCharValue") for field in row["Data"]]
        for page in pages
        for row in page["ResultSet"]["Rows"]
    ]
    types = [column["Type"] for column in columns]
    return Answer(names, types, rows[1:] if rows[:1] == [names] else rows)


# Printing them.


def render_answer(query: Query, answer: Answer) -> str:
    """An answer as a table of text, under its question."""
    rows = [["null" if value is None else value for value in row] for row in answer.rows]
    lines = aligned([answer.columns, *rows], [kind in NUMBERS for kind in answer.types])
    return "\n".join([*([f"{query.name}: {query.question}"] if query.question else []), *lines, ""])


def build_json(answers: Mapping[str, Answer], *, one: bool) -> Any:  # noqa: ANN401 (any JSON)
    """The rows of the one query as objects; for a file, those of each query by its name."""
    objects = {
        name: [dict(zip(answer.columns, map(convert, row, answer.types))) for row in answer.rows]
        for name, answer in answers.items()
    }
    return next(iter(objects.values())) if one else objects


def convert(value: str | None, kind: str) -> Any:  # noqa: ANN401 (any value of JSON)
    """A value as JSON has it."""
    if value is None:
        return None
    if kind == "boolean":
        return value == "true"
    number = NUMBERS[kind](value) if kind in NUMBERS else math.nan
    return number if math.isfinite(number) else value


if __name__ == "__main__":
    sys.exit(main())
