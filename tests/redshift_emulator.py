"""Redshift's Data API over HTTP; a PostgreSQL runs the statements.

Three kinds of statements are translated: CREATE TABLE loses its distribution and sort keys, and its
foreign keys hold at the end of a transaction; CREATE EXTERNAL SCHEMA becomes a row of
svv_external_schemas; COPY loads the Parquet files by the position of their columns. The external
tables are loaded from the lake's files beforehand.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb
import sqlglot

from lake.tables import DATE_PARTS, TABLES

EXTERNAL_SCHEMA = re.compile(
    r"CREATE EXTERNAL SCHEMA IF NOT EXISTS (\w+)\nFROM DATA CATALOG DATABASE '(\w+)'\n"
    r"IAM_ROLE (default|'arn:[^']+')"
)
COPY = re.compile(
    r"COPY (\S+) \(([^)]*)\)\nFROM '(s3://[^']+/)'\nIAM_ROLE (default|'arn:[^']+')\n"
    r"FORMAT AS PARQUET"
)
POSTGRES_TYPES = {
    "STRING": "TEXT",
    "INT": "INTEGER",
    "BIGINT": "BIGINT",
    "DOUBLE": "DOUBLE PRECISION",
    "TIMESTAMP": "TIMESTAMP",
}
REFERENCE = re.compile(r"(REFERENCES \S+ \(\w+\))")
DEFERRED = r"\1 DEFERRABLE INITIALLY DEFERRED"
MARK = "@@statement"
SYSTEM_VIEW = "CREATE TABLE svv_external_schemas (schemaname TEXT PRIMARY KEY, databasename TEXT);"

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns of statements that it cannot parse


@dataclass
class Statement:
    """The statements of one accepted call, and how far they are."""

    sqls: list[str]
    polls: int = 0
    statuses: list[str] = field(default_factory=list)
    error: str = ""
    records: list[list[dict[str, Any]]] = field(default_factory=list)


class RefusedError(Exception):
    """An error of the service: code and message."""


class RedshiftEmulator:
    """The emulated service; the attributes below make it fail."""

    def __init__(self, postgres, lake: Path, uri: str) -> None:
        self.postgres, self.lake, self.uri = postgres, lake, uri
        self.statements: dict[str, Statement] = {}
        self.tokens: dict[str, str] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.refuse: list[tuple[str, str]] = []  # code and message of each of the next answers
        self.lose_answers = 0  # so many accepted calls get no answer
        self.ending = ""  # say ABORTED: statements end so and do not run
        postgres.ask(SYSTEM_VIEW)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()

    def answer(self, operation: str, request: dict[str, Any]) -> dict[str, Any] | None:
        """The service's answer; None if the answer is lost."""
        self.requests.append((operation, request))
        if self.refuse:
            raise RefusedError(*self.refuse.pop(0))
        return getattr(self, f"_{operation}")(request)

    def _ExecuteStatement(self, request):  # noqa: N802 (the name of the operation)
        return self._accept(request, [request["Sql"]])

    def _BatchExecuteStatement(self, request):  # noqa: N802
        if not 1 <= len(request["Sqls"]) <= 40:
            raise RefusedError("ValidationException", "Sqls: 1 to 40")
        return self._accept(request, request["Sqls"])

    def _accept(self, request, sqls):
        if bool(request.get("WorkgroupName")) == bool(request.get("ClusterIdentifier")):
            raise RefusedError("ValidationException", "one of workgroup and cluster")
        name = self.tokens.setdefault(request["ClientToken"], str(uuid.uuid4()))
        self.statements.setdefault(name, Statement(sqls))
        if self.lose_answers:
            self.lose_answers -= 1
            return None
        return {"Id": name}

    def _DescribeStatement(self, request):  # noqa: N802
        statement = self.statements[request["Id"]]
        statement.polls += 1
        status = "SUBMITTED"
        if statement.polls == 2:
            status = "STARTED"
        if statement.polls == 3:
            self._run(statement)
        if statement.polls >= 3:
            status = statement.statuses[-1] if statement.error else "FINISHED"
        answer = {"Id": request["Id"], "Status": status, "HasResultSet": bool(statement.records)}
        if statement.error:
            answer |= {"Error": statement.error, "Status": self.ending or "FAILED"}
        if len(statement.sqls) > 1:
            answer["SubStatements"] = self._parts(request["Id"], statement)
        return answer

    def _parts(self, name, statement):
        statuses = statement.statuses or ["SUBMITTED"] * len(statement.sqls)
        parts = [
            {"Id": f"{name}:{number}", "Status": status, "QueryString": sql, "HasResultSet": False}
            for number, (sql, status) in enumerate(zip(statement.sqls, statuses), start=1)
        ]
        if statement.error and not self.ending:
            parts[len(statuses) - 1]["Error"] = statement.error
        parts[-1]["HasResultSet"] = bool(statement.records)
        return parts

    def _GetStatementResult(self, request):  # noqa: N802
        name, _, number = request["Id"].partition(":")
        statement = self.statements[name]
        if number not in ("", str(len(statement.sqls))) or not statement.records:
            raise RefusedError("ResourceNotFoundException", "no result set")
        return {"Records": statement.records, "ColumnMetadata": []}

    def _CancelStatement(self, request):  # noqa: N802
        self.statements[request["Id"]].polls = 3
        return {"Status": True}

    def _run(self, statement):
        if self.ending:
            statement.statuses, statement.error = [self.ending], "Query cancelled on user's request"
            return
        done = self.postgres.psql(self.script(statement.sqls))
        _, *outputs = done.stdout.split(f"{MARK}\n")
        statement.statuses = ["FINISHED"] * len(outputs)
        if done.returncode:
            statement.error = done.stderr.partition("ERROR:")[2].strip() or done.stderr
            statement.statuses[-1] = "FAILED"
        elif "SELECT" in statement.sqls[-1].split()[0]:
            rows = [line.split(",") for line in outputs[-1].splitlines()]
            statement.records = [[as_field(value) for value in row] for row in rows]

    def script(self, sqls: list[str]) -> str:
        """The statements as one transaction for psql, which prints a mark before each."""
        marked = (f"\\echo {MARK}\n{self.translate(sql)}\n" for sql in sqls)
        return "".join(("BEGIN ISOLATION LEVEL REPEATABLE READ;\n", *marked, "COMMIT;\n"))

    def translate(self, sql: str) -> str:
        """One statement in PostgreSQL's SQL."""
        external, copy = EXTERNAL_SCHEMA.fullmatch(sql), COPY.fullmatch(sql)
        if external:
            names = "', '".join(external.groups()[:2])
            known = "ON CONFLICT DO NOTHING"
            return f"INSERT INTO svv_external_schemas VALUES ('{names}') {known};"
        if copy:
            return self.copy(*copy.groups()[:3])
        # Redshift enforces no key. Here the rows of a transaction have to agree at its end.
        return f"{REFERENCE.sub(DEFERRED, without_layout(sql))};"

    def copy(self, table: str, names: str, uri: str) -> str:
        """COPY of Parquet files by position; fails if the number of columns differs."""
        folder = self.lake / uri.removeprefix(f"{self.uri}/")
        if not list(folder.rglob("*.parquet")):
            return "DO $$ BEGIN RAISE EXCEPTION 'The specified S3 prefix does not exist'; END $$;"
        with duckdb.connect() as database:
            rows = database.sql(
                f"select * from read_parquet('{folder}/**/*.parquet', {NO_FOLDERS})"
            )
            if len(rows.columns) != len(names.split(",")):
                return "DO $$ BEGIN RAISE EXCEPTION 'Unmatched number of columns'; END $$;"
            path = self.postgres.folder / f"{uuid.uuid4()}.csv"
            rows.write_csv(str(path), header=False)
        return f"\\copy {table} ({' '.join(names.split())}) from '{path}' csv"

    def create_external_tables(self, schema: str) -> None:
        """Load the lake's files as external tables, with the partition columns of the folders."""
        self.postgres.ask(f"DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema};")
        for table in TABLES:
            folders = partition_names(self.lake, table)
            derived = dict.fromkeys(sorted(set(folders) - set(table.columns)), "INT")
            kinds = {**table.columns, **derived}
            names = ", ".join(kinds)
            path = self.postgres.folder / f"{table.name}.csv"
            fields = ", ".join(f"{name} {POSTGRES_TYPES[kind]}" for name, kind in kinds.items())
            with duckdb.connect() as database:
                database.execute("set TimeZone = 'UTC'")
                database.sql(f"select {names} from {lake_source(self.lake, table)}").write_csv(
                    str(path), header=False
                )
            self.postgres.ask(
                f"CREATE TABLE {schema}.{table.name} ({fields});\n"
                f"\\copy {schema}.{table.name} from '{path}' csv\n"
            )


NO_FOLDERS = "hive_partitioning = false"


def partition_names(lake: Path, table) -> list[str]:
    """The partition columns of a published table, as its folders show them."""
    found = next((lake / table.name).rglob("*.parquet")).relative_to(lake / table.name)
    return [part.partition("=")[0] for part in found.parts[:-1]]


def lake_source(lake: Path, table) -> str:
    """A published table as DuckDB reads it, with the partition columns of its folders."""
    kinds = {**dict.fromkeys(DATE_PARTS, "INT"), **table.columns}
    names = partition_names(lake, table)
    types = ", ".join(
        f"{name}: '{'VARCHAR' if kinds[name] == 'STRING' else 'INTEGER'}'" for name in names
    )
    hive = f", hive_types = {{{types}}}" if types else ""
    return f"read_parquet('{lake}/{table.name}/**/*.parquet', hive_partitioning = true{hive})"


def without_layout(sql: str) -> str:
    """A CREATE TABLE without its distribution and sort keys; other statements as they are."""
    (parsed,) = sqlglot.parse(sql, read="redshift")
    if isinstance(parsed, sqlglot.exp.Create) and parsed.args.get("properties"):
        parsed.set("properties", None)
        return parsed.sql("postgres")
    return sql


def as_field(value: str) -> dict[str, Any]:
    """One value as the Data API shows it."""
    return {"longValue": int(value)} if value.isdecimal() else {"stringValue": value}


def handler_of(emulator: RedshiftEmulator) -> type[BaseHTTPRequestHandler]:
    """The HTTP side: AWS's JSON protocol."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                operation = self.headers["X-Amz-Target"].removeprefix("RedshiftData.")
                answer, code = emulator.answer(operation, request), 200
            except RefusedError as error:
                answer, code = {"__type": error.args[0], "message": error.args[1]}, 400
            if answer is None:
                self.close_connection = True
                return
            body = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            """Print nothing on stderr."""

    return Handler
