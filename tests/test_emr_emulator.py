"""The emulator does what it says: lifecycles, refusals, late logs, and EMR's own shapes."""

from __future__ import annotations

import dataclasses
import gzip
import json
import threading

import pytest
from botocore.exceptions import ClientError

import iac_create
from aws.requests import build_cluster_request, build_service_trust
from aws.session import make_session
from configs import load_emr_config
from tests.aws_fixtures import *  # noqa: F403 (fixtures)
from tests.aws_fixtures import BUCKET
from tests.emr_emulator import MODEL, ClusterPlan, StepPlan, StepResult, check_answer

STATES = {
    "cluster": set(MODEL.shape_for("ClusterState").enum),
    "step": set(MODEL.shape_for("StepState").enum),
}


@pytest.fixture
def emr(session):
    return session.client("emr")


@pytest.fixture
def make_cluster(account, run):
    """Make a cluster that waits, in an account whose time only moves when it is told to."""

    def make(**plan):
        account.next_cluster = ClusterPlan(**plan)
        cluster_id = run(iac_create.main, "--no-wait").out.strip()
        account.ticking = False
        return account.clusters[cluster_id]

    return make


def wait(account, cluster):
    while cluster.state != "WAITING":
        account.advance()


def step(name="etl", action="CONTINUE", **jar):
    return {
        "Name": name,
        "ActionOnFailure": action,
        "HadoopJarStep": {"Jar": "command-runner.jar", **jar},
    }


def add(emr, cluster, *steps):
    return emr.add_job_flow_steps(JobFlowId=cluster.id, Steps=steps)["StepIds"]


def state(emr, cluster, step_id):
    return emr.describe_step(ClusterId=cluster.id, StepId=step_id)["Step"]["Status"]["State"]


def follow(account, thing, *, ticks=12):
    """The states that a cluster or a step goes through, each once."""
    states = [thing.state]
    for _ in range(ticks):
        account.advance()
        if thing.state != states[-1]:
            states.append(thing.state)
    return states


def test_a_cluster_goes_through_its_states_and_ends_when_told(account, make_cluster, emr):
    cluster = make_cluster(starting=2, bootstrapping=3)

    assert follow(account, cluster) == ["STARTING", "BOOTSTRAPPING", "WAITING"]
    emr.terminate_job_flows(JobFlowIds=[cluster.id])
    assert follow(account, cluster) == ["TERMINATING", "TERMINATED"]
    status = emr.describe_cluster(ClusterId=cluster.id)["Cluster"]["Status"]
    assert status["StateChangeReason"]["Code"] == "USER_REQUEST"
    assert {"CreationDateTime", "ReadyDateTime", "EndDateTime"} == set(status["Timeline"])


@pytest.mark.parametrize(
    ("failure", "states"),
    [
        ("VALIDATION_ERROR", ["STARTING", "TERMINATING", "TERMINATED_WITH_ERRORS"]),
        (
            "BOOTSTRAP_FAILURE",
            ["STARTING", "BOOTSTRAPPING", "TERMINATING", "TERMINATED_WITH_ERRORS"],
        ),
    ],
)
def test_a_cluster_fails_as_planned(account, make_cluster, failure, states):
    assert follow(account, make_cluster(failure=failure)) == states


def test_steps_go_through_all_seven_states(account, make_cluster, emr):
    cluster = make_cluster()
    seen = set()
    for outcome in ("COMPLETED", "FAILED", "INTERRUPTED"):
        account.next_step = StepPlan(outcome=outcome)
        add(emr, cluster, step())
        seen |= set(follow(account, cluster.steps[-1]))
    account.next_step = StepPlan(running=9)
    (cancelled,) = add(emr, cluster, step())
    account.advance(2)
    emr.cancel_steps(ClusterId=cluster.id, StepIds=[cancelled])
    seen |= set(follow(account, cluster.steps[-1]))

    assert seen == STATES["step"]


def test_steps_run_one_after_the_other_and_the_cluster_is_running_meanwhile(
    account, make_cluster, emr
):
    cluster = make_cluster()
    wait(account, cluster)
    add(emr, cluster, step("one"), step("two"))

    account.advance(2)

    assert [one.state for one in cluster.steps] == ["RUNNING", "PENDING"]
    assert cluster.state == "RUNNING"
    assert follow(account, cluster)[-1] == "WAITING"


def test_a_failed_step_ends_the_cluster_or_cancels_the_others_as_it_says(
    account, make_cluster, emr
):
    account.next_step = StepPlan(outcome="FAILED")
    cluster = make_cluster()
    add(emr, cluster, step(action="CANCEL_AND_WAIT"), step())
    account.advance(12)
    assert [one.state for one in cluster.steps] == ["FAILED", "CANCELLED"]
    assert cluster.state == "WAITING"

    add(emr, cluster, step(action="TERMINATE_CLUSTER"))
    account.advance(12)
    assert cluster.state == "TERMINATED_WITH_ERRORS"
    reason = emr.describe_cluster(ClusterId=cluster.id)["Cluster"]["Status"]["StateChangeReason"]
    assert reason == {"Code": "STEP_FAILURE", "Message": "Shut down as step failed"}


def test_logs_come_late_and_packed(account, make_cluster, emr, session):
    account.next_step = StepPlan(
        outcome="FAILED", logs={"steps/{step}/stderr.gz": "why"}, log_delay=3
    )
    cluster = make_cluster()
    (step_id,) = add(emr, cluster, step())
    while cluster.steps[0].state != "FAILED":
        account.advance()
    s3, key = session.client("s3"), f"logs/{cluster.id}/steps/{step_id}/stderr.gz"

    account.advance(2)
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET, Prefix="logs/")
    account.advance()
    assert gzip.decompress(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()) == b"why"


def test_run_step_gets_the_arguments_and_its_exit_code_decides(account, make_cluster, emr):
    runs, done = [], threading.Event()

    def run_step(run):
        runs.append((run.jar, list(run.args)))
        done.wait(timeout=30)
        return StepResult(3, {"steps/{step}/stderr.gz": "why"})

    account.run_step = run_step
    cluster = make_cluster()
    (step_id,) = add(emr, cluster, step(Args=["spark-submit", "a b"]))
    account.advance(6)
    assert state(emr, cluster, step_id) == "RUNNING"
    done.set()
    cluster.steps[0].thread.join(timeout=30)
    account.advance()

    assert runs == [("command-runner.jar", ["spark-submit", "a b"])]
    assert state(emr, cluster, step_id) == "FAILED"


def test_a_broken_run_step_shows_as_a_failed_step(account, make_cluster, emr):
    account.run_step = lambda _: 1 / 0
    cluster = make_cluster()
    add(emr, cluster, step())
    account.advance(6)
    cluster.steps[0].thread.join(timeout=30)
    account.advance()

    assert cluster.steps[0].state == "FAILED"


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (lambda emr, _: emr.describe_cluster(ClusterId="j-0"), "InvalidRequestException"),
        (lambda emr, j: emr.describe_step(ClusterId=j, StepId="s-0"), "InvalidRequestException"),
        (
            lambda emr, _: emr.add_job_flow_steps(JobFlowId="j-0", Steps=[step()]),
            "InvalidRequestException",
        ),
        (lambda emr, _: emr.terminate_job_flows(JobFlowIds=["j-0"]), "ValidationException"),
        (lambda emr, j: emr.terminate_job_flows(JobFlowIds=[j] * 11), "ValidationException"),
        (lambda emr, _: emr.list_clusters(ClusterStates=["ODD"]), "ValidationException"),
        (
            lambda emr, j: emr.add_job_flow_steps(JobFlowId=j, Steps=[step()] * 257),
            "ValidationException",
        ),
        (
            lambda emr, j: emr.add_job_flow_steps(JobFlowId=j, Steps=[step(Args=["x" * 10_241])]),
            "ValidationException",
        ),
        (lambda emr, j: emr.list_steps(ClusterId=j, StepIds=["s"] * 11), "InvalidRequestException"),
        (lambda emr, _: emr.describe_release_label(ReleaseLabel="x"), "InvalidRequestException"),
        (lambda emr, _: emr.list_studios(), "UnknownOperationException"),
    ],
)
def test_what_emr_refuses_is_refused(make_cluster, emr, ask, code):
    cluster = make_cluster()

    with pytest.raises(ClientError) as caught:
        ask(emr, cluster.id)

    assert caught.value.response["Error"]["Code"] == code


def test_an_ended_cluster_takes_no_steps_and_a_protected_one_does_not_end(
    account, make_cluster, emr
):
    cluster = make_cluster()
    cluster.protected = True
    with pytest.raises(emr.exceptions.ClientError, match="termination protected"):
        emr.terminate_job_flows(JobFlowIds=[cluster.id])
    account.end_cluster(cluster.id, "INTERNAL_ERROR", "x")

    with pytest.raises(emr.exceptions.ClientError, match="may not be modified"):
        add(emr, cluster, step())


def test_steps_beside_each_other_must_not_end_the_cluster(make_cluster, emr):
    cluster = make_cluster()
    cluster.request["StepConcurrencyLevel"] = 2

    with pytest.raises(emr.exceptions.ClientError, match="must be CONTINUE"):
        add(emr, cluster, step(action="TERMINATE_CLUSTER"))
    assert len(add(emr, cluster, step())) == 1


def test_what_moto_lacks_is_there(make_cluster, emr):
    cluster = make_cluster()

    policy = emr.get_auto_termination_policy(ClusterId=cluster.id)["AutoTerminationPolicy"]
    assert policy == {"IdleTimeout": 3600}
    emr.put_auto_termination_policy(ClusterId=cluster.id, AutoTerminationPolicy={"IdleTimeout": 60})
    assert cluster.policy == {"IdleTimeout": 60}
    assert "ManagedScalingPolicy" not in emr.get_managed_scaling_policy(ClusterId=cluster.id)
    limits = {"UnitType": "Instances", "MinimumCapacityUnits": 1, "MaximumCapacityUnits": 2}
    emr.put_managed_scaling_policy(
        ClusterId=cluster.id, ManagedScalingPolicy={"ComputeLimits": limits}
    )
    told = emr.get_managed_scaling_policy(ClusterId=cluster.id)["ManagedScalingPolicy"]
    assert told == {"ComputeLimits": limits}
    fleets = emr.list_instance_fleets(ClusterId=cluster.id)["InstanceFleets"]
    assert [fleet["InstanceFleetType"] for fleet in fleets] == ["MASTER", "CORE"]
    assert [fleet["ProvisionedOnDemandCapacity"] for fleet in fleets] == [1, 2]
    told = emr.describe_release_label(ReleaseLabel="emr-7.13.0")["Applications"]
    assert {"Name": "Spark", "Version": "3.5.6"} in told


def test_an_answer_that_emr_could_not_give_is_noticed():
    shape = MODEL.operation_model("DescribeCluster").output_shape

    with pytest.raises(AssertionError, match="ODD"):
        check_answer({"Cluster": {"Status": {"State": "ODD"}}}, shape, "DescribeCluster")


# What keeps a cluster from starting in an account that is not empty.


@pytest.fixture
def request_cluster(account, config):
    """Ask EMR itself for a cluster; gives the state and the reason that it then has."""

    def request(region="us-west-2", **changes):
        wanted = build_cluster_request(dataclasses.replace(load_emr_config(config), **changes))
        del wanted["SecurityConfiguration"]
        account.advance(4)
        emr = make_session(None, region).client("emr")
        cluster = account.clusters[emr.run_job_flow(**wanted)["JobFlowId"]]
        account.advance(4)
        return cluster.state, cluster.reason.get("Message", "")

    return request


def test_an_account_that_is_ready_starts_a_cluster(request_cluster):
    assert request_cluster()[0] == "WAITING"


def test_a_new_instance_profile_is_refused_in_two_ways(account, request_cluster, session):
    account.fresh_refusals, account.fresh_failures = 2, 1
    session.client("iam").create_instance_profile(InstanceProfileName="another")

    codes = []
    for _ in range(2):
        with pytest.raises(ClientError) as refused:
            request_cluster()
        codes.append(refused.value.response["Error"]["Code"])

    assert codes == ["AccessDeniedException", "ValidationException"]
    assert request_cluster()[1] == "Service role has insufficient EC2 permissions"
    assert request_cluster()[0] == "WAITING"


@pytest.mark.parametrize("name", ["ElasticMapReduce-slave", "other"])
def test_emrs_own_security_groups_need_the_tag_as_well(request_cluster, session, name):
    ec2 = session.client("ec2")
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    ec2.create_security_group(GroupName=name, Description="of a cluster", VpcId=vpc)

    state, reason = request_cluster()

    assert (state == "WAITING") == (name == "other")
    assert ("insufficient EC2 permissions" in reason) == (name != "other")


def test_a_role_that_trusts_emr_in_another_region_is_invalid(request_cluster, session):
    trust = json.dumps(build_service_trust("aws", "123456789012"))
    session.client("iam").update_assume_role_policy(
        RoleName="SparkifyEmrServiceRole",
        PolicyDocument=trust.replace("reduce:*", "reduce:eu-west-1"),
    )

    assert request_cluster()[1].endswith("role/SparkifyEmrServiceRole is invalid")


@pytest.mark.parametrize(("quota", "starts"), [(11, False), (12, True)])
def test_more_vcpus_than_the_quota_do_not_start(account, request_cluster, quota, starts):
    account.vcpu_quota = quota

    state, reason = request_cluster()

    assert (state == "WAITING") == starts
    assert (f"vCPU limit of {quota} " in reason) == (not starts)


def test_spot_nodes_need_the_role_of_spot(request_cluster, session):
    spot = {"task_count": 1, "spot": ("task",)}
    assert "service-linked role for EC2 Spot" in request_cluster(**spot)[1]

    session.client("iam").create_service_linked_role(AWSServiceName="spot.amazonaws.com")

    assert request_cluster(**spot)[0] == "WAITING"


def test_a_cluster_that_is_not_kept_ends_after_its_last_step(account, make_cluster, emr):
    cluster = make_cluster()
    cluster.request["Instances"]["KeepJobFlowAliveWhenNoSteps"] = False
    add(emr, cluster, step())

    assert follow(account, cluster)[-3:] == ["RUNNING", "TERMINATING", "TERMINATED"]
    assert cluster.reason == {"Code": "ALL_STEPS_COMPLETED", "Message": "Steps completed"}
