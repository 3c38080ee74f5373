"""iac_terminate.py against the emulated account: what it shows, asks, ends and leaves alone."""

from __future__ import annotations

import datetime as dt
import re
import subprocess
import sys

import pytest

import iac_create
import iac_terminate
from aws.cluster import END_AT_ONCE
from tests.aws_fixtures import *  # noqa: F403 (fixtures)
from tests.emr_emulator import ClusterPlan

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)


@pytest.fixture
def make_cluster(account, run, monkeypatch):
    """Make a cluster that is two hours old."""
    monkeypatch.setattr("aws.cluster.utc_now", lambda: NOW)

    def make(name="sparkify", *flags):
        cluster = account.clusters[run(iac_create.main, "--cluster-name", name, *flags).out.strip()]
        cluster.timeline["CreationDateTime"] = NOW.timestamp() - 7200
        return cluster

    return make


def line(cluster, state="WAITING", steps="none", name="sparkify"):
    return f"{name} {cluster.id}: {state}, 2 h 0 min old, unfinished steps: {steps}\n"


def test_the_cluster_is_shown_asked_for_ended_and_waited_for(terminate, make_cluster):
    cluster = make_cluster()

    outcome = terminate(answer="yes")

    assert (outcome.code, outcome.out) == (0, line(cluster))
    assert re.sub(r"\d+ s\n", "0 s\n", outcome.err) == (
        f"End the cluster above? Type yes to go on: ending {cluster.id}\n"
        f"{cluster.id}: TERMINATING 0 s\n{cluster.id}: TERMINATED 0 s\n"
    )
    assert cluster.state == "TERMINATED"


def test_in_a_file_the_result_and_the_narration_keep_their_order(make_cluster, config, monkeypatch):
    cluster = make_cluster()
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    command = [sys.executable, iac_terminate.__file__, "--config", str(config), "--dry-run"]

    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )

    shown, narrated = done.stdout.splitlines()
    assert shown.startswith(f"sparkify {cluster.id}: WAITING")
    assert narrated == "dry run: nothing was ended"


@pytest.mark.parametrize("answer", ["no", "y", "", "sparkify"])
def test_any_other_answer_ends_nothing(terminate, make_cluster, answer):
    cluster = make_cluster()

    outcome = terminate(answer=answer)

    assert outcome.code == 0
    assert outcome.err.endswith("nothing was ended\n")
    assert cluster.state == "WAITING"


def test_where_nobody_can_answer_the_flag_is_named(terminate, make_cluster):
    cluster = make_cluster()

    outcome = terminate()

    assert outcome.code == 1
    assert (
        "iac_terminate.py: error: cannot ask for confirmation: there is no input; add --yes\n"
        in outcome.err
    )
    assert cluster.state == "WAITING"


def test_yes_does_not_ask(terminate, make_cluster):
    cluster = make_cluster()

    outcome = terminate("--yes")

    assert outcome.code == 0
    assert "Type yes" not in outcome.err
    assert cluster.state == "TERMINATED"


@pytest.mark.parametrize("flags", [(), ("--all",), ("--yes",)])
def test_dry_run_shows_and_ends_nothing_whatever_else_is_said(terminate, make_cluster, flags):
    cluster = make_cluster()

    outcome = terminate("--dry-run", *flags)

    assert (outcome.code, outcome.out) == (0, line(cluster))
    assert outcome.err == "dry run: nothing was ended\n"
    assert cluster.state == "WAITING"


def test_unfinished_steps_are_shown_with_their_state(terminate, make_cluster, session, account):
    cluster = make_cluster()
    steps = [
        {"Name": name, "ActionOnFailure": "CONTINUE", "HadoopJarStep": {"Jar": "x.jar"}}
        for name in ("one", "two", "three")
    ]
    session.client("emr").add_job_flow_steps(JobFlowId=cluster.id, Steps=steps)
    account.ticking = False
    while cluster.steps[0].state != "COMPLETED":
        account.advance()

    outcome = terminate("--dry-run")

    assert outcome.out == line(cluster, "RUNNING", "PENDING three, RUNNING two")


def test_nothing_to_end_is_success(terminate, account):
    outcome = terminate()

    assert (outcome.code, outcome.out, outcome.err) == (
        0,
        "",
        "nothing to end: no active cluster named sparkify in us-west-2\n",
    )
    assert terminate("--all").err == "nothing to end: no active cluster in us-west-2\n"


def test_a_cluster_that_has_ended_already_is_success(terminate, make_cluster):
    cluster = make_cluster()
    terminate("--yes")

    outcome = terminate("--yes", "--cluster-id", cluster.id)

    assert (outcome.code, outcome.err) == (
        0,
        f"nothing to end: {cluster.id} has ended or is ending\n",
    )


def test_a_cluster_that_ends_with_errors_is_gone_as_well(terminate, make_cluster, account):
    cluster = make_cluster()
    account.end_cluster(cluster.id, "INTERNAL_ERROR", "EMR's own")
    account.ticking = False
    cluster.state = "WAITING"

    def die(state, code="", message=""):
        cluster.state = "TERMINATED_WITH_ERRORS"

    cluster.enter = die

    outcome = terminate("--yes")

    assert outcome.code == 0
    assert outcome.last_line.startswith(f"{cluster.id}: TERMINATED_WITH_ERRORS ")


def test_a_cluster_that_still_starts_can_be_ended(terminate, make_cluster, account):
    account.next_cluster = ClusterPlan(starting=99)
    cluster = make_cluster("sparkify", "--no-wait")

    assert terminate("--yes").code == 0
    assert cluster.state == "TERMINATED"


def test_only_the_projects_cluster_is_ended(terminate, make_cluster):
    ours, other, alien = make_cluster(), make_cluster("other"), make_cluster("alien")
    alien.request.update(Name="sparkify", Tags=[])

    terminate("--yes")

    assert [cluster.state for cluster in (ours, other, alien)] == [
        "TERMINATED",
        "WAITING",
        "WAITING",
    ]


def test_two_clusters_of_the_name_are_an_error_and_the_id_chooses(terminate, make_cluster):
    first, second = make_cluster(), make_cluster("other")
    second.request["Name"] = "sparkify"

    outcome = terminate("--yes")
    assert outcome.code == 1
    assert outcome.last_line.startswith(
        f"iac_terminate.py: error: 2 active clusters are named sparkify: {first.id}, {second.id};"
    )

    assert terminate("--yes", "--cluster-id", second.id).code == 0
    assert (first.state, second.state) == ("WAITING", "TERMINATED")


def test_all_ends_every_cluster_of_the_region_after_the_region_is_typed(terminate, make_cluster):
    ours, alien = make_cluster(), make_cluster("alien")
    alien.request["Tags"] = []

    refused = terminate("--all", answer="yes")
    assert (refused.code, ours.state, alien.state) == (0, "WAITING", "WAITING")
    assert "End ALL 2 clusters above? Type us-west-2 to go on: nothing was ended\n" in refused.err

    outcome = terminate("--all", answer="us-west-2")
    assert outcome.out == line(ours) + line(alien, name="alien")
    assert (outcome.code, ours.state, alien.state) == (0, "TERMINATED", "TERMINATED")


def test_all_ends_more_than_one_request_can_name(terminate, make_cluster, monkeypatch, account):
    monkeypatch.setattr("aws.cluster.END_AT_ONCE", 2)
    clusters = [make_cluster(f"n{number}", "--no-wait") for number in range(3)]

    assert terminate("--all", "--yes").code == 0
    assert {cluster.state for cluster in clusters} == {"TERMINATED"}
    assert account.operations().count("TerminateJobFlows") == 2


def test_no_request_names_more_clusters_than_emr_takes():
    assert END_AT_ONCE == 10


def test_a_protected_cluster_is_refused_and_unprotect_ends_it(terminate, make_cluster):
    cluster = make_cluster("sparkify", "--termination-protection", "yes")

    outcome = terminate("--yes")
    assert outcome.code == 1
    assert outcome.out == line(cluster, "WAITING, protected")
    assert outcome.err == (
        f"iac_terminate.py: error: protected from termination: {cluster.id}; add --unprotect\n"
    )
    assert cluster.state == "WAITING"

    assert terminate("--yes", "--unprotect").code == 0
    assert cluster.state == "TERMINATED"


def test_one_protected_cluster_among_all_ends_nothing(terminate, make_cluster):
    clusters = [make_cluster(), make_cluster("other", "--termination-protection", "yes")]

    assert terminate("--all", "--yes").code == 1
    assert {cluster.state for cluster in clusters} == {"WAITING"}


def test_without_unprotect_no_protection_is_touched(terminate, make_cluster, account):
    make_cluster()

    terminate("--yes")

    assert "SetTerminationProtection" not in account.operations()


def test_no_wait_does_not_look_again(terminate, make_cluster, account):
    cluster = make_cluster()

    outcome = terminate("--yes", "--no-wait")

    assert (outcome.code, outcome.err) == (0, f"ending {cluster.id}\n")
    assert account.operations()[-1] == "TerminateJobFlows"


def test_waiting_ends_with_the_timeout(terminate, make_cluster, account):
    account.next_cluster = ClusterPlan(terminating=10**9)
    make_cluster()

    outcome = terminate("--yes", "--timeout-minutes", "0")

    assert outcome.code == 1
    assert "error: gave up waiting after 0 s; it goes on" in outcome.last_line


def test_an_id_that_does_not_exist_is_reported_with_the_region(terminate, account):
    outcome = terminate("--cluster-id", "j-nobody")

    assert (outcome.code, outcome.last_line) == (
        1,
        "iac_terminate.py: error: there is no cluster j-nobody in us-west-2: check --region",
    )


def test_one_cluster_and_all_clusters_contradict_each_other(terminate):
    assert terminate("--all", "--cluster-id", "j-1").code == 2
