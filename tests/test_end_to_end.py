"""From nothing to a lake in S3 and back to nothing: the scripts and the job, as a user runs them.

The account is emulated, the rest is real: processes, HTTP, spark-submit in cluster mode on YARN,
and Spark's S3 connector. The tests go in order, each on what the one before it has left.
"""

from __future__ import annotations

import gzip
import json
import re
import zipfile

import duckdb
import pytest

from aws.s3 import list_keys
from lake.exit_codes import ExitCode
from lake.tables import TABLES
from tests.demo_aws import BUCKET, CREDENTIALS, ROOT, emulated_account

CANARY = "canary/secret+that/must+stay/home+123456"
KEYS = f"[aws]\naccess_key_id = AKIACANARY\nsecret_access_key = {CANARY}\nsession_token =\n"
PLAY_KEY = ("ts", "userId", "sessionId", "itemInSession")
SAMPLE = ("song_data/A/A/A/", "2018-11-01-events")  # of data/: enough for these tests
FLAGS = ("--config", "my.cfg", "--keys", "my-keys.cfg", "--poll-seconds", "1")


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    work = tmp_path_factory.mktemp("laptop")
    (work / "my-keys.cfg").write_text(KEYS)
    (work / "my-keys.cfg").chmod(0o600)
    environ = {**CREDENTIALS, "AWS_SECRET_ACCESS_KEY": f"{CANARY}-environment"}
    with emulated_account(work, environ) as account:
        yield account


def upload_sample(account):
    """Put a part of the sample where my.cfg looks for it."""
    for path, content in read_sample().items():
        account.s3.put_object(Bucket=BUCKET, Key=path, Body=content)


def read_sample():
    """Some folder of songs and a day of the log, by their paths."""
    files = {}
    for name in ("song-data.zip", "log-data.zip"):
        with zipfile.ZipFile(ROOT / "data" / name) as archive:
            paths = [path for path in archive.namelist() if any(part in path for part in SAMPLE)]
            files |= {path: archive.read(path) for path in paths if not path.endswith("/")}
    return files


def objects(account, prefix):
    """What is in the bucket under a prefix, by key, decompressed."""
    keys = list_keys(account.s3, BUCKET, prefix)
    bodies = {key: account.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}
    return {
        key: gzip.decompress(body) if key.endswith(".gz") else body for key, body in bodies.items()
    }


def count_rows(account, table):
    """The rows of a table's Parquet files, as another program reads them."""
    files = [
        body for key, body in objects(account, f"lake/{table}/").items() if key.endswith(".parquet")
    ]
    with duckdb.connect() as database:
        rows = 0
        for number, body in enumerate(files):
            path = account.work / f"{table}-{number}.parquet"
            path.write_bytes(body)
            rows += database.sql(f"select count(*) from '{path}'").fetchone()[0]
    return rows


def count_plays():
    """The plays in the sample, one delivered twice counted once, without any of our code."""
    logs = [text for path, text in read_sample().items() if path.startswith("log_data/")]
    events = [json.loads(line) for text in logs for line in text.decode().splitlines()]
    plays = {tuple(e[key] for key in PLAY_KEY) for e in events if e["page"] == "NextSong"}
    return len(plays)


def test_create_makes_a_cluster_that_takes_steps(account):
    flags = ("--create-bucket", "--create-roles", "--tag-network")
    done = account.run("iac_create.py", *FLAGS, *flags)
    assert done.returncode == 0, done.stdout
    assert [cluster.state for cluster in account.emulator.clusters.values()] == ["WAITING"]
    upload_sample(account)


def test_submit_runs_the_uploaded_code_and_the_tables_are_in_s3(account):
    done = account.run("iac_submit_etl.py", *FLAGS)
    assert done.returncode == ExitCode.DONE, done.stdout
    assert re.search(r"(?m)^j-\d+ s-\d+ COMPLETED$", done.stdout)
    (report,) = (json.loads(body) for body in objects(account, "lake/_etl/reports/").values())
    counted = {table.name: count_rows(account, table.name) for table in TABLES}
    assert counted == {name: told["rows"] for name, told in report["tables"].items()}
    assert counted["songplays"] == count_plays() > 0
    assert all(counted.values())


def test_a_failing_job_is_explained_and_changes_nothing(account):
    def lake():
        files = objects(account, "lake/")
        return {key: body for key, body in files.items() if "/_etl/" not in key}

    before = lake()
    nowhere = f"s3://{BUCKET}/no-such-folder"
    done = account.run("iac_submit_etl.py", *FLAGS, "--json", "--", "--log-data", nowhere)
    assert done.returncode == ExitCode.FAILED
    narration, _, told = done.stdout.partition("{")
    outcome = json.loads("{" + told)
    (line,) = outcome["cause"]
    assert line.startswith("etl.py: error: ")
    assert nowhere in line
    assert f"\n  {line}\nlog: {outcome['log']}\n" in narration
    assert re.search(
        r"/containers/application_\d+_\d+/container_\S+_000001/stdout.gz$", outcome["log"]
    )
    assert lake() == before


def test_status_shows_both_steps(account):
    done = account.run("get_cluster_status.py", *FLAGS)
    assert done.returncode == 0, done.stdout
    assert re.search(r"WAITING", done.stdout)
    assert re.search(r"COMPLETED .*sparkify etl", done.stdout)
    assert re.search(r"FAILED .*sparkify etl", done.stdout)


def test_terminate_leaves_no_cluster(account):
    done = account.run("iac_terminate.py", *FLAGS, "--yes")
    assert done.returncode == 0, done.stdout
    assert [cluster.state for cluster in account.emulator.clusters.values()] == ["TERMINATED"]


def test_no_key_ever_left_the_laptop(account):
    sent = [repr((each.path, each.headers, each.body)) for each in account.emulator.requests]
    stored = objects(account, "")
    assert any("AKIACANARY" in request for request in sent)  # else keys.cfg was not even read
    assert any("/code/" in f"/{key}" for key in stored)
    assert not [request for request in sent if CANARY in request]
    assert not [key for key, body in stored.items() if CANARY.encode() in body]
    assert not [key for key in stored if key.endswith("keys.cfg")]
