"""iac_terminate.py --everything: what it shows, removes, keeps, and says it has left."""

from __future__ import annotations

import json

import pytest
from botocore.client import BaseClient

import iac_create
import iac_submit_etl
import iac_terminate
from aws.ownership import PROJECT_TAG
from aws.requests import MANAGED_TAG
from tests.aws_fixtures import *  # noqa: F403 (fixtures)
from tests.aws_fixtures import BUCKET, REGION

ROLES = ("SparkifyEmrServiceRole", "SparkifyEmrNodeRole")
TABLES = ("artists", "songplays", "songs", "time", "users")


@pytest.fixture
def s3(session):
    return session.client("s3")


@pytest.fixture
def first_day(emulator, run, s3):
    """An account after a first day: a cluster, code, logs, data, a lake, a catalogue."""
    outcome = run(iac_submit_etl.main, "--set-up", "--sample", "--create")
    assert outcome.code == 0, outcome.err
    for table in TABLES:
        s3.put_object(Bucket=BUCKET, Key=f"lake/{table}/part-0.parquet", Body=b"x" * 1000)
    s3.put_object(Bucket=BUCKET, Key="lake/_etl/published.json", Body=b"{}")
    s3.put_object(Bucket=BUCKET, Key="logs/j-1/steps/s-1/stderr.gz", Body=b"x")
    s3.put_object(Bucket=BUCKET, Key="athena/1.csv", Body=b"x")
    assert run(iac_submit_etl.main, "--catalog").code == 0
    return emulator


def folders(s3):
    listed = s3.list_objects_v2(Bucket=BUCKET, Delimiter="/")
    return [entry["Prefix"] for entry in listed.get("CommonPrefixes", [])]


def buckets(s3):
    return [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]


def roles(session):
    """All roles but those that AWS itself defines."""
    found = session.client("iam").list_roles()["Roles"]
    return {role["RoleName"] for role in found if not role["RoleName"].startswith("AWS")}


def network_tags(session):
    tags = session.client("ec2").describe_tags()["Tags"]
    return {tag["Key"] for tag in tags if tag["ResourceType"] in ("subnet", "vpc")}


def test_one_command_leaves_nothing_that_the_project_made(first_day, terminate, session, s3):
    outcome = terminate("--everything", "--with-data", "--yes")
    assert outcome.code == 0, outcome.err
    assert {cluster.state for cluster in first_day.clusters.values()} == {"TERMINATED"}
    assert first_day.security_configurations == {}
    assert buckets(s3) == []
    assert roles(session) == set()
    iam = session.client("iam")
    assert iam.list_instance_profiles()["InstanceProfiles"] == []
    assert session.client("glue").get_databases()["DatabaseList"] == []
    assert network_tags(session) == set()
    assert outcome.last_line.startswith("left: EMR's own security groups")
    assert outcome.err.count("left: ") == 1


def test_what_is_removed_is_shown_with_its_size_and_data_is_marked(first_day, terminate):
    outcome = terminate("--everything", "--dry-run")
    assert outcome.err == "dry run: nothing was removed\n"
    cluster, *rest = outcome.out.splitlines()
    assert cluster.startswith("sparkify j-")
    (network,) = [line for line in rest if line.startswith(f"tag {MANAGED_TAG} of subnet-")]
    assert "vpc-" in network
    rest.remove(network)
    assert [line.partition(": 4 objects, ")[0] for line in rest] == [
        "Glue tables artists, songplays, songs, time, users of sparkify",
        "Glue database sparkify",
        f"s3://{BUCKET}/code/",
        f"s3://{BUCKET}/logs/: 1 objects, 1 B",
        f"s3://{BUCKET}/athena/: 1 objects, 1 B",
        f"data: s3://{BUCKET}/song_data/: 98 objects, 28 KiB",
        f"data: s3://{BUCKET}/log_data/: 30 objects, 3 MiB",
        f"data: s3://{BUCKET}/lake/: 6 objects, 5 KiB",
        f"data: bucket {BUCKET}",
        "security configuration sparkify-imdsv2",
        "instance profile SparkifyEmrNodeRole",
        "role SparkifyEmrNodeRole",
        "role SparkifyEmrServiceRole",
    ]


def test_a_dry_run_removes_nothing(first_day, terminate, session, s3):
    before = len(first_day.requests)
    terminate("--everything", "--with-data", "--yes", "--dry-run")
    verbs = {request.method for request in first_day.requests[before:]}
    assert folders(s3) == ["athena/", "code/", "lake/", "log_data/", "logs/", "song_data/"]
    assert roles(session) == set(ROLES)
    assert "DELETE" not in verbs


def test_without_the_second_word_data_and_lake_stay_and_are_named(first_day, terminate, s3):
    outcome = terminate("--everything", "--yes")
    assert outcome.code == 0
    assert folders(s3) == ["lake/", "log_data/", "song_data/"]
    assert f"left: s3://{BUCKET}/lake/: 6 objects, 5 KiB\n" in outcome.err
    assert f"left: bucket {BUCKET}\n" in outcome.err


@pytest.mark.parametrize(
    ("answers", "left"),
    [
        ("no", ["athena/", "code/", "lake/", "log_data/", "logs/", "song_data/"]),
        ("yes\nyes", ["lake/", "log_data/", "song_data/"]),
        ("yes\ndata", None),
    ],
)
def test_each_of_the_two_words_is_asked_for(first_day, terminate, s3, answers, left):
    assert terminate("--everything", answer=answers).code == 0
    assert (folders(s3) if buckets(s3) else None) == left


def test_nothing_is_ended_before_both_words_are_given(first_day, terminate):
    outcome = terminate("--everything", answer="yes")  # and then the input ends
    assert outcome.code == 1
    assert "Remove all of the above but what is marked as data? Type yes" in outcome.err
    assert "cannot ask for confirmation" in outcome.last_line
    assert {cluster.state for cluster in first_day.clusters.values()} == {"WAITING"}


def test_an_account_that_has_nothing_of_the_project_is_left_alone(emulator, terminate):
    outcome = terminate("--everything")  # does not even ask
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err == f"nothing to remove in {REGION}\n"
    assert not any(request.method == "DELETE" for request in emulator.requests)


# What others made stays.


def test_a_bucket_of_somebody_else_keeps_all_that_is_in_it(emulator, run, terminate, s3):
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    run(iac_submit_etl.main, "--set-up", "--sample", "--create")
    outcome = terminate("--everything", "--with-data", "--yes")
    assert folders(s3) == ["code/", "log_data/", "song_data/"]
    assert f"left: bucket {BUCKET} and all in it: this project did not make it\n" in outcome.err


def test_other_objects_in_the_projects_bucket_stay_with_it(first_day, terminate, s3):
    s3.put_object(Bucket=BUCKET, Key="thesis/final.pdf", Body=b"x")
    s3.put_object(Bucket=BUCKET, Key="lake-notes.txt", Body=b"x")  # begins as a folder's name does
    outcome = terminate("--everything", "--with-data", "--yes")
    assert outcome.code == 0
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=BUCKET)["Contents"]] == [
        "lake-notes.txt",
        "thesis/final.pdf",
    ]
    assert "left: bucket my-sparkify-bucket: 2 other objects, such as lake-notes.txt\n" in (
        outcome.err
    )


def test_a_lake_that_is_a_whole_bucket_stays_with_what_others_put_there(
    emulator, run, terminate, s3, monkeypatch
):
    monkeypatch.setenv("SPARKIFY_ETL_OUTPUT", f"s3://{BUCKET}")
    assert run(iac_create.main, "--set-up").code == 0
    s3.put_object(Bucket=BUCKET, Key="thesis.pdf", Body=b"x")
    outcome = terminate("--everything", "--with-data", "--yes")
    assert outcome.code == 0
    assert s3.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 1
    assert "left: bucket my-sparkify-bucket: 1 other objects, such as thesis.pdf\n" in outcome.err


def test_roles_that_were_there_before_stay(emulator, run, terminate, session):
    iam = session.client("iam")
    for name in ROLES:
        iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")
    iam.create_instance_profile(InstanceProfileName=ROLES[1])
    run(iac_create.main, "--set-up")
    outcome = terminate("--everything", "--yes")
    assert outcome.code == 0
    assert roles(session) == set(ROLES)
    for what in ("role SparkifyEmrServiceRole", "instance profile SparkifyEmrNodeRole"):
        assert f"left: {what}: this project did not make it\n" in outcome.err


def test_roles_that_serve_another_region_stay_until_that_is_removed(
    emulator, run, terminate, session
):
    elsewhere = ("--region", "eu-central-1", "--bucket", "my-bucket-in-europe")
    assert run(iac_create.main, "--set-up").code == 0
    assert run(iac_create.main, "--set-up", *elsewhere).code == 0
    outcome = terminate("--everything", "--yes")
    told = f"left: roles {ROLES[0]} and {ROLES[1]}: they serve eu-central-1 as well\n"
    assert told in outcome.err
    assert roles(session) == set(ROLES)
    assert terminate("--everything", "--yes", *elsewhere).code == 0
    assert roles(session) == set()


def test_tables_of_others_stay_with_their_database(first_day, terminate, session):
    glue = session.client("glue")
    glue.create_table(DatabaseName="sparkify", TableInput={"Name": "theirs"})
    outcome = terminate("--everything", "--yes")
    tables = glue.get_tables(DatabaseName="sparkify")["TableList"]
    assert [table["Name"] for table in tables] == ["theirs"]
    assert "left: Glue database sparkify: others use it as well\n" in outcome.err


def test_a_database_that_was_there_before_stays(emulator, run, terminate, session):
    glue = session.client("glue")
    glue.create_database(DatabaseInput={"Name": "sparkify"})
    terminate("--everything", "--with-data", "--yes")
    assert [found["Name"] for found in glue.get_databases()["DatabaseList"]] == ["sparkify"]


def test_a_security_configuration_that_says_something_else_stays(first_day, terminate):
    first_day.security_configurations["sparkify-imdsv2"] = json.dumps({"other": {}})
    outcome = terminate("--everything", "--yes")
    assert "sparkify-imdsv2" in first_day.security_configurations
    assert "left: security configuration sparkify-imdsv2: it is not as" in outcome.err


def test_tags_on_a_network_that_were_there_before_stay(emulator, run, terminate, session):
    ec2 = session.client("ec2")
    (vpc,) = ec2.describe_vpcs()["Vpcs"]
    ec2.create_tags(Resources=[vpc["VpcId"]], Tags=[{"Key": MANAGED_TAG, "Value": "true"}])
    assert run(iac_create.main, "--set-up").code == 0
    assert network_tags(session) == {MANAGED_TAG, PROJECT_TAG[0]}
    terminate("--everything", "--yes")
    tags = ec2.describe_tags()["Tags"]
    assert [(tag["ResourceId"], tag["Key"]) for tag in tags] == [(vpc["VpcId"], MANAGED_TAG)]


def test_another_cluster_name_is_ended_as_well_and_another_projects_cluster_is_not(
    emulator, run, terminate
):
    run(iac_create.main, "--set-up", "--cluster-name", "evening")
    run(iac_create.main, "--cluster-name", "alien")
    evening, alien = emulator.clusters.values()
    alien.request.update(Tags=[], SecurityConfiguration="other")
    assert terminate("--everything", "--yes").code == 0
    assert (evening.state, alien.state) == ("TERMINATED", "WAITING")


# What is refused.


def test_what_aws_refuses_keeps_no_other_thing_from_going(first_day, terminate, session, s3):
    first_day.refuse("iam", "AccessDenied", "no", operation="DeleteRole", status=403)
    outcome = terminate("--everything", "--with-data", "--yes")
    assert outcome.code == 1
    assert outcome.last_line.startswith(
        "iac_terminate.py: error: not removed, run the same again in some minutes:"
        " role SparkifyEmrNodeRole: not allowed to DeleteRole: no;"
    )
    assert roles(session) == {"SparkifyEmrNodeRole"}
    assert network_tags(session) == set()
    assert terminate("--everything", "--with-data", "--yes").code == 0
    assert roles(session) == set()


def test_objects_that_cannot_be_deleted_are_named(first_day, terminate, s3, monkeypatch):
    refusal = {"Errors": [{"Key": "code/x", "Message": "no", "Code": "AccessDenied"}]}
    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", refuse_delete(refusal))
    outcome = terminate("--everything", "--yes")
    assert outcome.code == 1
    assert f"s3://{BUCKET}/code/" in outcome.last_line
    assert "code/x: no (AccessDenied)" in outcome.last_line


def refuse_delete(answer):
    """What answers DeleteObjects with a refusal, and passes all else on."""
    call = BaseClient._make_api_call

    def make_api_call(self, operation, arguments):
        return answer if operation == "DeleteObjects" else call(self, operation, arguments)

    return make_api_call


def test_more_objects_than_one_request_names_are_all_deleted(first_day, terminate, s3, monkeypatch):
    monkeypatch.setattr("aws.removal.DELETE_AT_ONCE", 40)
    assert terminate("--everything", "--with-data", "--yes").code == 0
    assert buckets(s3) == []


def test_a_protected_cluster_keeps_everything(emulator, run, terminate, session):
    run(iac_create.main, "--set-up", "--termination-protection", "yes")
    outcome = terminate("--everything", "--yes")
    assert outcome.code == 1
    assert outcome.last_line.endswith("; add --unprotect")
    assert "TerminateJobFlows" not in emulator.operations()
    assert roles(session) == set(ROLES)


@pytest.mark.parametrize("flags", [("--everything", "--no-wait"), ("--with-data",)])
def test_flags_that_make_no_sense_are_refused(terminate, flags):
    assert terminate(*flags).code == 2


def test_everything_and_one_cluster_contradict_each_other(terminate):
    assert terminate("--everything", "--all").code == 2
    assert iac_terminate.parse_args(["--everything", "--bucket", "b"]).common.flags == {
        ("emr", "bucket"): "b"
    }
