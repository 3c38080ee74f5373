"""Redshift's SQL against lake/tables.py and on a real PostgreSQL, and the script that runs it."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from dataclasses import replace
from string import Template

import boto3
import duckdb
import pytest
import sqlglot
from moto import mock_aws
from sqlglot import TokenType, exp

from aws import redshift as redshift_script
from aws.catalog import CatalogConfig, publish_catalog
from aws.loaded import build_query
from aws.redshift import (
    SCRIPTS,
    RedshiftConfig,
    build_script,
    build_values,
    load_redshift_config,
    read_sql,
    split_statements,
)
from aws.s3 import list_keys
from configs import ConfigError
from lake.tables import TABLES
from tests.lake import build_sample_lake, make_rows, write_lake
from tests.postgres import postgres_server
from tests.redshift_emulator import POSTGRES_TYPES, RedshiftEmulator, lake_source, without_layout

BUCKET = "my-sparkify-bucket"
OUTPUT = f"s3://{BUCKET}/lake"
REGION = "us-west-2"
LAKE = CatalogConfig(database="sparkify", output=OUTPUT)
ROLE = "arn:aws:iam::123456789012:role/Redshift"
REDSHIFT = RedshiftConfig("my-group", None, "dev", None, ROLE, "sparkify", "lake")
VALUES = build_values(REDSHIFT, LAKE)
EXTERNAL_SCHEMA, TABLES_SCRIPT, LOAD = (
    build_script(name, split_statements(read_sql(name)), VALUES) for name in SCRIPTS
)
NOTED = build_script("noted", [build_query(split_statements(read_sql("3_load"))[-1])], VALUES)
EVERY_SQL = [
    statement
    for script in (EXTERNAL_SCHEMA, TABLES_SCRIPT, NOTED, LOAD)
    for statement in script.statements
]
# What sqlglot 30 does not take apart. PostgreSQL runs the second; Redshift alone knows the first.
OPAQUE = ("CREATE EXTERNAL SCHEMA", "LOCK TABLE")
BY_MONTH = {"songs": ("year",), "time": ("year", "month"), "songplays": ("year", "month")}
STARTS = ["2018-10-31 23:59:59.999", "2018-11-01 00:00:00.001", "2018-11-02 12:00:00.796"]
SONGS = {"S1": ("A1", 0), "S2": ("A2", 2004)}


# ---- The files and their dialect -----------------------------------------------------------------


@pytest.mark.parametrize("sql", EVERY_SQL, ids=lambda sql: sql.splitlines()[0][:60])
def test_each_statement_is_redshifts_dialect(sql):
    (parsed,) = sqlglot.parse(sql, read="redshift", error_level=sqlglot.ErrorLevel.RAISE)
    assert isinstance(parsed, exp.Command) == sql.startswith(OPAQUE)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_semicolon_of_a_file_ends_a_statement(name):
    tokens = sqlglot.tokenize(read_sql(name), read="redshift")
    ends = sum(token.token_type == TokenType.SEMICOLON for token in tokens)
    code = [line for line in read_sql(name).splitlines() if not line.startswith("--")]
    assert "\n".join(code).count(";") == ends
    assert not any("--" in line or "/*" in line for line in code)


def test_a_value_with_a_quote_or_a_semicolon_stays_one_value():
    lake = replace(LAKE, output=f"s3://{BUCKET}/it's; mine")
    load = build_script(
        "3_load", split_statements(read_sql("3_load")), build_values(REDSHIFT, lake)
    )
    assert len(load.statements) == len(LOAD.statements)
    copy = next(sql for sql in load.statements if sql.startswith("COPY sparkify.artists"))
    (path,) = [t.text for t in sqlglot.tokenize(copy, read="redshift") if "s3://" in t.text]
    assert path == f"s3://{BUCKET}/it's; mine/artists/"


def parsed_tables():
    """Each CREATE TABLE of 2_tables.sql, parsed, in the file's order."""
    parsed = [sqlglot.parse_one(sql, read="redshift") for sql in TABLES_SCRIPT.statements]
    created = {found.this.this.name: found for found in parsed if found.kind == "TABLE"}
    assert created.pop("load_lock")
    assert created.pop("loaded_files")
    return created


CREATED = parsed_tables()
TYPES = {**POSTGRES_TYPES, "STRING": "VARCHAR"}


def varchar_sizes(name):
    """The bytes that each text column of a table takes."""
    return {
        column.name: int(column.kind.expressions[0].name)
        for column in CREATED[name].find_all(exp.ColumnDef)
        if column.kind.this == exp.DataType.Type.VARCHAR
    }


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_native_table_has_the_columns_and_keys_of_the_contract(table):
    created = CREATED[table.name]
    described = {
        column.name: (
            column.kind.sql("redshift").partition("(")[0],
            any(isinstance(rule.kind, exp.NotNullColumnConstraint) for rule in column.constraints),
        )
        for column in created.find_all(exp.ColumnDef)
    }
    needed = {*table.key, *table.required}
    expected = {name: (TYPES[kind], name in needed) for name, kind in table.columns.items()}
    assert list(described.items()) == list(expected.items())
    assert set(varchar_sizes(table.name)) == {n for n, k in table.columns.items() if k == "STRING"}
    assert [key.name for key in created.find(exp.PrimaryKey).expressions] == list(table.key)
    references = {}
    for key in created.find_all(exp.ForeignKey):
        target = key.args["reference"].this
        assert target.this.db == "sparkify"
        references[key.expressions[0].name] = f"{target.this.name}.{target.expressions[0].name}"
    assert references == table.references


def test_native_tables_have_the_layout_of_a_star():
    layouts = {name: found.args["properties"].sql("redshift") for name, found in CREATED.items()}
    assert layouts == {
        "artists": "DISTSTYLE ALL COMPOUND SORTKEY(artist_id)",
        "users": "DISTSTYLE ALL COMPOUND SORTKEY(user_id)",
        "time": "DISTSTYLE KEY DISTKEY(start_time) COMPOUND SORTKEY(start_time)",
        "songs": "DISTSTYLE ALL COMPOUND SORTKEY(artist_id, song_id)",
        "songplays": "DISTSTYLE KEY DISTKEY(start_time)"
        " COMPOUND SORTKEY(start_time, user_id, session_id)",
    }
    for table in TABLES:
        assert layouts[table.name].endswith(f"COMPOUND SORTKEY({', '.join(table.sort_by)})")


def test_a_table_is_created_and_loaded_after_those_that_it_refers_to_and_emptied_before_them():
    by_name = {table.name: table for table in TABLES}
    created = list(CREATED)
    assert set(created) == set(by_name)
    for name in created:
        referred = {target.partition(".")[0] for target in by_name[name].references.values()}
        assert referred <= set(created[: created.index(name)])
    loaded = [sql.split()[1 + sql.startswith("INSERT")] for sql in loads()]
    assert loaded == [f"sparkify.{name}" for name in created]
    emptied = [sql.split()[2] for sql in LOAD.statements if sql.startswith("DELETE")]
    assert emptied == [*loaded[::-1], "sparkify.loaded_files"]
    counted = re.findall(r"SELECT '(\w+)' AS table_name, .* FROM (\S+)", LOAD.statements[-1])
    assert counted == [(name, f"sparkify.{name}") for name in created]


def loads():
    return [sql for sql in LOAD.statements if sql.startswith(("COPY", "INSERT"))]


def test_every_column_is_loaded_and_only_tables_that_cannot_be_partitioned_are_copied():
    loaded = {re.search(r"sparkify\.(\w+)", sql)[1]: " ".join(sql.split()) for sql in loads()}
    for table in TABLES:
        names = ", ".join(table.columns)
        assert loaded[table.name] == (
            f"INSERT INTO sparkify.{table.name} ( {names} ) SELECT {names} FROM lake.{table.name}"
            if table.partition_choices
            else f"COPY sparkify.{table.name} ( {names} ) FROM '{OUTPUT}/{table.name}/'"
            f" IAM_ROLE '{ROLE}' FORMAT AS PARQUET"
        )


def test_the_load_is_one_transaction_that_the_data_api_takes():
    verbs = [sql.split()[0] for sql in LOAD.statements]
    assert verbs == ["LOCK", *["DELETE"] * 6, "COPY", "COPY", *["INSERT"] * 3, "SELECT", "SELECT"]
    assert len(LOAD.statements) <= 40
    lines = read_sql("3_load").splitlines()
    code = [line for line in lines if line and not line.startswith("--")]
    assert (code[0], code[-1]) == ("BEGIN;", "COMMIT;")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({}, "workgroup, cluster: expected one of the two, not both"),
        ({"workgroup": "a", "cluster": "b"}, "workgroup, cluster: expected one of the two"),
        (
            {"workgroup": "a", "db_user": "me"},
            "db_user: expected nothing, only a cluster takes a user",
        ),
        ({"workgroup": "a", "schema": "lake"}, "expected two different names"),
        ({"workgroup": "a", "schema": 'x"; drop table songs'}, "expected a name of a-z"),
        ({"workgroup": "a", "iam_role": "my'role"}, "expected default, or the ARN of a role"),
    ],
)
def test_settings_that_would_end_in_wrong_sql_are_refused(flags, complaint):
    given = {("redshift", key): value for key, value in flags.items()}
    with pytest.raises(ConfigError, match=complaint):
        load_redshift_config(flags=given, environ={})


# ---- On a real PostgreSQL ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server():
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres(server):
    """An empty database."""
    server.ask(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND backend_type = 'client backend';"
        "DROP SCHEMA IF EXISTS sparkify CASCADE; DROP SCHEMA IF EXISTS lake CASCADE;"
        "DROP TABLE IF EXISTS svv_external_schemas;"
    )
    return server


@pytest.fixture(scope="module")
def sample_lake(spark, tmp_path_factory):
    return build_sample_lake(spark, tmp_path_factory)


@pytest.fixture
def small_lake(tmp_path):
    """Three plays, written without Spark."""
    write_lake(tmp_path / "lake", make_rows(STARTS, SONGS), BY_MONTH)
    return tmp_path / "lake"


@pytest.fixture
def start_redshift(postgres):
    """Start the emulated service on a lake."""
    started = []

    def start(lake):
        emulator = RedshiftEmulator(postgres, lake, OUTPUT)
        started.append(emulator)
        emulator.create_external_tables("lake")
        return emulator

    yield start
    for emulator in started:
        emulator.close()


@pytest.fixture
def redshift(start_redshift, small_lake):
    return start_redshift(small_lake)


def run_scripts(redshift, *scripts):
    for script in scripts:
        redshift.postgres.ask(redshift.script(list(script.statements)))


def assert_loaded(postgres, lake, folder):
    """PostgreSQL holds the rows of the lake's files, value by value, and no other."""
    for table in TABLES:
        names = ", ".join(table.columns)
        path = folder / f"{table.name}-loaded.csv"
        postgres.ask(f"\\copy (select {names} from sparkify.{table.name}) to '{path}' csv")
        kinds = {name: POSTGRES_TYPES[kind] for name, kind in table.columns.items()}
        with duckdb.connect() as database:
            database.execute("set TimeZone = 'UTC'")
            # epoch, because a timestamp of Parquet has a zone and PostgreSQL's text has none.
            order = names.replace("start_time", "epoch_us(start_time)")
            query = f"select {order} from {lake_source(lake, table)}"
            published = database.sql(query).fetchall()
            options = f"columns = {kinds}, header = false, allow_quoted_nulls = false"
            loaded = database.sql(f"select {order} from read_csv('{path}', {options})").fetchall()
        assert published
        assert sorted(loaded, key=repr) == sorted(published, key=repr), table.name


def count(postgres, name):
    return int(postgres.ask(f"SELECT COUNT(*) FROM sparkify.{name};"))


def test_the_sample_lake_is_loaded_row_by_row_with_every_key_enforced(
    start_redshift, sample_lake, tmp_path
):
    redshift = start_redshift(sample_lake)
    run_scripts(redshift, EXTERNAL_SCHEMA, TABLES_SCRIPT, LOAD)
    assert_loaded(redshift.postgres, sample_lake, tmp_path)
    constraints = redshift.postgres.ask(
        "SELECT contype, COUNT(*) FROM pg_constraint"
        " WHERE connamespace = 'sparkify'::regnamespace GROUP BY 1 ORDER BY 1;"
    )
    assert constraints == "f,5\np,5\n"


def test_a_second_load_replaces_every_row(redshift, small_lake, tmp_path):
    run_scripts(redshift, EXTERNAL_SCHEMA, TABLES_SCRIPT, LOAD)
    shutil.rmtree(small_lake)
    rows = make_rows(["2019-01-01 00:00:00"], {"S9": ("A9", 1999)})
    write_lake(small_lake, rows, {})
    redshift.create_external_tables("lake")
    run_scripts(redshift, EXTERNAL_SCHEMA, TABLES_SCRIPT, LOAD)
    assert_loaded(redshift.postgres, small_lake, tmp_path)


def test_a_load_that_fails_half_way_leaves_the_old_rows(redshift, small_lake, tmp_path):
    run_scripts(redshift, EXTERNAL_SCHEMA, TABLES_SCRIPT, LOAD)
    redshift.postgres.ask("INSERT INTO lake.songplays SELECT * FROM lake.songplays;")
    done = redshift.postgres.psql(redshift.script(list(LOAD.statements)))
    assert 'duplicate key value violates unique constraint "songplays_pkey"' in done.stderr
    assert_loaded(redshift.postgres, small_lake, tmp_path)


def test_timestamps_that_are_misread_are_not_loaded(redshift, small_lake, tmp_path):
    run_scripts(redshift, EXTERNAL_SCHEMA, TABLES_SCRIPT, LOAD)
    for table in ("time", "songplays"):
        redshift.postgres.ask(
            f"UPDATE lake.{table} SET start_time = start_time + INTERVAL '159047 years';"
        )
    done = redshift.postgres.psql(redshift.script(list(LOAD.statements)))
    assert "division by zero" in done.stderr
    assert_loaded(redshift.postgres, small_lake, tmp_path)


def test_the_file_itself_is_a_transaction_for_whoever_runs_it_by_hand(redshift):
    run_scripts(redshift, EXTERNAL_SCHEMA, TABLES_SCRIPT)
    statements = read_sql("3_load").split(";\n")
    begin, commit = statements[0].splitlines()[-1], statements[-2].strip()
    body = "".join(f"{redshift.translate(sql)}\n" for sql in LOAD.statements[:-2])
    broken = f"{begin};\n{body}SELECT 1/0;\n{commit};\n"
    assert "division by zero" in redshift.postgres.psql(broken).stderr
    assert count(redshift.postgres, "songplays") == 0
    redshift.postgres.ask(f"{begin};\n{body}{commit};\n")
    assert count(redshift.postgres, "songplays") == 3


def test_of_two_loads_at_once_one_waits_and_no_row_is_loaded_twice(redshift):
    run_scripts(redshift, EXTERNAL_SCHEMA, TABLES_SCRIPT)
    sleepy = redshift.script([*LOAD.statements[:-1], "SELECT pg_sleep(3)"])
    first = threading.Thread(target=redshift.postgres.ask, args=[sleepy])
    first.start()
    deadline = time.monotonic() + 10
    while not locked(redshift.postgres) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert count(redshift.postgres, "songplays") == 0  # a reader does not wait, and sees the old
    assert first.is_alive()
    run_scripts(redshift, LOAD)
    first.join()
    assert count(redshift.postgres, "songplays") == 3


def locked(postgres):
    return "AccessExclusiveLock" in postgres.ask(
        "SELECT mode FROM pg_locks WHERE granted AND relation = 'sparkify.load_lock'::regclass;"
    )


def test_the_samples_texts_fit_with_room(sample_lake):
    for table in TABLES:
        for name, size in varchar_sizes(table.name).items():
            with duckdb.connect() as database:
                source = lake_source(sample_lake, table)
                query = f"select max(octet_length(encode({name}))) from {source}"
                (longest,) = database.sql(query).fetchone()
            assert longest * 2 <= size, name


def test_what_is_left_out_for_postgresql_is_the_layout_alone():
    for sql in TABLES_SCRIPT.statements:
        kept = " ".join(without_layout(sql).split()).replace("( ", "(").replace(" )", ")")
        ours = " ".join(sql.partition("\nDISTSTYLE")[0].split())
        ours = ours.replace("( ", "(").replace(" )", ")").replace("INTEGER", "INT")
        assert kept.replace("INTEGER", "INT") == ours


# ---- The script, against the emulated service ----------------------------------------------------


@pytest.fixture
def account(small_lake, redshift, monkeypatch):
    """An account with the small lake in S3 and in its catalogue, and a Redshift."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_REDSHIFT_DATA", redshift.url)
    with mock_aws():
        session = boto3.Session(region_name=REGION)
        s3 = session.client("s3")
        place = {"LocationConstraint": REGION}
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration=place)
        upload(session, small_lake)
        yield session


def upload(session, lake):
    """Put a lake in the place of the one in S3, and its tables into the catalogue."""
    s3 = session.client("s3")
    for key in list_keys(s3, BUCKET, "lake/"):
        s3.delete_object(Bucket=BUCKET, Key=key)
    for path in lake.rglob("*.parquet"):
        key = f"lake/{path.relative_to(lake)}"
        s3.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    publish_catalog(session, LAKE)


@pytest.fixture
def load(account, tmp_path, capsys):
    keys = tmp_path / "keys.cfg"
    keys.write_text("[aws]\naccess_key_id =\nsecret_access_key =\nsession_token =\n")
    files = ["--keys", str(keys), "--region", REGION, "--output", OUTPUT, "--poll-seconds", "0"]

    def run(*arguments, workgroup="my-group"):
        code = redshift_script.main([*files, "--workgroup", workgroup, *arguments])
        return (code, *capsys.readouterr())

    return run


def test_the_script_loads_the_lake_and_tells_how_far_it_is(load, redshift, small_lake, tmp_path):
    code, out, err = load()
    assert (code, out) == (
        0,
        "songs: 2 rows\nartists: 2 rows\nusers: 1 rows\ntime: 3 rows\nsongplays: 3 rows\n",
    )
    assert re.sub(r" \d+ s$", "", err, flags=re.MULTILINE).splitlines() == [
        "1_external_schema: submitted",
        "1_external_schema: started",
        "1_external_schema: finished",
        "check: submitted",
        "check: started",
        "check: finished",
        "2_tables: submitted, 0 of 8 statements",
        "2_tables: started, 0 of 8 statements",
        "2_tables: finished",
        "noted: submitted",
        "noted: started",
        "noted: finished",
        *[
            f"{table.name}: loaded whole: loaded_files does not say from which files it was loaded"
            for table in TABLES
        ],
        "3_load: submitted, 0 of 26 statements",
        "3_load: started, 0 of 26 statements",
        "3_load: finished",
    ]
    assert_loaded(redshift.postgres, small_lake, tmp_path)


@pytest.mark.parametrize("flags", [[], ["--full"]])
def test_a_second_run_gives_the_same(load, redshift, small_lake, tmp_path, flags):
    assert load()[0] == 0
    code, out, err = load("--json", *flags)
    rows = {"artists": 2, "users": 1, "time": 3, "songs": 2, "songplays": 3}
    assert (code, json.loads(out)) == (0, rows)
    assert ("nothing has changed since the last load: the tables are as" in err) == (not flags)
    assert err.count(": loaded whole: asked for by --full") == (5 if flags else 0)
    assert len(transactions(redshift)) == (2 if flags else 1)
    assert_loaded(redshift.postgres, small_lake, tmp_path)


def transactions(redshift):
    """The statements of each transaction that loads."""
    asked = [request for operation, request in redshift.requests if "Batch" in operation]
    return [sent["Sqls"] for sent in asked if sent["StatementName"] == "sparkify 3_load"]


@pytest.fixture
def publish(account, redshift, small_lake):
    """Publish other plays and songs in the place of those of the small lake."""

    def write(starts, songs=SONGS, layout=BY_MONTH):
        shutil.rmtree(small_lake)
        write_lake(small_lake, make_rows(starts, songs), layout)
        upload(account, small_lake)
        redshift.create_external_tables("lake")

    return write


def test_only_the_month_that_has_changed_is_loaded(load, publish, redshift, small_lake, tmp_path):
    load("--iam-role", ROLE)
    publish([*STARTS, "2018-11-30 23:59:59.999"])
    code, out, err = load("--iam-role", ROLE)
    assert (code, out.splitlines()[-2:]) == (0, ["time: 4 rows", "songplays: 4 rows"])
    assert [
        line for line in err.splitlines() if line.startswith(("songs:", "users:", "time:"))
    ] == [
        "songs: unchanged",
        "users: unchanged",
        "time: partitions: 1 changed",
    ]
    sent = transactions(redshift)[1]
    month = "WHERE (start_time >= '2018-11-01' AND start_time < '2018-12-01')"
    assert [sql for sql in sent if sql.startswith(("DELETE", "COPY")) and "loaded_" not in sql] == [
        f"DELETE FROM sparkify.songplays\n{month}",
        f"DELETE FROM sparkify.time\n{month}",
    ]
    inserts = [sql for sql in sent if sql.startswith("INSERT") and "loaded_files" not in sql]
    assert [sql.splitlines()[-2:] for sql in inserts] == [
        [f"FROM lake.{name}", "WHERE (year = 2018 AND month = 11)"]
        for name in ("time", "songplays")
    ]
    for sql in sent[1:]:
        assert not isinstance(sqlglot.parse_one(sql, read="redshift"), exp.Command)
    assert_loaded(redshift.postgres, small_lake, tmp_path)


LATER = [STARTS[0], "2018-12-01 00:00:00", "2019-01-01 00:00:00"]
BY_DAY = {**BY_MONTH, "songplays": ("year", "month", "day"), "songs": ()}
CHANGES = [  # of starts, songs and layout, one after another, and what is told of them
    (
        (STARTS[:1], SONGS, BY_MONTH),
        ["time: partitions: 1 removed", "songplays: partitions: 1 removed"],
    ),
    (
        (LATER, SONGS, BY_MONTH),
        ["time: partitions: 2 added", "songplays: partitions: 2 added"],
    ),
    ((LATER, {**SONGS, "S3": ("A1", 2004)}, BY_MONTH), ["songs: partitions: 1 changed"]),
    (
        (LATER, {"S2": ("A2", 2005)}, BY_MONTH),
        [
            "songs: partitions: 1 added, 2 removed",
            "artists: loaded whole: its files have changed",
        ],
    ),
    (
        (LATER, {"S2": ("A2", 2005)}, BY_DAY),
        [
            "songs: loaded whole: its columns or its layout have changed",
            "songplays: loaded whole: its columns or its layout have changed",
        ],
    ),
]


def test_after_each_change_the_tables_are_those_of_a_whole_load(
    load, publish, redshift, small_lake, tmp_path
):
    load()
    for after, told in CHANGES:
        publish(*after)
        code, _, err = load()
        assert code == 0
        assert [s for s in err.splitlines() if "partitions:" in s or "whole" in s] == told
        assert_loaded(redshift.postgres, small_lake, tmp_path)
    assert "nothing has changed" in load()[2]


DAMAGE = """
INSERT INTO sparkify.loaded_files SELECT * FROM sparkify.loaded_files WHERE table_name = 'songs';
UPDATE sparkify.loaded_files SET partition_name = 'year=2018/month=13'
WHERE table_name = 'time' AND partition_name = 'year=2018/month=11';
DELETE FROM sparkify.loaded_files WHERE table_name = 'users' AND partition_name = '*';
DROP TABLE sparkify.songplays;
"""


def test_a_table_whose_note_is_damaged_or_untrue_is_loaded_whole(
    load, redshift, small_lake, tmp_path
):
    load()
    redshift.postgres.ask(DAMAGE)
    code, _, err = load()
    assert code == 0
    assert [line for line in err.splitlines() if "unchanged" in line or "whole" in line] == [
        "songs: loaded whole: its rows in loaded_files are damaged",
        "artists: unchanged",
        "users: loaded whole: loaded_files does not say from which files it was loaded",
        "time: loaded whole: its rows in loaded_files are damaged",
        "songplays: loaded whole: it has 0 rows, not the 3 that were loaded",
    ]
    assert_loaded(redshift.postgres, small_lake, tmp_path)


def test_a_load_of_a_month_that_fails_half_way_is_as_if_it_had_not_been(
    load, publish, redshift, small_lake, tmp_path
):
    load()
    before = redshift.postgres.ask("SELECT * FROM sparkify.loaded_files ORDER BY 1, 2;")
    old = shutil.copytree(small_lake, tmp_path / "old")
    publish([*STARTS, "2018-11-30 23:59:59.999"])
    redshift.postgres.ask("INSERT INTO lake.songplays SELECT * FROM lake.songplays;")
    code, _, err = load()
    assert (code, "3_load failed at INSERT INTO sparkify.songplays" in err) == (1, True)
    assert redshift.postgres.ask("SELECT * FROM sparkify.loaded_files ORDER BY 1, 2;") == before
    assert_loaded(redshift.postgres, old, tmp_path)
    redshift.create_external_tables("lake")
    assert "songplays: partitions: 1 changed" in load()[2]
    assert_loaded(redshift.postgres, small_lake, tmp_path)


def test_a_load_by_hand_makes_the_next_one_whole(load, redshift):
    load()
    run_scripts(redshift, LOAD)
    assert load()[2].count("does not say from which files") == len(TABLES)


def test_the_request_is_whole(load, redshift):
    load("--iam-role", ROLE)
    _, request = next(sent for sent in redshift.requests if "Batch" in sent[0])
    token = request.pop("ClientToken")
    assert token
    assert request == {
        "WorkgroupName": "my-group",
        "Database": "dev",
        "StatementName": "sparkify 2_tables",
        "Sqls": list(TABLES_SCRIPT.statements),
    }


def test_a_cluster_takes_the_place_of_a_workgroup(load, redshift, monkeypatch):
    monkeypatch.setenv("SPARKIFY_REDSHIFT_DB_USER", "loader")
    assert load("--cluster", "my-cluster", workgroup="")[0] == 0
    asked = [request for operation, request in redshift.requests if "Execute" in operation]
    targets = [
        (sent["ClusterIdentifier"], sent["DbUser"], "WorkgroupName" in sent) for sent in asked
    ]
    assert targets == [("my-cluster", "loader", False)] * 5


def test_a_dry_run_prints_the_sql_and_asks_nothing(load, redshift):
    code, out, _ = load("--dry-run", "--iam-role", ROLE)
    assert (code, redshift.requests) == (0, [])
    assert out == "\n".join(Template(read_sql(name)).substitute(VALUES) for name in SCRIPTS)
    assert "$" not in out


def test_a_failed_statement_is_one_line_that_names_it(load, redshift, small_lake, tmp_path):
    assert load()[0] == 0
    redshift.postgres.ask(f"INSERT INTO lake.songs VALUES ('S3', '{'é' * 513}', 'A1', 0, 1.5);")
    code, out, err = load("--full")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == (
        "redshift.py: error: 3_load failed at INSERT INTO sparkify.songs: value too long"
        " for type character varying(1024); the tables are as they were: fix it and run this again"
    )
    redshift.postgres.ask("DELETE FROM lake.songs WHERE song_id = 'S3';")
    assert_loaded(redshift.postgres, small_lake, tmp_path)


def test_files_with_other_columns_than_the_table_are_refused(load, redshift, small_lake):
    with duckdb.connect() as database:
        path = small_lake / "users" / "part-00000.parquet"
        database.execute(f"copy (select 1 as user_id, 2 as level) to '{path}' (format parquet)")
    code, _, err = load()
    assert code == 1
    assert "3_load failed at COPY sparkify.users: Unmatched number of columns" in err


def test_an_aborted_load_is_no_success(load, redshift):
    redshift.ending = "ABORTED"
    code, out, err = load()
    assert (code, out) == (1, "")
    assert "1_external_schema aborted at CREATE EXTERNAL SCHEMA IF NOT EXISTS lake: Query" in err


def test_a_lost_answer_does_not_load_twice(load, redshift):
    redshift.lose_answers = 1
    assert load()[0] == 0
    accepted = [request for operation, request in redshift.requests if "Execute" in operation]
    assert len(accepted) == 6  # the first one was sent again
    assert len(redshift.statements) == 5


def test_throttling_is_waited_out_and_a_refusal_is_one_line(load, redshift):
    redshift.refuse = [("ThrottlingException", "Rate exceeded")]
    assert load()[0] == 0
    redshift.refuse = [("ValidationException", "Redshift endpoint doesn't exist in this region.")]
    code, _, err = load()
    assert code == 1
    assert err.splitlines() == [
        "redshift.py: error: AWS refused ExecuteStatement: Redshift endpoint doesn't exist"
        " in this region. (ValidationException)"
    ]


def test_ctrl_c_stops_the_load_in_redshift(load, redshift, monkeypatch):
    def interrupt(statement):
        raise KeyboardInterrupt

    monkeypatch.setattr(redshift_script, "describe_progress", lambda *_: interrupt(None))
    code, _, err = load()
    assert code == 130
    assert "redshift.py: 1_external_schema: cancelled in Redshift; unless" in err
    assert redshift.requests[-1][0] == "CancelStatement"


def test_a_catalogue_that_is_behind_is_not_loaded_from(load, redshift, account):
    key = "lake/songplays/year=2020/month=1/part-00000.parquet"
    account.client("s3").put_object(Bucket=BUCKET, Key=key, Body=b"")
    code, _, err = load()
    assert (code, redshift.requests) == (1, [])
    assert "does not agree with the published files (songplays): run python -m aws.catalog" in err


def test_an_unfinished_swap_is_not_loaded(load, redshift, account):
    account.client("s3").put_object(Bucket=BUCKET, Key="lake/_etl/run-1/plan.json", Body=b"{}")
    code, _, err = load()
    assert (code, redshift.requests) == (1, [])
    assert "run-1/plan.json" in err
    assert "etl.py --recover" in err


def test_an_external_schema_of_another_lake_is_noticed(load, redshift):
    redshift.postgres.ask("INSERT INTO svv_external_schemas VALUES ('lake', 'other_lake');")
    code, _, err = load()
    assert code == 1
    assert "external schema lake reads other_lake, not sparkify: drop it" in err


def test_an_external_schema_that_someone_else_owns_is_taken_as_it_is(load, redshift):
    redshift.postgres.ask(
        "CREATE RULE hidden AS ON INSERT TO svv_external_schemas DO INSTEAD NOTHING;"
    )
    assert load()[0] == 0
