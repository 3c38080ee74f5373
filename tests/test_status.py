"""get_cluster_status.py against the emulated account: what it shows, warns of and computes."""

from __future__ import annotations

import datetime as dt
import io
import json

import pytest
from rich.console import Console

import get_cluster_status
import iac_create
from aws.status import (
    Answers,
    ClusterStatus,
    Scope,
    StepStatus,
    build_status,
    render_clusters,
)
from lake.exit_codes import ExitCode
from lake.formats import duration
from tests.aws_fixtures import *  # noqa: F403 (fixtures)
from tests.emr_emulator import StepPlan

HOUR = 3600
NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)


@pytest.fixture
def status(run):
    def run_status(*arguments):
        return run(get_cluster_status.main, *arguments)

    return run_status


@pytest.fixture
def cluster(account, run, monkeypatch):
    """A cluster that waits, in an account whose time stands still."""
    cluster_id = run(iac_create.main).out.strip()
    monkeypatch.setattr("aws.status.utc_now", lambda: NOW)
    age(account.clusters[cluster_id], 0)
    account.ticking = False
    return account.clusters[cluster_id]


def add_steps(session, cluster, *names):
    steps = [
        {
            "Name": name,
            "ActionOnFailure": "CONTINUE",
            "HadoopJarStep": {"Jar": "command-runner.jar", "Args": ["spark-submit"]},
        }
        for name in names
    ]
    return session.client("emr").add_job_flow_steps(JobFlowId=cluster.id, Steps=steps)["StepIds"]


def age(cluster, seconds):
    """Let the cluster have begun earlier."""
    for moment in ("CreationDateTime", "ReadyDateTime"):
        cluster.timeline[moment] = NOW.timestamp() - seconds


def begin(step, seconds, ended=None):
    """Let a step have begun, and perhaps ended, so many seconds ago."""
    step.timeline["StartDateTime"] = NOW.timestamp() - seconds
    if ended is not None:
        step.timeline["EndDateTime"] = NOW.timestamp() - ended


def shown(outcome):
    """The plain lines by their label."""
    return dict(line.split(maxsplit=1) for line in outcome.out.splitlines() if line[:4] != "step")


def test_a_waiting_cluster_is_shown_line_by_line(status, cluster):
    age(cluster, 600)

    outcome = status()

    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == (
        f"cluster               sparkify {cluster.id}\n"
        "state                 WAITING Cluster ready to run steps.\n"
        "age                   10 min 0 s\n"
        "idle                  10 min 0 s\n"
        "ends itself           in 50 min 0 s unless a step is added\n"
        "nodes                 3 m5.xlarge\n"
        "cost                  at most $0.72 an hour, $0.12 so far, without disks and traffic\n"
    )


def test_no_cluster_is_no_error(status, account):
    outcome = status()

    assert (outcome.code, outcome.out) == (0, "no active cluster named sparkify in us-west-2\n")


def test_without_a_cluster_the_last_one_is_shown_with_why_it_ended(status, cluster, account):
    account.end_cluster(cluster.id, "VALIDATION_ERROR", "the vCPU limit is 5")
    cluster.timeline["EndDateTime"] = NOW.timestamp() - 180

    outcome = status()

    assert (outcome.code, outcome.out) == (
        0,
        "no active cluster named sparkify in us-west-2\n"
        f"the last one, {cluster.id}, ended 3 min 0 s ago, TERMINATED_WITH_ERRORS:"
        " VALIDATION_ERROR: the vCPU limit is 5; set core_count = 1 in [emr], or ask AWS for a"
        " higher quota: L-1216C47A of EC2\n",
    )
    assert json.loads(status("--json").out) == []
    assert "the last one" not in status("--all").out


def test_of_several_ended_clusters_the_newest_of_the_project_is_the_last(
    status, cluster, account, run
):
    for name in ("sparkify", "other", "sparkify"):
        account.end_cluster(list(account.clusters)[-1], "USER_REQUEST", "over")
        run(iac_create.main, "--no-wait", "--cluster-name", name)
    newest, alien = list(account.clusters.values())[1], list(account.clusters.values())[3]
    account.end_cluster(alien.id, "USER_REQUEST", "over")
    alien.request.pop("Tags")
    age(cluster, 60)
    age(newest, 50)

    assert f"the last one, {newest.id}, ended " in status().out


def test_a_cluster_that_ended_more_than_a_week_ago_is_no_news(status, cluster, account):
    account.end_cluster(cluster.id, "INTERNAL_ERROR", "over")
    age(cluster, 8 * 24 * HOUR)

    assert status().out == "no active cluster named sparkify in us-west-2\n"


def test_a_cluster_that_ends_after_its_steps_is_not_forgotten(status, cluster):
    cluster.request["Instances"]["KeepJobFlowAliveWhenNoSteps"] = False
    cluster.policy = None

    outcome = status()

    assert "ends itself           after its last step\n" in outcome.out
    assert outcome.err == ""


def test_the_last_steps_are_shown_newest_first_with_duration_and_reason(
    status, cluster, session, account
):
    account.next_step = StepPlan(outcome="FAILED", details={"Reason": "Unknown Error"})
    first, second, third = add_steps(session, cluster, "one", "two", "three")
    account.advance(5)
    steps = {step.id: step for step in cluster.steps}
    begin(steps[first], 65, 0)
    begin(steps[second], 20)
    states = {step.id: step.state for step in cluster.steps}
    assert states == {first: "FAILED", second: "RUNNING", third: "PENDING"}

    outcome = status("--steps", "5")

    assert outcome.out.splitlines()[-3:] == [
        f"step {third}  PENDING three",
        f"step {second}  RUNNING 20 s, two",
        f"step {first}  FAILED 1 min 5 s, one: Unknown Error",
    ]
    assert shown(outcome)["idle"] == "no"
    assert "1 h 0 min after its last step" in outcome.out
    assert status("--steps", "1").out.count("\nstep ") == 1
    assert status("--steps", "0").out.count("\nstep ") == 0


def test_an_interrupted_step_and_a_cancelled_one_are_distinguished(
    status, cluster, session, account
):
    account.next_step = StepPlan(running=9)
    running, pending = add_steps(session, cluster, "one", "two")
    account.advance(2)
    account.end_cluster(cluster.id, "INSTANCE_FAILURE", "the master is gone")

    outcome = status("--cluster-id", cluster.id)

    assert f"step {running}  INTERRUPTED" in outcome.out
    assert f"step {pending}  CANCELLED two\n" in outcome.out
    assert "state                 TERMINATED_WITH_ERRORS the master is gone\n" in outcome.out
    assert "ends itself           it has ended\n" in outcome.out
    assert "nodes                 none\n" in outcome.out


def test_idle_time_begins_with_the_last_steps_end_whatever_is_shown(
    status, cluster, session, account
):
    age(cluster, 2 * HOUR)
    add_steps(session, cluster, "one")
    account.advance(5)
    begin(cluster.steps[0], 180, 120)

    (told,) = json.loads(status("--json", "--steps", "0").out)

    assert told["idle"] == 120
    assert told["ends_in"] == 3480


def test_json_holds_all_that_is_shown_and_nothing_else_is_on_stdout(status, cluster, session):
    age(cluster, HOUR)
    (step,) = add_steps(session, cluster, "one")

    outcome = status("--json")
    (told,) = json.loads(outcome.out)

    assert {key: told[key] for key in ("id", "name", "state", "protected", "nodes")} == {
        "id": cluster.id,
        "name": "sparkify",
        "state": "WAITING",
        "protected": False,
        "nodes": {"m5.xlarge": 3},
    }
    assert told["idle_timeout"] == HOUR
    assert told["dollars_an_hour"] == pytest.approx(0.72)
    assert told["dollars_so_far"] == pytest.approx(0.72)
    assert told["steps"] == [
        {"id": step, "name": "one", "state": "PENDING", "reason": "", "seconds": None}
    ]
    assert told["warning"].startswith("it has been idle for 1 h")


def test_json_of_nothing_is_an_empty_list(status, account):
    assert json.loads(status("--json").out) == []


def test_a_price_that_nobody_names_is_unknown(status, cluster, account):
    account.refuse("pricing", "AccessDeniedException", "no", times=99)
    for fleet in cluster.request["Instances"]["InstanceFleets"]:
        fleet["InstanceTypeConfigs"][0]["InstanceType"] = "r5.xlarge"

    assert "cost                  unknown: add r5.xlarge to [prices] in dl.cfg\n" in status().out
    assert json.loads(status("--json").out)[0]["dollars_an_hour"] is None


@pytest.mark.parametrize(
    ("seconds", "policy", "told"),
    [
        (60, True, None),
        (31 * 60, True, "it has been idle for 31 min"),
        (60, False, "it has no idle timeout and runs until somebody ends it"),
    ],
)
def test_a_forgotten_cluster_is_warned_of_with_the_command_that_ends_it(
    status, cluster, seconds, policy, told
):
    age(cluster, seconds)
    cluster.policy = cluster.policy if policy else None

    outcome = status()

    assert outcome.code == 0
    if told is None:
        assert outcome.err == ""
    else:
        assert outcome.err.startswith(f"warning: {cluster.id} looks forgotten: {told}")
        assert outcome.err.endswith(f"iac_terminate.py --cluster-id {cluster.id}\n")
    assert ("ends itself           never\n" in outcome.out) == (not policy)


def test_a_cluster_that_has_worked_for_half_a_day_is_warned_of(status, cluster, session, account):
    account.next_step = StepPlan(running=9)
    add_steps(session, cluster, "one")
    account.advance(2)
    age(cluster, 13 * HOUR)

    assert "looks forgotten: it has run for 13 h 0 min; end it with" in status().err


def test_all_shows_every_cluster_of_the_region_and_without_it_only_ours(
    status, cluster, account, run
):
    run(iac_create.main, "--cluster-name", "other", "--no-wait")
    run(iac_create.main, "--cluster-name", "alien", "--no-wait")
    alien = list(account.clusters.values())[-1]
    alien.request.pop("Tags")

    names = [told["name"] for told in json.loads(status("--all", "--json").out)]
    assert sorted(names) == ["alien", "other", "sparkify"]
    assert [told["name"] for told in json.loads(status("--json").out)] == ["sparkify"]
    assert json.loads(status("--all", "--json", "--region", "us-east-2").out) == []


def test_two_clusters_of_the_name_are_both_shown(status, cluster, account, run):
    run(iac_create.main, "--cluster-name", "other", "--no-wait")
    list(account.clusters.values())[-1].request["Name"] = "sparkify"

    assert len(json.loads(status("--json").out)) == 2


def test_a_cluster_that_is_ending_is_shown_as_such(status, cluster, session):
    session.client("emr").terminate_job_flows(JobFlowIds=[cluster.id])

    outcome = status()

    assert "state                 TERMINATING Terminated by user request\n" in outcome.out
    assert "ends itself           now\n" in outcome.out
    assert outcome.err == ""


def test_an_id_that_does_not_exist_is_reported_with_the_region(status, account):
    outcome = status("--cluster-id", "j-nobody")

    assert (outcome.code, outcome.out, outcome.err) == (
        1,
        "",
        "get_cluster_status.py: error: there is no cluster j-nobody in us-west-2: check --region\n",
    )


@pytest.mark.parametrize("flags", [("--all", "--cluster-id", "j-1"), ("--watch", "--json")])
def test_flags_that_contradict_each_other_are_a_usage_error(status, flags):
    assert status(*flags).code == 2


def test_watch_shows_again_and_again_until_the_cluster_is_gone(status, cluster, session, account):
    session.client("emr").terminate_job_flows(JobFlowIds=[cluster.id])
    account.ticking = True

    outcome = status("--watch", "--cluster-id", cluster.id)

    assert outcome.code == 0
    states = [line.split()[1] for line in outcome.out.splitlines() if line.startswith("state")]
    assert states[-1] in ("TERMINATING", "TERMINATED")


def test_watch_goes_on_while_there_is_a_cluster(status, cluster, account, monkeypatch):
    looks = []

    def stop_after_three(*arguments):
        looks.append(arguments)
        if len(looks) == 3:
            raise KeyboardInterrupt
        return render_clusters(*arguments)

    monkeypatch.setattr("aws.status.render_clusters", stop_after_three)

    outcome = status("--watch")

    assert (outcome.code, outcome.err, len(looks)) == (ExitCode.CTRL_C, "", 3)
    assert outcome.out.count(f"cluster               sparkify {cluster.id}\n") == 2
    prices = [request for request in account.requests if request.service == "pricing"]
    assert len(prices) <= 4  # asked once by iac_create.py and once here, for EC2 and for EMR


def test_watch_on_a_terminal_shows_in_place(status, cluster, account, monkeypatch):
    output = io.StringIO()
    monkeypatch.setattr(
        get_cluster_status,
        "make_result_console",
        lambda: Console(file=output, force_terminal=True, width=120),
    )
    account.end_cluster(cluster.id, "INTERNAL_ERROR", "over")

    outcome = status("--watch", "--cluster-id", cluster.id)

    assert (outcome.code, outcome.out) == (0, "")
    assert f"─ sparkify {cluster.id} ─" in output.getvalue()


def test_a_throttled_look_is_repeated_by_the_client(status, cluster, account):
    account.throttle("ListClusters", 1)

    assert status().out.startswith("cluster ")


# Working it out.

MINIMAL = {
    "Id": "j-1",
    "Name": "n",
    "TerminationProtected": True,
    "Status": {"State": "WAITING", "Timeline": {"CreationDateTime": NOW - dt.timedelta(hours=3)}},
}


def node(kind, state, begun, ended=None):
    timeline = {"CreationDateTime": NOW - dt.timedelta(hours=begun)}
    if ended is not None:
        timeline["EndDateTime"] = NOW - dt.timedelta(hours=ended)
    return {"InstanceType": kind, "Status": {"State": state, "Timeline": timeline}}


def test_the_cost_counts_each_node_from_its_own_beginning_to_its_own_end():
    nodes = [
        node("a", "RUNNING", 3),
        node("b", "RUNNING", 2),
        node("b", "TERMINATED", 3, 1),
        node("a", "PROVISIONING", 0),
    ]

    status = build_status(Answers(MINIMAL, nodes, [], 60), {"a": 1.0, "b": 10.0}, NOW)

    assert status.nodes == {"a": 2, "b": 1}
    assert status.dollars_an_hour == 12.0
    assert status.dollars_so_far == 3 * 1.0 + (2 + 2) * 10.0
    assert (status.age, status.protected) == (3 * HOUR, True)


def test_one_unknown_price_makes_the_sum_unknown_but_not_that_of_the_other_nodes():
    nodes = [node("a", "RUNNING", 1), node("b", "TERMINATED", 2, 1)]

    status = build_status(Answers(MINIMAL, nodes, [], 60), {"a": 1.0, "b": None}, NOW)

    assert (status.dollars_an_hour, status.dollars_so_far) == (1.0, None)


def test_a_cluster_beyond_its_idle_timeout_ends_any_moment_and_not_in_the_past():
    ready = {**MINIMAL["Status"]["Timeline"], "ReadyDateTime": NOW - dt.timedelta(hours=2)}
    cluster = {**MINIMAL, "Status": {"State": "WAITING", "Timeline": ready}}

    assert build_status(Answers(cluster, [], [], HOUR), {}, NOW).ends_in == 0


def test_on_a_terminal_clusters_are_panels_with_failures_in_red():
    status = ClusterStatus(
        id="j-1",
        name="n",
        state="WAITING",
        reason="",
        protected=False,
        age=5,
        idle=5,
        idle_timeout=60,
        nodes={"m5.xlarge": 2},
        dollars_an_hour=0.5,
        dollars_so_far=None,
        steps=[StepStatus("s-1", "etl", "FAILED", "why [so]", 61)],
    )
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120, markup=False)

    console.print(render_clusters([status], Scope("n", "us-west-2"), console))

    text = output.getvalue()
    assert "─ n j-1 ─" in text
    assert "\x1b[31mFAILED 1 min 1 s, etl: why [so]" in text
    assert duration(55) in text
