"""The two policies hold what the laptop scripts call; and no secret leaves the laptop."""

from __future__ import annotations

import ast
import gzip
import json
from pathlib import Path
from unittest import mock

import boto3
import pytest

import get_cluster_status
import iac_create
import iac_submit_etl
import iac_terminate
from aws.ownership import PROJECT_TAG
from aws.requests import build_service_trust
from aws.session import make_session
from configs import DL_CFG, load_etl_config
from lake import laptop
from lake import spark as laptop_session
from tests.aws_fixtures import *  # noqa: F403 (fixtures)
from tests.aws_fixtures import BUCKET
from tests.emr_emulator import ClusterPlan, StepPlan

ROOT = DL_CFG.parent
DAILY = json.loads((ROOT / "aws" / "iam-policy.json").read_text())
SET_UP = json.loads((ROOT / "aws" / "iam-policy-set-up.json").read_text())
SET_UP_MODULES = (
    "set_up.py",
    "removal.py",
)  # what they call on top needs the policy for the set-up
PREFIX = {"emr": "elasticmapreduce", "service-quotas": "servicequotas"}
# Operations whose action has another name, or that need none.
ACTIONS = {
    "s3:DeleteObjects": "s3:DeleteObject",
    "s3:HeadBucket": "s3:ListBucket",
    "s3:HeadObject": "s3:GetObject",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:PutBucketEncryption": "s3:PutEncryptionConfiguration",
    "s3:PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "s3:PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "sts:GetCallerIdentity": None,
}
# Actions that AWS asks for because of what a request holds: no call of their own.
IMPLIED = {
    "elasticmapreduce:AddTags": "RunJobFlow with Tags",
    "elasticmapreduce:PutAutoTerminationPolicy": "RunJobFlow with AutoTerminationPolicy",
    "elasticmapreduce:PutManagedScalingPolicy": "RunJobFlow with ManagedScalingPolicy",
    "glue:GetDatabase": "a query in Athena",
    "iam:PassRole": "RunJobFlow with roles",
    "redshift-serverless:GetCredentials": "a statement for a workgroup",
    "redshift:GetClusterCredentials": "a statement for a cluster, as another user",
    "redshift:GetClusterCredentialsWithIAM": "a statement for a cluster, as this user",
    "s3:AbortMultipartUpload": "the upload of a large file that fails",
    "s3:GetBucketLocation": "a query in Athena",
}
IMPLIED_BY_SET_UP = {
    "iam:TagInstanceProfile": "CreateInstanceProfile with Tags",
    "iam:TagRole": "CreateRole with Tags",
}
SERVICES = (
    *("athena", "emr", "s3", "iam", "ec2", "sts", "pricing", "glue"),
    *("redshift-data", "service-quotas"),
)
# Of clients that are not named for their service.
NAMES = {"data": "redshift-data", "quotas": "service-quotas"}
CODES = [1, 0, 0, 0, 1, 0, 1]  # of the tour: the network lacks its tag, a step fails, a cluster too
PATHS = ("--song-data", f"s3://{BUCKET}/song_data", "--log-data", f"s3://{BUCKET}/log_data")
JOB = ("--", *PATHS, "--output", f"s3://{BUCKET}/lake")


def action(operation):
    return ACTIONS.get(operation, operation)


def as_list(value):
    return value if isinstance(value, list) else [value]


def allowed(*policies):
    """The actions that the policies allow; without any, those of both."""
    statements = [one for policy in policies or (DAILY, SET_UP) for one in policy["Statement"]]
    return {name for statement in statements for name in as_list(statement["Action"])}


# What the code calls: every method of a client, by the name that the client has everywhere.


def modules(set_up):
    """The syntax trees of what runs on the laptop: of the set-up, or of all the rest."""
    paths = [*ROOT.glob("iac_*.py"), ROOT / "get_cluster_status.py", *ROOT.glob("aws/*.py")]
    chosen = [path for path in paths if (path.name in SET_UP_MODULES) == set_up]
    return [ast.parse(path.read_text()) for path in chosen]


def service_of(node):
    """The service of an expression such as emr, self.pricing, or session.client("sts")."""
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "client":
        return ast.literal_eval(node.args[0])
    name = getattr(node, "id", None) or getattr(node, "attr", None)
    service = NAMES.get(str(name), name)
    return service if service in SERVICES else None


def methods_called(tree):
    """(service, method) for each use of a client's method, paginators included."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and service_of(node.value)):
            continue
        yield service_of(node.value), node.attr
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "get_paginator":
            yield service_of(node.func.value), ast.literal_eval(node.args[0])


def actions_in_the_code(set_up):
    session = boto3.Session(region_name="us-west-2")
    clients = {name: session.client(name) for name in SERVICES}
    operations = {
        f"{PREFIX.get(service, service)}:{clients[service].meta.method_to_api_mapping[method]}"
        for tree in modules(set_up)
        for service, method in methods_called(tree)
        if method in clients[service].meta.method_to_api_mapping
    }
    return {action(operation) for operation in operations} - {None}


def test_the_policy_lacks_nothing_and_holds_nothing_superfluous():
    assert allowed(DAILY) == actions_in_the_code(set_up=False) | set(IMPLIED)


def test_the_policy_for_the_set_up_holds_what_that_needs_on_top():
    called = actions_in_the_code(set_up=True) - allowed(DAILY)
    assert allowed(SET_UP) == called | set(IMPLIED_BY_SET_UP)


@pytest.mark.parametrize("policy", [DAILY, SET_UP], ids=["daily", "set-up"])
def test_a_policy_can_be_attached_to_a_user(policy):
    assert len(json.dumps(policy, separators=(",", ":"))) <= 6144  # IAM's limit, without spaces


@pytest.mark.parametrize("policy", [DAILY, SET_UP], ids=["daily", "set-up"])
def test_a_policy_names_each_action_once_and_no_star(policy):
    names = [name for statement in policy["Statement"] for name in as_list(statement["Action"])]

    assert len(names) == len(set(names))
    assert not any("*" in name for name in names)


def test_only_clusters_with_the_projects_tag_can_be_made_used_and_ended():
    statements = {statement["Sid"]: statement for statement in DAILY["Statement"]}
    key, value = PROJECT_TAG

    assert statements["AskForTaggedClusters"]["Condition"] == {
        "StringEquals": {f"aws:RequestTag/{key}": value}
    }
    assert statements["UseAndEndTaggedClusters"]["Condition"] == {
        "StringEquals": {f"aws:ResourceTag/{key}": value}
    }


def test_the_policy_fits_the_names_of_the_shipped_dl_cfg():
    shipped = DL_CFG.read_text()

    assert "service_role = SparkifyEmr" in shipped
    assert "instance_profile = SparkifyEmr" in shipped


# What the scripts call when they run.


@pytest.fixture
def called(monkeypatch):
    """The operations that the scripts' clients send, as service:operation."""
    operations = set()

    def note(model, **_):
        service = model.service_model.service_name
        operations.add(f"{PREFIX.get(service, service)}:{model.name}")

    def make_noted(*arguments):
        session = make_session(*arguments)
        session.events.register("before-call", note)
        return session

    monkeypatch.setattr("aws.session.make_session", make_noted)
    return operations


def trust_another_region():
    """Let EMR's role be one that an earlier version has made in another region."""
    trust = json.dumps(build_service_trust("aws", "123456789012"))
    boto3.client("iam").update_assume_role_policy(
        RoleName="SparkifyEmrServiceRole",
        PolicyDocument=trust.replace("reduce:*", "reduce:eu-west-1"),
    )


def tour(run, account):
    """All four scripts, with success and with failures."""
    outcomes = [run(iac_create.main, "--create-bucket", "--create-roles")]
    trust_another_region()
    outcomes += [
        run(iac_create.main, "--create-roles", "--tag-network"),
        run(iac_submit_etl.main, *JOB),
        run(get_cluster_status.main),
    ]
    account.next_step = StepPlan(outcome="FAILED", logs={"steps/{step}/stderr.gz": "no reason"})
    outcomes += [
        run(iac_submit_etl.main, "--log-wait", "0", *JOB, "--recover"),
        run(iac_terminate.main, "--yes", "--unprotect"),
    ]
    account.next_cluster = ClusterPlan(
        failure="BOOTSTRAP_FAILURE", logs={"node/i-0a/bootstrap-actions/1/stderr.gz": "why"}
    )
    outcomes.append(run(iac_create.main))
    return outcomes


def test_what_the_scripts_really_send_is_allowed(run, emulator, called):
    outcomes = tour(run, emulator)

    outcomes.append(run(iac_terminate.main, "--everything", "--with-data", "--yes"))

    assert [outcome.code for outcome in outcomes] == [*CODES, 0], outcomes
    sent = {action(operation) for operation in called} - {None}
    assert sent <= allowed()
    # All but what only Ctrl-C asks for was really sent; the rest have tests of their own.
    rest = {
        name
        for name in allowed() - sent
        if not name.startswith(("athena:", "glue:", "redshift-data:"))
    }
    implied = {*IMPLIED, *IMPLIED_BY_SET_UP}
    assert rest - implied == {"elasticmapreduce:CancelSteps"}


def test_daily_use_needs_the_policy_for_daily_use_only(run, account, called):
    run(iac_create.main)  # makes the security configuration, once
    run(iac_terminate.main, "--yes")
    called.clear()

    outcomes = [
        run(iac_create.main),
        run(iac_submit_etl.main, *JOB),
        run(get_cluster_status.main),
        run(iac_terminate.main, "--yes"),
    ]

    assert [outcome.code for outcome in outcomes] == [0, 0, 0, 0], outcomes
    assert {action(operation) for operation in called} - {None} <= allowed(DAILY)


# Secrets.

SECRETS = ("canary+secret/of+keys.cfg+0123456789abcdef", "canary-token-of-keys.cfg", "canary-env")


def texts(account, session):
    """Everything that has left the laptop: requests, and the objects in S3, decompressed."""
    for request in account.requests:
        yield f"{request.method} {request.path}", str(request.headers), request.body
    s3 = session.client("s3")
    for bucket in s3.list_buckets()["Buckets"]:
        for entry in s3.list_objects_v2(Bucket=bucket["Name"]).get("Contents", []):
            body = s3.get_object(Bucket=bucket["Name"], Key=entry["Key"])["Body"].read()
            yield entry["Key"], "", gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body


@pytest.mark.parametrize("where", ["keys.cfg", "environment"])
def test_no_secret_leaves_the_process(run, emulator, tmp_path, monkeypatch, where):
    keys = tmp_path / "mine.cfg"
    if where == "keys.cfg":
        keys.write_text(
            f"[aws]\naccess_key_id = AKIA\nsecret_access_key = {SECRETS[0]}\n"
            f"session_token = {SECRETS[1]}\n"
        )
        keys.chmod(0o600)
        arguments = ("--keys", str(keys))
    else:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS[2])
        arguments = ()

    def run_with_keys(main, *more):
        return run(main, *arguments, *more)

    outcomes = tour(run_with_keys, emulator)

    assert [outcome.code for outcome in outcomes] == CODES, outcomes
    told = "".join(outcome.out + outcome.err for outcome in outcomes)
    assert not any(secret in told for secret in SECRETS)
    session = make_session(None, "us-west-2")
    left = list(texts(emulator, session))
    assert any("etl.py" in name for name, _, _ in left)  # the code was looked at as well
    for name, headers, body in left:
        for secret in SECRETS:
            # The token is sent with each request, as AWS wants it, and nowhere else.
            seen = headers if secret != SECRETS[1] else ""
            assert secret not in name + seen, name
            assert secret.encode() not in body, name


def test_the_search_does_find_a_secret_that_leaves(run, emulator, session):
    session.client("s3").create_bucket(
        Bucket="leak", CreateBucketConfiguration={"LocationConstraint": "us-west-2"}
    )
    session.client("s3").put_object(Bucket="leak", Key="k", Body=gzip.compress(b"canary-env"))

    assert any(b"canary-env" in body for _, _, body in texts(emulator, session))


def test_keys_cfg_is_opened_by_the_job_for_a_session_of_its_own_alone(monkeypatch):
    for path in {ROOT / "etl.py", *ROOT.glob("lake/*.py")} - {ROOT / "lake/laptop.py"}:
        text = Path(path).read_text()
        assert "keys.cfg" not in text
        assert "load_aws_keys" not in text
    # On a cluster spark-submit has made the session.
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    opened = mock.Mock(side_effect=AssertionError)
    monkeypatch.setattr(laptop, "load_aws_keys", opened)
    monkeypatch.setattr(laptop_session, "SparkSession", mock.MagicMock())
    monkeypatch.setattr(laptop_session, "set_tasks", mock.Mock())
    config = load_etl_config(flags={("etl", "output"): "s3://b/lake"}, environ={})
    laptop_session.create_session(config)
    opened.assert_not_called()
