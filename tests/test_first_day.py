"""The first day: an empty account, the shipped dl.cfg, one command there and one back.

The account is emulated, and the step writes what the job would write; test_end_to_end.py runs the
job itself. docs/aws.md shows what the same two commands printed with the real job.
"""

from __future__ import annotations

import json
import re

import pytest
from moto.athena.models import QueryResults, athena_backends

import iac_submit_etl
import iac_terminate
from aws import athena
from configs import DL_CFG
from lake.tables import TABLES
from tests.aws_fixtures import *  # noqa: F403 (fixtures)
from tests.aws_fixtures import REGION
from tests.demo_aws import FIRST_DAY, OWN_BUCKET
from tests.docs import ROOT
from tests.emr_emulator import StepResult

SOON = ("--log-wait", "0")  # where the step fails, this test has nothing to wait for
REMOVAL = ("--everything", "--with-data", "--yes")


@pytest.fixture
def empty(emulator, session, monkeypatch):
    """An account with nothing in it, whose steps write a lake from the sources that they find."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    s3 = session.client("s3")

    def run_step(step):
        given = dict(zip(step.args, step.args[1:]))
        for source in ("--song-data", "--log-data"):
            bucket, _, prefix = given[source].removeprefix("s3://").partition("/")
            if not s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["KeyCount"]:
                return StepResult(1)
        bucket, _, lake = given["--output"].removeprefix("s3://").partition("/")
        for table in TABLES:
            folder = "".join(f"{name}=2018/" for name in table.partition_choices[:1])
            key = f"{lake}/{table.name}/{folder}part-0.parquet"
            s3.put_object(Bucket=bucket, Key=key, Body=b"rows")
        return StepResult(0)

    emulator.run_step = run_step
    return emulator


@pytest.fixture
def laptop(run):
    """Run a script as it is shipped: dl.cfg has no edit."""

    def run_shipped(main, *arguments):
        return run(main, "--config", str(DL_CFG), *arguments)

    return run_shipped


def what_is_there(emulator, session):
    """What of the account costs, clutters, or can be used."""
    iam, ec2 = session.client("iam"), session.client("ec2")
    return {
        "clusters": [c.id for c in emulator.clusters.values() if not c.state.startswith("TERM")],
        "security": list(emulator.security_configurations),
        "buckets": [bucket["Name"] for bucket in session.client("s3").list_buckets()["Buckets"]],
        "roles": [
            role["RoleName"]
            for role in iam.list_roles()["Roles"]
            if not role["RoleName"].startswith("AWSServiceRole")  # AWS's own
        ],
        "profiles": iam.list_instance_profiles()["InstanceProfiles"],
        "databases": session.client("glue").get_databases()["DatabaseList"],
        "tags": ec2.describe_tags()["Tags"],
    }


def test_one_command_makes_five_tables_and_ends_the_cluster_and_one_removes_all(
    empty, session, laptop
):
    before = what_is_there(empty, session)
    assert not any(before.values())

    day = laptop(iac_submit_etl.main, *FIRST_DAY, *SOON)
    assert day.code == 0, day.err
    found = session.client("glue").get_tables(DatabaseName="sparkify")["TableList"]
    assert {table["Name"] for table in found} == {table.name for table in TABLES}
    locations = {table["StorageDescriptor"]["Location"] for table in found}
    assert locations == {f"s3://{OWN_BUCKET}/lake/{table.name}/" for table in TABLES}
    assert [cluster.state for cluster in empty.clusters.values()] == ["TERMINATED"]

    answer(["songs", "96"])
    asked = laptop(athena.main, "SELECT 'songs' AS name, COUNT(*) AS rows FROM songs", "--json")
    assert json.loads(asked.out) == [{"name": "songs", "rows": 96}]

    back = laptop(iac_terminate.main, *REMOVAL)
    assert back.code == 0, back.err
    assert what_is_there(empty, session) == before


def answer(*rows):
    """Queue the rows that Athena answers with."""
    data = [{"Data": [{"VarCharValue": v} for v in row]} for row in (["name", "rows"], *rows)]
    columns = [{"Name": "name", "Type": "varchar"}, {"Name": "rows", "Type": "bigint"}]
    queue = athena_backends["123456789012"][REGION].query_results_queue
    queue.append(QueryResults(rows=data, column_info=columns))


def test_the_same_command_again_uploads_no_data_and_makes_nothing_twice(empty, session, laptop):
    laptop(iac_submit_etl.main, *FIRST_DAY, *SOON)
    before = what_is_there(empty, session)
    again = laptop(iac_submit_etl.main, *FIRST_DAY, *SOON)
    assert again.code == 0, again.err
    assert "uploaded 0 of 128 data files" in again.err
    assert "created " not in again.err
    assert what_is_there(empty, session) == before


def test_the_command_of_the_docs_is_the_one_that_is_tested_and_prints_what_they_show(empty, laptop):
    page = (ROOT / "docs" / "aws.md").read_text(encoding="utf-8")
    (shown,) = re.findall(
        r"^```text\n(\$ python iac_submit_etl.py --set-up.*?)^```", page, re.M | re.S
    )
    there, _, back = shown.partition("$ python iac_terminate.py ")
    assert there.startswith(f"$ python iac_submit_etl.py {' '.join(FIRST_DAY)}\n")
    assert back.startswith(f"{' '.join(REMOVAL)}\n")
    day, removal = (
        laptop(iac_submit_etl.main, *FIRST_DAY, *SOON),
        laptop(iac_terminate.main, *REMOVAL),
    )
    printed = normalise(day.err + day.out + removal.out + removal.err)
    lines = [line for line in [*there.splitlines(), *back.splitlines()[1:]] if line.strip()]
    # What takes long shows how long, and what the job wrote differs from what the emulated one did.
    passing = re.compile(r"\$|step |uploading |j-\S+: |(data: |removed )?s3://\S+/(lake|logs)/")
    missing = [line for line in lines if not passing.match(line) and normalise(line) not in printed]
    assert missing == []
    assert len(lines) > 30
    # The first command is shown whole.
    told, shown = (day.err + day.out).splitlines(), normalise(there)
    assert [line for line in told if not passing.match(line) and normalise(line) not in shown] == []


def normalise(text):
    """A text without what differs from run to run: ids, hashes, numbers and amounts."""
    return re.sub(r"\b[0-9a-f]{8,}\b|\d[\d,.]*( [KM]iB| B)?", "N", text)
