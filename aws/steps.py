"""Steps on the cluster: built, added once, followed to their end, and cancelled."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from aws.cluster import (
    ACTIVE,
    ENDED,
    UNFINISHED,
    EndOptions,
    end_clusters,
    failure_reason,
    fetch_cluster,
)
from aws.code import MODULES, SCRIPT
from aws.console import Progress, say, warn
from aws.logs import Cause, await_cause, show_bootstrap_log, show_cause
from aws.refusals import explain_start
from aws.session import POLL_SECONDS, AwsError, Waiting, ask_once, make_once_client, poll
from lake.exit_codes import ExitCode
from lake.formats import duration, utc_now

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_emr import EMRClient
    from mypy_boto3_emr.type_defs import ClusterTypeDef, StepConfigTypeDef, StepSummaryTypeDef
    from mypy_boto3_s3 import S3Client

    from aws.code import Code
    from configs import EmrConfig

    Snapshot = tuple[StepSummaryTypeDef, ClusterTypeDef]

JOB_SECTIONS = ("SPARKIFY_ETL_", "SPARKIFY_PARTITIONS_")
TAG = "spark.yarn.tags"
STOP_COMMAND = (
    "yarn application -list -appTags {tag} | grep -o '^application_[0-9_]*'"
    " | xargs -r -n 1 yarn application -kill"
)
ENDS = {
    "COMPLETED": ExitCode.DONE,
    "FAILED": ExitCode.FAILED,
    "CANCELLED": ExitCode.CANCELLED,
    "INTERRUPTED": ExitCode.INTERRUPTED,
}


@dataclasses.dataclass(frozen=True)
class JobArguments:
    """What one run of the job gets besides its settings in dl.cfg."""

    spark: Sequence[str] = ()  # more arguments of spark-submit
    job: Sequence[str] = ()  # arguments of etl.py
    environ: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class AddedStep:
    """A step on a cluster, and the client that asks for it."""

    emr: EMRClient
    cluster_id: str
    id: str


# Building.


def build_step(code: Code, config: EmrConfig, arguments: JobArguments) -> StepConfigTypeDef:
    """The step as AddJobFlowSteps takes it; its name and its paths show the version of the code."""
    name = f"{config.cluster_name} etl {code.digest}"
    settings = {**config.spark, **build_job_environment(arguments.environ)}
    job = [*arguments.spark, f"{code.uri}/{SCRIPT}", "--config", "dl.cfg", *arguments.job]
    settings[TAG] = build_run_tag(json.dumps([settings, job]))
    return build_command_step(
        name,
        *("spark-submit", "--deploy-mode", "cluster", "--name", name),
        *("--py-files", ",".join(f"{code.uri}/{module}" for module in MODULES)),
        *("--files", f"{code.uri}/dl.cfg"),
        *[part for key, value in settings.items() for part in ("--conf", f"{key}={value}")],
        *job,
    )


def build_run_tag(arguments: str) -> str:
    """A tag on YARN for a run; other code or other arguments give another tag."""
    return f"etl-{hashlib.sha256(arguments.encode()).hexdigest()[:16]}"


def build_job_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Spark settings that give the job, on the cluster, its environment variables of the laptop."""
    return {
        f"spark.yarn.appMasterEnv.{name}": value
        for name, value in sorted(environ.items())
        if name.startswith(JOB_SECTIONS)
    }


def build_command_step(name: str, *command: str) -> StepConfigTypeDef:
    """A step that runs a command on the master node, with each argument exactly as given."""
    return {
        "Name": name,
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {"Jar": "command-runner.jar", "Args": list(command)},
    }


def build_stop_step(step: StepSummaryTypeDef) -> StepConfigTypeDef | None:
    """A step that kills what a step has started on YARN, or None if that has no tag of ours.

    CancelSteps ends spark-submit only. In cluster mode the job does not need spark-submit any more:
    it would go on and publish.
    """
    tags = [part for part in step["Config"]["Args"] if part.startswith(f"{TAG}=etl-")]
    if not tags:
        return None
    command = STOP_COMMAND.format(tag=shlex.quote(tags[-1].partition("=")[2]))
    return build_command_step(f"stop {step['Name']}", "bash", "-c", command)


# Adding.


def add_step(
    session: boto3.Session,
    cluster_id: str,
    step: StepConfigTypeDef,
    poll_seconds: float = POLL_SECONDS,
    *,
    attach: bool = True,
) -> AddedStep:
    """Add the step, or attach to the same one if it has not ended; not to attach is an error."""
    emr = session.client("emr")
    same = find_same_step(emr, cluster_id, step)
    if same and not attach:
        raise AwsError(
            f"the same step is {same['Status']['State']} on {cluster_id}: {same['Id']};"
            " leave out --no-attach to follow it"
        )
    if same:
        say(f"the same step exists already: following {same['Id']} on {cluster_id}")
        return AddedStep(emr, cluster_id, same["Id"])
    once = make_once_client(session)
    added = ask_once(
        lambda: once.add_job_flow_steps(JobFlowId=cluster_id, Steps=[step]), poll_seconds
    )
    say(f"added step {added['StepIds'][0]} to {cluster_id}: {step['Name']}")
    return AddedStep(emr, cluster_id, added["StepIds"][0])


def find_same_step(
    emr: EMRClient, cluster_id: str, step: StepConfigTypeDef
) -> StepSummaryTypeDef | None:
    """A step with the same code and arguments that has not ended yet."""
    pages = emr.get_paginator("list_steps").paginate(ClusterId=cluster_id, StepStates=UNFINISHED)
    command = list(step["HadoopJarStep"].get("Args", []))
    for page in pages:
        for other in page["Steps"]:
            if other["Name"] == step["Name"] and other["Config"]["Args"] == command:
                return other
    return None


# Following.


def follow(added: AddedStep, waiting: Waiting) -> Snapshot:
    """Show the step's progress; return the step and its cluster once either has ended."""
    looks = poll(lambda: look(added), waiting.poll_seconds, waiting.timeout)
    with Progress() as progress:
        while True:
            step, cluster = next(looks)
            progress.show(*describe_step_progress(step, cluster))
            if step["Status"]["State"] in ENDS or cluster["Status"]["State"] in ENDED:
                return step, cluster


def look(added: AddedStep) -> Snapshot:
    """The step and its cluster as they are now."""
    steps = added.emr.list_steps(ClusterId=added.cluster_id, StepIds=[added.id])["Steps"]
    return steps[0], fetch_cluster(added.emr, added.cluster_id)


def describe_step_progress(step: StepSummaryTypeDef, cluster: ClusterTypeDef) -> tuple[str, str]:
    """The state and a detail: the elapsed time or, before the start, what the cluster does."""
    state, times = step["Status"]["State"], step["Status"].get("Timeline", {})
    start = times.get("StartDateTime")
    if not start:
        reason = cluster["Status"].get("StateChangeReason", {}).get("Message", "")
        detail = f"({reason})" if reason else ""
        return f"step {state}, cluster {cluster['Status']['State']}", detail
    end = times.get("EndDateTime") or utc_now()
    return f"step {state}", f"after {duration((end - start).total_seconds())}"


def judge(step: StepSummaryTypeDef, cluster: ClusterTypeDef) -> ExitCode:
    """The exit code for the end of a step."""
    state, status = step["Status"]["State"], cluster["Status"]
    # A cluster that was made for this step ends after it, however the step ended.
    after_steps = status.get("StateChangeReason", {}).get("Code") == "ALL_STEPS_COMPLETED"
    if state != "COMPLETED" and status["State"] not in ACTIVE and not after_steps:
        return ExitCode.CLUSTER_DIED
    return ENDS[state]


def explain_end(
    s3: S3Client, step: StepSummaryTypeDef, cluster: ClusterTypeDef, waiting: Waiting
) -> Cause | None:
    """Print why a step did not complete, and return the cause if the logs name it in time."""
    code = judge(step, cluster)
    if code == ExitCode.CLUSTER_DIED:
        reason = explain_start(cluster["Status"])
        say(f"cluster {cluster['Id']} is {cluster['Status']['State']}: {reason}")
        if "BOOTSTRAP_FAILURE" in reason:
            show_bootstrap_log(s3, cluster, waiting.poll_seconds)
        return None
    log = step["Status"].get("FailureDetails", {}).get("LogFile")
    reason = failure_reason(step["Status"]) + (f" ({log})" if log else "")
    say(f"step {step['Id']} is {step['Status']['State']}: {reason}")
    if code != ExitCode.FAILED:
        return None
    if not cluster.get("LogUri"):
        say("the cluster keeps no logs: set log_uri in dl.cfg before you create the next cluster")
        return None
    cause = await_cause(s3, cluster, step["Id"], waiting)
    show_cause(cause, cluster)
    return cause


# Ending.


def cancel(added: AddedStep, *, stop_job: bool) -> None:
    """Ask EMR to cancel the step; with stop_job, add a step that kills what it runs on YARN."""
    step, _ = look(added)
    answer = added.emr.cancel_steps(ClusterId=added.cluster_id, StepIds=[added.id])
    for entry in answer["CancelStepsInfoList"]:
        reason = f": {entry['Reason']}" if entry.get("Reason") else ""
        say(f"cancelling {added.id}: {entry.get('Status', 'asked for')}{reason}")
    stop = build_stop_step(step)
    if stop and step["Status"]["State"] == "RUNNING" and stop_job:
        ids = added.emr.add_job_flow_steps(JobFlowId=added.cluster_id, Steps=[stop])["StepIds"]
        say(f"added step {ids[0]}, which stops the job itself on YARN")


def describe_cluster_end(emr: EMRClient, cluster_id: str) -> str:
    """What becomes of the cluster when nobody waits for its step any more."""
    if fetch_cluster(emr, cluster_id).get("AutoTerminate"):
        return f"{cluster_id} ends itself after its step"
    policy = emr.get_auto_termination_policy(ClusterId=cluster_id).get("AutoTerminationPolicy", {})
    seconds = policy.get("IdleTimeout")
    when = f"{duration(seconds)} after its last step" if seconds else "never"
    return (
        f"{cluster_id} is not ended after the step, it ends itself {when}:"
        " iac_terminate.py ends it now"
    )


def end_unused_cluster(emr: EMRClient, cluster_id: str, waiting: Waiting) -> None:
    """End the cluster and wait until it is gone; with unfinished steps it only gets a warning."""
    others = emr.list_steps(ClusterId=cluster_id, StepStates=UNFINISHED)["Steps"]
    if others:
        ids = ", ".join(other["Id"] for other in others)
        warn(f"{cluster_id} is not ended, it has other steps: {ids}; see iac_terminate.py")
    else:
        end_clusters(emr, [cluster_id], EndOptions(waiting))
