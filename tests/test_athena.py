"""python -m aws.athena against moto's Athena, which answers what a test has queued."""

from __future__ import annotations

import json

import pytest
from moto.athena.models import QueryResults, athena_backends

from aws import athena
from aws.athena import Answer, Query, convert, explain_failure, render_answer, split_queries
from tests.aws_fixtures import *  # noqa: F403 (fixtures)
from tests.aws_fixtures import BUCKET, REGION
from tests.test_questions import QUESTIONS, QUESTIONS_SQL

COLUMNS = [("level", "varchar"), ("plays", "bigint")]
LEVELS = [["free", "2829"], ["paid", "2078"]]


@pytest.fixture
def backend(emulator):
    return athena_backends["123456789012"][REGION]


@pytest.fixture
def queue(backend):
    """Queue the answer to the next query, as Athena gives it: a row of names comes first."""

    def add(rows=LEVELS, columns=COLUMNS, header=True):
        values = [[name for name, _ in columns], *rows] if header else rows
        data = [
            {"Data": [{} if value is None else {"VarCharValue": value} for value in row]}
            for row in values
        ]
        info = [{"Name": name, "Type": kind} for name, kind in columns]
        backend.query_results_queue.append(QueryResults(rows=data, column_info=info))

    return add


@pytest.fixture
def ask(run):
    """Run the script without a pause; moto knows no query that takes long."""

    def run_ask(*arguments):
        return run(athena.main, *arguments)

    return run_ask


def sent(emulator, operation):
    return [
        json.loads(request.body) for request in emulator.requests if request.operation == operation
    ]


def test_the_rows_of_a_query_are_the_result_and_what_it_read_is_said(ask, queue):
    queue()
    outcome = ask("SELECT level, COUNT(*) AS plays FROM songplays GROUP BY level;")
    assert (outcome.code, outcome.out) == (0, "level  plays\nfree    2829\npaid    2078\n\n")
    assert outcome.err == "query: 2 rows; Athena read 0 B in 0.0 s\n"


def test_the_request_names_the_database_and_a_folder_of_the_lakes_bucket(ask, queue, emulator):
    queue()
    ask("SELECT 1;")
    (request,) = sent(emulator, "StartQueryExecution")
    assert request.pop("ClientRequestToken")  # asked again after a lost answer, it runs once
    assert request == {
        "QueryString": "SELECT 1",
        "QueryExecutionContext": {"Catalog": "AwsDataCatalog", "Database": "sparkify"},
        "ResultConfiguration": {"OutputLocation": f"s3://{BUCKET}/athena/"},
        "WorkGroup": "primary",
    }


def test_a_workgroup_with_a_location_of_its_own_keeps_it(ask, queue, emulator, session):
    place = {"ResultConfiguration": {"OutputLocation": "s3://company/results/"}}
    session.client("athena").create_work_group(Name="team", Configuration=place)
    queue()
    assert ask("SELECT 1", "--workgroup", "team").code == 0
    (request,) = sent(emulator, "StartQueryExecution")
    assert request["WorkGroup"] == "team"
    assert "ResultConfiguration" not in request


def test_json_has_numbers_booleans_and_nulls(ask, queue):
    columns = [("n", "integer"), ("x", "double"), ("yes", "boolean"), ("name", "varchar")]
    queue([["1", "1.5E1", "true", None], ["2", "NaN", "false", "2"]], columns)
    rows = json.loads(ask("SELECT ...", "--json").out)
    assert rows == [
        {"n": 1, "x": 15.0, "yes": True, "name": None},
        {"n": 2, "x": "NaN", "yes": False, "name": "2"},
    ]
    assert convert("1.25", "decimal") == 1.25


def test_the_analysts_questions_are_asked_in_order_and_each_answer_has_its_question(
    ask, queue, emulator
):
    for _ in QUESTIONS:
        queue()
    outcome = ask("--file", str(QUESTIONS_SQL))
    assert outcome.code == 0
    asked = [request["QueryString"] for request in sent(emulator, "StartQueryExecution")]
    assert len(asked) == len(QUESTIONS) == outcome.out.count("free    2829")
    assert outcome.out.startswith("plays_by_hour: At which hours of the day do people listen?\n")
    assert not any(";" in sql or "--" in sql for sql in asked)


def test_the_json_of_a_file_has_each_query_by_its_name(ask, queue, tmp_path):
    path = tmp_path / "two.sql"
    path.write_text("-- name: first\nSELECT 1;\n\nSELECT 2")
    queue([["1"]], [("n", "integer")])
    queue([["2"]], [("n", "integer")])
    told = json.loads(ask("--file", str(path), "--json").out)
    assert told == {"first": [{"n": 1}], "2": [{"n": 2}]}


def test_a_file_is_split_as_the_tests_of_the_questions_split_it():
    queries = split_queries(QUESTIONS_SQL.read_text(encoding="utf-8"))
    assert [query.name for query in queries] == list(QUESTIONS)
    for query in queries:
        code = [line for line in QUESTIONS[query.name].splitlines() if not line.startswith("--")]
        assert query.sql == "\n".join(code).strip().rstrip(";")


def test_a_semicolon_in_a_line_or_a_comment_ends_no_query():
    text = "-- about the file;\n\n-- one; two\nSELECT ';'\n  AS x;\n"
    assert split_queries(text) == [Query("1", "one; two", "SELECT ';'\n  AS x")]


@pytest.mark.parametrize(
    ("content", "told"), [("-- nothing\n", "it holds no query"), (None, "cannot be read")]
)
def test_a_file_without_a_query_is_a_usage_error(ask, tmp_path, content, told):
    path = tmp_path / "queries.sql"
    if content is not None:
        path.write_text(content)
    outcome = ask("--file", str(path))
    assert outcome.code == 2
    assert told in outcome.last_line


def test_a_statement_without_a_row_of_names_keeps_its_first_row(ask, queue):
    queue([["songs"], ["users"]], [("tab_name", "string")], header=False)
    assert ask("SHOW TABLES").out == "tab_name\nsongs\nusers\n\n"


def test_a_null_is_told_from_an_empty_text():
    answer = Answer(["a", "b"], ["varchar", "bigint"], [["", None], [None, "10"]])
    assert render_answer(Query("q", "", ""), answer) == "a        b\n      null\nnull    10\n"


def test_a_query_that_athena_gives_up_is_one_line(ask, monkeypatch, backend):
    monkeypatch.setattr(
        "moto.athena.models.Execution.advance", lambda self: setattr(self, "status", "FAILED")
    )
    outcome = ask("SELECT 1")
    assert outcome.code == 1
    assert outcome.err == "athena.py: error: query failed: Athena gives no reason\n"


def test_a_table_that_is_missing_tells_how_to_register_it():
    reason = "TABLE_NOT_FOUND: line 1:15: Table 'awsdatacatalog.sparkify.songs'\n does not exist"
    status = {"State": "FAILED", "StateChangeReason": reason}
    assert explain_failure({"Status": status}, Query("q", "", ""), "sparkify") == (
        "q failed: TABLE_NOT_FOUND: line 1:15: Table 'awsdatacatalog.sparkify.songs' does not"
        " exist; python -m aws.catalog registers the tables in sparkify"
    )


def test_a_refusal_is_one_line(ask, emulator):
    emulator.refuse("athena", "AccessDeniedException", "no", operation="StartQueryExecution")
    outcome = ask("SELECT 1")
    assert outcome.code == 1
    assert outcome.err.startswith("athena.py: error: not allowed to StartQueryExecution: no;")


def test_ctrl_c_cancels_the_query(ask, emulator, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("aws.athena.poll", interrupt)
    outcome = ask("SELECT 1")
    assert (outcome.code, outcome.err) == (130, "athena.py: stopped; the query is cancelled\n")
    assert len(sent(emulator, "StopQueryExecution")) == 1


def test_more_rows_than_a_page_holds_are_all_printed(ask, emulator, monkeypatch):
    # moto has one page only: these are two, and the names come on the first, as from Athena.
    def page(*values):
        rows = [{"Data": [{"VarCharValue": value}]} for value in values]
        columns = {"ColumnInfo": [{"Name": "n", "Type": "bigint"}]}
        return {"ResultSet": {"Rows": rows, "ResultSetMetadata": columns}}

    pages = [page("n", "1"), page("2")]
    monkeypatch.setattr("botocore.paginate.PageIterator.__iter__", lambda _: iter(pages))
    outcome = ask("SELECT n", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out) == [{"n": 1}, {"n": 2}]
