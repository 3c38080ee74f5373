"""iac_create.py against the emulated account: what it makes, refuses, waits for and says."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError

import iac_create
from aws.account import trusts_region
from aws.console import Progress
from aws.create import NEW_ROLE_TRIES
from aws.locations import locate_without_aws
from aws.logs import choose_bootstrap_log
from aws.prices import PriceList, extract_price
from aws.quota import count_vcpus
from aws.refusals import find_cure
from aws.requests import MANAGED_TAG, build_cluster_request
from aws.session import make_once_client
from configs import DL_CFG, load_emr_config, load_etl_config
from tests.aws_fixtures import *  # noqa: F403 (fixtures)
from tests.aws_fixtures import BUCKET, REGION
from tests.emr_emulator import ClusterPlan

SCRIPT = Path(iac_create.__file__)
PRICE = (
    "price per hour: at most $0.72 for 3 nodes, EC2 and EMR, without disks and traffic;"
    " after 60 idle minutes, which cost at most $0.72, the cluster ends itself\n"
)


@pytest.fixture
def create(run):
    def run_create(*arguments):
        return run(iac_create.main, *arguments)

    return run_create


def only_cluster(emulator):
    (cluster,) = emulator.clusters.values()
    return cluster


# Finding and creating.


def test_a_new_cluster_is_asked_for_waited_for_and_its_id_is_the_result(account, create):
    outcome = create()

    cluster = only_cluster(account)
    assert (outcome.code, outcome.out) == (0, f"{cluster.id}\n")
    assert re.sub(r"\d+ s\n", "0 s\n", outcome.err) == (
        "created security configuration sparkify-imdsv2\n"
        + PRICE
        + f"asked for sparkify: {cluster.id}\n"
        f"{cluster.id}: STARTING 0 s\n{cluster.id}: BOOTSTRAPPING 0 s\n{cluster.id}: WAITING 0 s\n"
    )


def test_what_is_asked_for_is_the_request_that_dry_run_prints(account, create, config):
    create()

    located, _ = locate_without_aws(load_emr_config(config), load_etl_config(config))
    expected = build_cluster_request(located)
    assert only_cluster(account).request == expected
    assert json.loads(create("--dry-run").out) == expected


def test_nodes_answer_metadata_requests_by_imdsv2_only(account, create):
    create()

    assert json.loads(account.security_configurations["sparkify-imdsv2"]) == {
        "InstanceMetadataServiceConfiguration": {
            "MinimumInstanceMetadataServiceVersion": 2,
            "HttpPutResponseHopLimit": 1,
        }
    }
    assert only_cluster(account).request["SecurityConfiguration"] == "sparkify-imdsv2"


def test_an_existing_security_configuration_is_taken_as_it_is(account, create):
    account.security_configurations["sparkify-imdsv2"] = "{}"

    outcome = create()

    assert "created security configuration" not in outcome.err
    assert account.security_configurations == {"sparkify-imdsv2": "{}"}


def test_the_cluster_that_is_there_is_found_and_no_second_one_asked_for(account, create):
    first = create().out

    outcome = create()

    assert (outcome.code, outcome.out) == (0, first)
    assert outcome.err.startswith(f"found sparkify: {first.strip()}, WAITING\n")
    assert account.operations().count("RunJobFlow") == 1


def test_a_cluster_that_still_starts_is_found_and_waited_for(account, create):
    account.next_cluster = ClusterPlan(starting=9)
    create("--no-wait")

    outcome = create()

    assert outcome.code == 0
    assert "WAITING" in outcome.err
    assert len(account.clusters) == 1


def test_a_cluster_on_a_later_page_is_found(account, create, monkeypatch):
    monkeypatch.setattr("tests.emr_emulator.PAGE", 2)
    for number in range(3):
        create("--no-wait", "--cluster-name", f"other-{number}")
    wanted = create("--no-wait").out

    assert create("--no-wait").out == wanted
    assert len(account.clusters) == 4


def test_a_cluster_of_the_name_without_the_projects_tag_is_ignored(account, create):
    create("--no-wait")
    only_cluster(account).request["Tags"] = []

    create("--no-wait")

    assert len(account.clusters) == 2


def test_an_ended_or_ending_cluster_is_not_taken(account, create, session):
    create()
    session.client("emr").terminate_job_flows(JobFlowIds=list(account.clusters))

    create("--no-wait")

    assert len(account.clusters) == 2


def test_two_clusters_are_an_error_that_lists_them(account, create):
    create()
    request = only_cluster(account).request
    request["Name"] = "hidden"
    create()
    request["Name"] = "sparkify"

    outcome = create()

    ids = ", ".join(account.clusters)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == (
        f"iac_create.py: error: 2 active clusters are named sparkify: {ids};"
        " end all but one with iac_terminate.py --cluster-id\n"
    )


def test_no_wait_asks_and_does_not_look_again(account, create):
    outcome = create("--no-wait")

    assert outcome.code == 0
    assert "STARTING" not in outcome.err
    assert account.operations()[-1] == "RunJobFlow"


def test_a_cluster_in_another_region_is_another_cluster(account, create, session):
    create()

    outcome = create("--region", "eu-west-1", "--no-wait")

    assert outcome.code == 1
    assert f"bucket {BUCKET} is in us-west-2, not in eu-west-1: use a bucket there" in outcome.err


# Dry run and flags.


def test_dry_run_needs_no_credentials_and_asks_nothing(emulator, create, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    outcome = create("--dry-run", "--create-bucket", "--create-roles")

    assert (outcome.code, outcome.err) == (0, "")
    assert json.loads(outcome.out)["Name"] == "sparkify"
    assert emulator.requests == []


def test_every_setting_of_the_cluster_has_a_flag_that_beats_dl_cfg(create):
    request = json.loads(create("--dry-run", "--core-count", "7", "--key-pair", "mine").out)

    assert request["Instances"]["InstanceFleets"][1]["TargetOnDemandCapacity"] == 7
    assert request["Instances"]["Ec2KeyName"] == "mine"
    help_text = create("--help").out
    for name in iac_create.SETTINGS:
        assert f"--{name.replace('_', '-')} VALUE" in help_text


def test_a_wrong_setting_is_a_usage_error(create):
    outcome = create("--idle-minutes", "0", "--dry-run")

    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        "iac_create.py: error: the flag for [emr] idle_minutes = '0': expected whole minutes"
        " from 1 to 10080 (a week)\n"
    )


def test_a_dry_run_of_the_shipped_dl_cfg_needs_no_credentials(create, emulator, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)

    outcome = create("--dry-run", "--config", str(DL_CFG))

    bucket = "sparkify-123456789012-us-west-2"
    assert outcome.code == 0
    assert json.loads(outcome.out)["LogUri"] == f"s3://{bucket}/logs/"
    assert outcome.err == f"dry run: bucket {bucket} stands for sparkify-<account>-<region>\n"
    assert not emulator.requests


def test_an_unknown_flag_is_a_usage_error(create):
    assert create("--idle", "--no-such-flag").code == 2


def test_a_reader_that_has_seen_enough_is_no_error(config):
    script = f"'{sys.executable}' '{SCRIPT}' --dry-run --config '{config}'"
    types = ",".join(f"m5.{number}xlarge" for number in range(2000))  # more than a pipe holds
    command = f"{script} --core-types {types} | head -n 1"

    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")


# What stands in the way.


def test_for_an_empty_account_one_line_names_all_that_is_missing(emulator, create):
    outcome = create()

    assert outcome.code == 1
    assert outcome.err == (
        f"iac_create.py: error: there is no bucket {BUCKET}: add --set-up, or correct"
        " dl.cfg; there is no role SparkifyEmrServiceRole: add --set-up,"
        " or name another as service_role in [emr];"
        " instance profile SparkifyEmrNodeRole does not exist: add --set-up,"
        " or name another as instance_profile in [emr]\n"
    )
    assert "RunJobFlow" not in emulator.operations()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            ["--release-label", "emr-7.31.0"],
            "there is no release emr-7.31.0 in us-west-2; did you mean emr-7.13.0?"
            " (release_label in [emr])",
        ),
        (["--release-label", "9"], "there is no release 9 in us-west-2 (release_label in [emr])"),
        (
            ["--master-types", "m5.xlrge"],
            "emr-7.13.0 has no instance type m5.xlrge in us-west-2; did you mean m5.xlarge?"
            " (master_types in [emr])",
        ),
        (
            ["--core-types", "m5.xlarge, p9"],
            "emr-7.13.0 has no instance type p9 in us-west-2 (core_types in [emr])",
        ),
        (
            ["--task-types", "p9"],
            "emr-7.13.0 has no instance type p9 in us-west-2 (task_types in [emr])",
        ),
        (
            ["--log-uri", "s3://no-such-bucket"],
            "there is no bucket no-such-bucket: add --set-up, or correct dl.cfg",
        ),
        (
            ["--release-label", "emr-6.15.0"],
            "release emr-6.15.0 reads and writes S3 in a way that this job was not made for;"
            " choose emr-7.10.0 or a later one (release_label in [emr])",
        ),
        (
            ["--service-role", "nobody"],
            "there is no role nobody: add --set-up, or name another as service_role in [emr]",
        ),
        (
            ["--instance-profile", "nobody"],
            "instance profile nobody does not exist: add --set-up,"
            " or name another as instance_profile in [emr]",
        ),
        (
            ["--subnet-ids", "subnet-0000000000000bad0"],
            "The subnet ID 'subnet-0000000000000bad0' does not exist in us-west-2"
            " (subnet_ids in [emr])",
        ),
    ],
)
def test_what_does_not_exist_is_reported_with_the_setting_to_correct(account, create, flags, told):
    outcome = create(*flags)

    assert (outcome.code, outcome.err) == (1, f"iac_create.py: error: {told}\n")
    assert "RunJobFlow" not in account.operations()


def test_a_bucket_of_someone_else_is_distinguished_from_a_missing_one(account, create):
    account.refuse("s3", "AccessDenied", operation=f"HEAD /{BUCKET}", status=403)

    outcome = create()

    assert (outcome.code, outcome.err) == (
        1,
        f"iac_create.py: error: bucket {BUCKET} belongs to someone else: choose another name in"
        " dl.cfg\n",
    )


def test_the_bucket_of_the_lake_is_checked_as_well(account, create, config):
    config.write_text(config.read_text().replace("output = output", "output = s3://no-lake/out"))

    assert "there is no bucket no-lake: add --set-up" in create().err


def test_an_instance_profile_without_a_role_is_reported(account, create, session):
    session.client("iam").create_instance_profile(InstanceProfileName="empty")

    outcome = create("--instance-profile", "empty")

    assert outcome.code == 1
    assert "instance profile empty holds no role: add --set-up" in outcome.err


def untag_network(session):
    ec2 = session.client("ec2")
    ids = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]]
    vpcs = [vpc["VpcId"] for vpc in ec2.describe_vpcs()["Vpcs"]]
    ec2.delete_tags(Resources=[*ids, *vpcs], Tags=[{"Key": MANAGED_TAG}])
    return ids, vpcs


def test_a_network_without_the_tag_of_emrs_policy_is_reported_and_tagged_on_request(
    account, create, session
):
    ids, vpcs = untag_network(session)

    outcome = create("--subnet-ids", ids[0])
    assert (outcome.code, outcome.err) == (
        1,
        "iac_create.py: error: the policy of SparkifyEmrServiceRole allows only networks with the"
        " tag for-use-with-amazon-emr-managed-policies = true, and"
        f" {ids[0]}, {vpcs[0]} lack it: add --set-up\n",
    )

    outcome = create("--subnet-ids", ids[0], "--tag-network", "--no-wait")
    assert outcome.code == 0
    assert outcome.err.startswith(f"tagged {ids[0]}, {vpcs[0]}\n")
    assert only_cluster(account).request["Instances"]["Ec2SubnetIds"] == [ids[0]]


def test_a_service_role_with_a_policy_of_its_own_needs_no_tagged_network(account, create, session):
    untag_network(session)
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    session.client("iam").create_role(RoleName="own", AssumeRolePolicyDocument=trust)

    assert create("--service-role", "own", "--no-wait").code == 0


def test_a_region_without_default_vpc_asks_for_a_subnet(account, create, session):
    ec2 = session.client("ec2")
    for subnet in ec2.describe_subnets()["Subnets"]:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])

    outcome = create()

    assert (outcome.code, outcome.err) == (
        1,
        "iac_create.py: error: us-west-2 has no default VPC:"
        " name a subnet as subnet_ids in [emr]\n",
    )


# What is made on request.


def test_one_command_makes_the_cluster_in_an_empty_account(emulator, create):
    outcome = create("--create-bucket", "--create-roles", "--tag-network")

    assert (outcome.code, outcome.out) == (0, f"{only_cluster(emulator).id}\n")
    assert outcome.err.startswith(
        f"created bucket {BUCKET}\ncreated role SparkifyEmrServiceRole\n"
        "created role SparkifyEmrNodeRole\n"
        "created instance profile SparkifyEmrNodeRole\n"
        "created role AWSServiceRoleForEMRCleanup\ntagged subnet-"
    )


def test_a_made_bucket_is_private_encrypted_and_drops_unfinished_uploads(emulator, create, session):
    create("--create-bucket")

    s3 = session.client("s3")
    access = s3.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"]
    assert access == {
        "BlockPublicAcls": True,
        "IgnorePublicAcls": True,
        "BlockPublicPolicy": True,
        "RestrictPublicBuckets": True,
    }
    rules = s3.get_bucket_encryption(Bucket=BUCKET)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rules[0]["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    (rule,) = s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    assert rule["Status"] == "Enabled"
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert s3.head_bucket(Bucket=BUCKET)["BucketRegion"] == REGION


def test_a_bucket_in_us_east_1_is_made_without_a_location(emulator, create, session):
    create("--create-bucket", "--region", "us-east-1")

    assert session.client("s3").head_bucket(Bucket=BUCKET)["BucketRegion"] == "us-east-1"


def test_a_bucket_that_is_there_is_left_alone(account, create, session):
    session.client("s3").put_object(Bucket=BUCKET, Key="mine", Body=b"1")

    outcome = create("--create-bucket", "--no-wait")

    assert "created bucket" not in outcome.err
    assert session.client("s3").list_objects_v2(Bucket=BUCKET)["KeyCount"] == 1


def test_made_roles_have_emrs_current_policy_and_the_least_rights(emulator, create, session):
    create("--create-bucket", "--create-roles", "--tag-network", "--no-wait")

    iam = session.client("iam")
    attached = iam.list_attached_role_policies(RoleName="SparkifyEmrServiceRole")
    assert [policy["PolicyArn"] for policy in attached["AttachedPolicies"]] == [
        "arn:aws:iam::aws:policy/service-role/AmazonEMRServicePolicy_v2"
    ]
    nodes = "SparkifyEmrNodeRole"
    assert iam.list_attached_role_policies(RoleName=nodes)["AttachedPolicies"] == []
    policy = iam.get_role_policy(RoleName=nodes, PolicyName="sparkify-us-west-2")["PolicyDocument"]
    assert f"arn:aws:s3:::{BUCKET}/code/*" in json.dumps(policy)
    trust = iam.get_role(RoleName="SparkifyEmrServiceRole")["Role"]["AssumeRolePolicyDocument"]
    assert trust["Statement"][0]["Condition"]["StringEquals"] == {
        "aws:SourceAccount": "123456789012"
    }
    profile = iam.get_instance_profile(InstanceProfileName=nodes)["InstanceProfile"]
    assert [role["RoleName"] for role in profile["Roles"]] == [nodes]


def test_roles_that_are_there_are_brought_up_to_date(account, create, session, config):
    config.write_text(config.read_text().replace("output = output", f"output = s3://{BUCKET}/lake"))

    outcome = create("--create-roles", "--no-wait")

    assert "created role" not in outcome.err
    policy = session.client("iam").get_role_policy(
        RoleName="SparkifyEmrNodeRole", PolicyName="sparkify-us-west-2"
    )
    assert f"arn:aws:s3:::{BUCKET}/lake/*" in json.dumps(policy["PolicyDocument"])


def test_a_role_that_iam_does_not_show_yet_is_asked_for_again(account, create):
    account.refuse(
        "elasticmapreduce",
        "ValidationException",
        "Invalid InstanceProfile: SparkifyEmrNodeRole.",
        operation="RunJobFlow",
        times=3,
    )

    outcome = create("--create-roles", "--no-wait")

    assert outcome.code == 0
    assert outcome.err.count("EMR does not see the new roles yet: asking again") == 3
    assert len(account.clusters) == 1


@pytest.mark.parametrize(
    ("flags", "message", "tries"),
    [
        ([], "Invalid InstanceProfile: x.", 1),
        (["--create-roles"], "Invalid InstanceProfile: x.", NEW_ROLE_TRIES),
        (["--create-roles"], "The cluster is too large.", 1),
    ],
)
def test_what_waiting_does_not_fix_is_reported(account, create, flags, message, tries):
    account.refuse(
        "elasticmapreduce", "ValidationException", message, operation="RunJobFlow", times=99
    )

    outcome = create(*flags)

    assert outcome.code == 1
    assert outcome.last_line == (
        f"iac_create.py: error: AWS refused RunJobFlow: {message} (ValidationException)"
    )
    assert account.operations().count("RunJobFlow") == tries


# An account that is not empty.

SET_UP = ("--create-bucket", "--create-roles", "--tag-network")


def test_a_new_instance_profile_is_waited_for_in_both_ways_in_which_emr_refuses_it(
    emulator, create
):
    emulator.fresh_refusals = 4

    outcome = create(*SET_UP)

    assert (outcome.code, outcome.out) == (0, f"{only_cluster(emulator).id}\n")
    assert "waiting until EMR sees the new roles\n" in outcome.err
    assert outcome.err.count("EMR does not see the new roles yet: asking again\n") == 4


def test_with_new_roles_a_cluster_that_emr_ends_for_them_is_tried_once_more(emulator, create):
    emulator.fresh_failures = 1

    outcome = create(*SET_UP, "--no-wait")

    first, second = emulator.clusters
    assert (outcome.code, outcome.out) == (0, f"{second}\n")
    assert (
        f"EMR has ended {first}, because it did not see the new roles yet: trying once more\n"
        in outcome.err
    )


def test_there_is_no_third_try(emulator, create):
    emulator.fresh_failures = 9

    outcome = create(*SET_UP)

    assert outcome.code == 1
    assert len(emulator.clusters) == 2
    assert "insufficient EC2 permissions; EMR's policy allows only" in outcome.last_line


def test_without_new_roles_nothing_is_waited_for_and_nothing_tried_again(account, create):
    account.failures_left = 1

    outcome = create("--create-roles")

    assert outcome.code == 1
    assert "roles SparkifyEmrServiceRole and SparkifyEmrNodeRole are up to date" in outcome.err
    assert len(account.clusters) == 1
    assert "waiting until EMR sees" not in outcome.err


def test_a_cluster_that_fails_for_another_reason_is_not_tried_again(emulator, create):
    emulator.vcpu_quota = 64
    emulator.next_cluster = ClusterPlan(failure="VALIDATION_ERROR", message="no free addresses")

    assert create(*SET_UP).code == 1
    assert len(emulator.clusters) == 1


def test_a_permission_that_is_missing_is_not_taken_for_a_new_profile(account, create):
    message = "not authorized to perform: iam:PassRole on role/SparkifyEmrNodeRole"
    account.refuse(
        "elasticmapreduce", "AccessDeniedException", message, operation="RunJobFlow", times=99
    )

    outcome = create("--create-roles")

    assert f"not allowed to RunJobFlow: {message}" in outcome.last_line
    assert account.operations().count("RunJobFlow") == 1


def test_a_profile_that_somebody_has_just_made_is_said_to_need_a_minute(account, create):
    message = "Failed to authorize instance profile SparkifyEmrNodeRole"
    account.refuse("elasticmapreduce", "AccessDeniedException", message, operation="RunJobFlow")

    assert create().last_line == (
        f"iac_create.py: error: {message}: if it is new, run the same command again in a minute"
    )


def test_the_set_up_flags_work_while_a_cluster_is_there(account, create, config, session):
    cluster_id = create().out
    config.write_text(config.read_text().replace("output = output", "output = s3://new-lake/lake"))
    untag_network(session)

    outcome = create(*SET_UP)

    assert (outcome.code, outcome.out) == (0, cluster_id)
    assert outcome.err.startswith(
        "created bucket new-lake\n"
        "roles SparkifyEmrServiceRole and SparkifyEmrNodeRole are up to date\ntagged subnet-"
    )
    policy = session.client("iam").get_role_policy(
        RoleName="SparkifyEmrNodeRole", PolicyName="sparkify-us-west-2"
    )
    assert "arn:aws:s3:::new-lake/lake/*" in json.dumps(policy["PolicyDocument"])


ELSEWHERE = ("--region", "eu-central-1", "--bucket", "eu-bucket")


def test_a_second_region_needs_the_flags_and_leaves_the_first_lake_writable(
    account, create, session
):
    outcome = create(*SET_UP, *ELSEWHERE)

    assert outcome.code == 0, outcome.err
    iam = session.client("iam")
    names = iam.list_role_policies(RoleName="SparkifyEmrNodeRole")["PolicyNames"]
    assert names == ["sparkify-us-west-2", "sparkify-eu-central-1"]


def trust_only(session, region):
    """Let EMR's role be as an earlier version of the scripts made it."""
    iam = session.client("iam")
    role = iam.get_role(RoleName="SparkifyEmrServiceRole")["Role"]
    trust = json.dumps(role["AssumeRolePolicyDocument"]).replace("reduce:*", f"reduce:{region}")
    iam.update_assume_role_policy(RoleName="SparkifyEmrServiceRole", PolicyDocument=trust)


def test_a_role_that_trusts_emr_in_another_region_only_is_reported_and_brought_up_to_date(
    account, create, session
):
    trust_only(session, "eu-west-1")

    outcome = create()
    assert (outcome.code, outcome.err) == (
        1,
        "iac_create.py: error: EMR may not assume SparkifyEmrServiceRole in us-west-2: its trust"
        " policy names another region: add --set-up, which brings it up to date\n",
    )

    outcome = create("--create-roles")
    assert outcome.code == 0
    assert "role SparkifyEmrServiceRole can now be used in every region\n" in outcome.err


def test_a_role_of_the_users_own_keeps_its_trust_policy(account, create, session):
    iam = session.client("iam")
    trust = iam.get_role(RoleName="SparkifyEmrServiceRole")["Role"]["AssumeRolePolicyDocument"]
    trust["Statement"][0]["Sid"] = "Mine"
    iam.create_role(RoleName="mine", AssumeRolePolicyDocument=json.dumps(trust))

    assert create("--create-roles", "--service-role", "mine").code == 0

    assert iam.get_role(RoleName="mine")["Role"]["AssumeRolePolicyDocument"] == trust


@pytest.mark.parametrize(
    ("source", "trusted"),
    [
        ("arn:aws:elasticmapreduce:us-west-2:1:*", True),
        ("arn:aws:elasticmapreduce:us-*:1:*", True),
        (["arn:aws:elasticmapreduce:eu-west-1:1:*", "arn:aws:elasticmapreduce:*:1:*"], True),
        ("*", True),
        ([], True),
        ("arn:aws:elasticmapreduce:eu-west-1:1:*", False),
    ],
)
def test_which_trust_policies_admit_emr_in_a_region(source, trusted):
    statement = {"Condition": {"ArnLike": {"aws:SourceArn": source}}}

    assert trusts_region({"Statement": [statement]}, "us-west-2") is trusted
    assert trusts_region({"Statement": statement}, "us-west-2") is trusted


def test_an_empty_trust_policy_names_no_region():
    assert trusts_region({}, "us-west-2")


def test_security_groups_that_an_older_emr_has_left_are_reported_and_tagged(
    account, create, session
):
    ec2 = session.client("ec2")
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    names = ("ElasticMapReduce-master", "ElasticMapReduce-slave")
    made = [
        ec2.create_security_group(GroupName=name, Description="old", VpcId=vpc) for name in names
    ]
    ids = ", ".join(group["GroupId"] for group in made)

    outcome = create()
    assert (outcome.code, len(account.clusters)) == (1, 0)
    assert f"managed-policies = true, and {ids} lack it: add --set-up" in outcome.err

    outcome = create("--tag-network")
    assert (outcome.code, outcome.err.partition("\n")[0]) == (0, f"tagged {ids}")


@pytest.mark.parametrize(
    ("quota", "more"), [(5, ""), (11, ", or set core_count = 1 (8 vCPUs)"), (12, None)]
)
def test_the_vcpu_quota_is_asked_for_before_the_cluster_is(account, create, quota, more):
    account.vcpu_quota = quota

    outcome = create("--no-wait")

    assert len(account.clusters) == (more is None)
    if more is not None:
        assert outcome.last_line == (
            f"iac_create.py: error: the cluster needs 12 vCPUs, and this account may run {quota} in"
            " us-west-2: ask AWS for more at https://us-west-2.console.aws.amazon.com/servicequotas/"
            f"home/services/ec2/quotas/L-1216C47A{more}"
        )


def test_a_quota_that_may_not_be_asked_for_is_no_reason_to_stop(account, create):
    account.refuse("servicequotas", "AccessDeniedException", "no")

    assert create("--no-wait").code == 0


def test_only_on_demand_nodes_of_the_standard_families_count_for_the_quota():
    config = dataclasses.replace(
        load_emr_config(DL_CFG, environ={}),
        core_types=("m5.2xlarge", "m5.xlarge"),
        task_types=("p3.2xlarge",),
        task_count=3,
    )
    vcpus = {"m5.xlarge": 4, "m5.2xlarge": 8, "p3.2xlarge": 8}

    assert count_vcpus(config, vcpus) == 4 + 2 * 4
    assert count_vcpus(dataclasses.replace(config, spot=("core",)), vcpus) == 4


def test_spot_nodes_get_the_role_that_ec2_wants_for_them(account, create):
    spot = ("--task-count", "1", "--spot", "task")
    assert create(*spot).last_line == (
        "iac_create.py: error: there is no role AWSServiceRoleForEC2Spot, which spot nodes need:"
        " add --set-up"
    )

    outcome = create(*spot, "--create-roles")

    assert outcome.code == 0
    assert outcome.err.startswith("created role AWSServiceRoleForEC2Spot\n")


REASONS = [
    ("Service role arn:aws:iam::1:role/x has insufficient EC2 permissions", "--set-up"),
    ("EMR service role arn:aws:iam::1:role/x is invalid", "--set-up"),
    ("The requested instance profile is not associated with a role", "--set-up"),
    ("more vCPU capacity than your current vCPU limit of 5 allows", "set core_count = 1"),
    ("The type is not supported in the requested availability zone.", "a subnet in another zone"),
    ("Amazon EC2 has insufficient capacity for instance type m5.xlarge", "several types"),
    ("security group sg-1 violates Block Public Access", "remove its rules for 0.0.0.0/0"),
    ("no permission to create the service-linked role for EC2 Spot Instances.", "spot set"),
    ("Service-linked role 'AWSServiceRoleForEMRCleanup' is required", "--set-up"),
    ("The subnet subnet-1 does not have enough free addresses", "a subnet with free addresses"),
    ("Cannot find route to InternetGateway in main RouteTable", "a route to the internet"),
    ("The specified key pair does not exist", "a key pair of this region"),
]


@pytest.mark.parametrize(("reason", "cure"), REASONS)
def test_each_known_reason_not_to_start_has_its_cure(account, create, reason, cure):
    account.next_cluster = ClusterPlan(failure="VALIDATION_ERROR", message=reason)

    line = create().last_line

    assert f"VALIDATION_ERROR: {reason}; " in line
    assert cure in line.partition(reason)[2]


def test_an_end_that_the_user_asked_for_needs_no_cure():
    assert find_cure("USER_REQUEST: Terminated by user request of a quota role") == ""


# The price.


def test_prices_are_taken_from_dl_cfg_where_awss_list_may_not_be_asked(account, create, config):
    account.refuse("pricing", "AccessDeniedException", "no", times=99)
    text = config.read_text().replace("m5.xlarge = 0.24", "m5.xlarge = 0.5", 1)
    config.write_text(text)

    assert "price per hour: at most $1.50 for 3 nodes" in create("--no-wait").err


def test_the_default_clusters_price_is_known_without_awss_list(account, create):
    account.refuse("pricing", "AccessDeniedException", "no", times=99)

    assert "price per hour: at most $0.72 for 3 nodes" in create("--no-wait").err


def test_a_price_that_nobody_names_is_unknown_and_no_reason_to_stop(account, create):
    account.refuse("pricing", "AccessDeniedException", "no", times=99)

    outcome = create("--no-wait", "--core-types", "r5.xlarge")

    assert outcome.code == 0
    assert "price per hour: unknown; add r5.xlarge to [prices] in dl.cfg\n" in outcome.err


def test_the_price_is_that_of_the_most_expensive_types_and_of_the_most_nodes(account, create):
    outcome = create(
        *("--no-wait", "--core-types", "m5a.xlarge, m5.2xlarge", "--core-count", "2"),
        *("--scaling-minimum", "1", "--scaling-maximum", "4", "--idle-minutes", "30"),
    )

    # one m5.xlarge and four m5.2xlarge: 0.24 + 4 * 0.48
    assert "at most $2.16 for 5 nodes" in outcome.err
    assert "after 30 idle minutes, which cost at most $1.08" in outcome.err


def product(price, unit="Hrs", kind="OnDemand"):
    dimension = {"unit": unit, "pricePerUnit": {"USD": price}}
    return {"terms": {kind: {"a": {"priceDimensions": {"b": dimension}}}}}


@pytest.mark.parametrize(
    ("products", "price"),
    [
        ([], None),
        ([product("0.192")], 0.192),
        ([product("0.0000000000"), product("0.192")], 0.192),
        ([product("0.192"), product("0.192")], 0.192),
        ([product("0.192"), product("0.2")], None),
        ([product("5", unit="Quantity"), product("0.192")], 0.192),
        ([product("0.1", kind="Reserved")], None),
    ],
)
def test_a_price_is_taken_only_where_the_list_names_exactly_one(products, price):
    assert extract_price(products) == price


def test_each_type_is_priced_once_and_asked_for_by_region(account, session):
    price_list = PriceList(session, {})

    assert [price_list.of("m5.xlarge") for _ in range(3)] == [pytest.approx(0.24)] * 3
    asked = [json.loads(request.body) for request in account.requests]
    assert [body["ServiceCode"] for body in asked] == ["AmazonEC2", "ElasticMapReduce"]
    for body in asked:
        fields = {entry["Field"]: entry["Value"] for entry in body["Filters"]}
        assert (fields["instanceType"], fields["regionCode"]) == ("m5.xlarge", REGION)


def test_where_the_list_may_not_be_asked_it_is_not_asked_again(account, session):
    account.refuse("pricing", "AccessDeniedException", "no", times=99)
    price_list = PriceList(session, {"m5.2xlarge": 0.5})

    assert [price_list.of("m5.xlarge"), price_list.of("m5.2xlarge")] == [None, 0.5]
    assert account.operations("pricing") == ["GetProducts"]


# Waiting, and what goes wrong.


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("VALIDATION_ERROR", "The unknown has happened"),
        ("INTERNAL_ERROR", "Failed to start the job flow due to an internal error"),
    ],
)
def test_a_cluster_that_does_not_start_is_reported_with_emrs_reason(
    account, create, failure, message
):
    account.next_cluster = ClusterPlan(failure=failure, message=message)

    outcome = create()

    cluster = only_cluster(account)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.last_line == (
        f"iac_create.py: error: cluster {cluster.id} did not start: TERMINATING,"
        f" {failure}: {message}"
    )


BOOTSTRAP = ClusterPlan(
    failure="BOOTSTRAP_FAILURE",
    message="On the master instance (i-0b), bootstrap action 1 returned a non-zero return code",
    logs={
        "node/i-0a/bootstrap-actions/1/stderr.gz": "of another node\n",
        "node/i-0b/bootstrap-actions/1/controller.gz": "not this one\n",
        "node/i-0b/bootstrap-actions/1/stderr.gz": "".join(
            f"line {number}\n" for number in range(30)
        ),
    },
)


def test_a_bootstrap_failure_shows_the_end_of_the_failing_nodes_log(account, create):
    account.next_cluster = BOOTSTRAP

    outcome = create()

    cluster = only_cluster(account)
    shown = outcome.err.splitlines()
    uri = f"s3://{BUCKET}/logs/{cluster.id}/node/i-0b/bootstrap-actions/1/stderr.gz"
    assert shown[-22] == f"end of {uri}:"
    assert shown[-21:-1] == [f"line {number}" for number in range(10, 30)]
    assert "did not start: TERMINATING, BOOTSTRAP_FAILURE: On the master instance" in shown[-1]
    assert outcome.code == 1


def test_a_bootstrap_log_that_never_comes_does_not_hide_the_reason(account, create, monkeypatch):
    monkeypatch.setattr("aws.logs.BOOTSTRAP_SECONDS", 0)
    account.next_cluster = dataclasses.replace(BOOTSTRAP, logs={})

    outcome = create()

    cluster = only_cluster(account)
    folder = f"s3://{BUCKET}/logs/{cluster.id}/node/"
    assert f"no log of the node under {folder}: gave up waiting after 0 s" in outcome.err
    assert "BOOTSTRAP_FAILURE" in outcome.last_line


def test_a_bootstrap_log_that_may_not_be_read_does_not_hide_the_reason(account, create):
    account.next_cluster = BOOTSTRAP
    account.refuse("s3", "AccessDenied", "no", operation=f"GET /{BUCKET}", status=403, times=9)

    outcome = create()

    assert "no log of the node under s3://" in outcome.err
    assert (
        "not allowed to ListObjectsV2: no; aws/iam-policy.json lists what you need" in outcome.err
    )
    assert "BOOTSTRAP_FAILURE" in outcome.last_line


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        ([], None),
        (["j/node/i-0b/daemons/x/stderr.gz"], None),
        (["j/node/i-0a/bootstrap-actions/1/stderr"], "j/node/i-0a/bootstrap-actions/1/stderr"),
        (
            [
                "j/node/i-0a/bootstrap-actions/1/stderr.gz",
                "j/node/i-0b/provision-node/apps-phase/0/x/stderr.gz",
            ],
            "j/node/i-0b/provision-node/apps-phase/0/x/stderr.gz",
        ),
    ],
)
def test_the_log_of_the_node_that_failed_is_preferred(keys, chosen):
    assert choose_bootstrap_log(keys, "On the master instance (i-0b), x") == chosen


def test_waiting_ends_with_the_timeout_and_the_cluster_goes_on(account, create):
    account.next_cluster = ClusterPlan(starting=10**9)

    outcome = create("--timeout-minutes", "0")

    assert outcome.code == 1
    assert outcome.last_line == (
        "iac_create.py: error: gave up waiting after 0 s; it goes on: see get_cluster_status.py;"
        " it can still start, and cost: iac_terminate.py ends it"
    )
    assert only_cluster(account).state == "STARTING"


def test_ctrl_c_stops_the_script_and_not_the_cluster(account, create, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "show", interrupt)

    outcome = create()

    assert outcome.code == 130
    assert outcome.last_line == (
        "iac_create.py: stopped; what was begun on AWS goes on: see get_cluster_status.py"
    )
    assert only_cluster(account).state == "STARTING"


# Asking once.


def test_run_job_flow_is_retried_only_where_aws_throttles(account, create, monkeypatch):
    monkeypatch.setattr("aws.session.LONGEST_PAUSE", 0.0)
    account.throttle("RunJobFlow", 2)

    outcome = create("--no-wait")

    assert outcome.code == 0
    assert (
        outcome.err.count("warning: AWS throttles requests (RunJobFlow: ThrottlingException)") == 2
    )
    assert len(account.clusters) == 1


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (
            ReadTimeoutError(endpoint_url="https://x"),
            'AWS gave no answer (Read timeout on endpoint URL: "https://x"), so the request may'
            " have been carried out or not: run the same command again, it first looks for what"
            " exists",
        ),
        (
            EndpointConnectionError(endpoint_url="https://x"),
            'AWS cannot be reached: Could not connect to the endpoint URL: "https://x";'
            " check the region in dl.cfg and your network",
        ),
    ],
)
def test_without_an_answer_nothing_is_sent_twice(account, create, monkeypatch, failure, told):
    once = make_once_client
    sent = []

    def make_broken(session):
        emr = once(session)
        emr.meta.events.register("before-send.emr.RunJobFlow", fail)
        return emr

    def fail(request, **_):
        sent.append(request)
        raise failure

    monkeypatch.setattr("aws.create.make_once_client", make_broken)

    outcome = create()

    assert (outcome.code, outcome.last_line) == (1, f"iac_create.py: error: {told}")
    assert len(sent) == 1
