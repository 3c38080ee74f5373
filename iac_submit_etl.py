"""Run the job on the cluster: upload its code, add one step, follow it, and tell why if it fails.

Prints the cluster, the step and its state. The same step is never run twice at a time: run the same
command again and it follows the one that is there. Exit codes: see Exit.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import hashlib
import json
import os
import shlex
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

import iac_create
import iac_terminate
from aws.catalog import describe_change, load_catalog_config, publish_catalog
from aws.cluster import ACTIVE, ENDED, failure_reason, fetch_cluster, find_cluster
from aws.code import (
    MODULES,
    ROOT,
    SCRIPT,
    Code,
    check_paths,
    load_job_config,
    object_uris,
    read_code,
    refuse_secrets,
    upload,
)
from aws.console import Progress, say, warn
from aws.logs import Cause, find_cause
from aws.session import (
    AwsError,
    StillGoingError,
    add_flags,
    ask_once,
    connect,
    explain_error,
    load_config,
    make_once_client,
    poll,
    run_script,
)
from configs import ConfigError, load_etl_config
from lake.formats import duration, utc_now

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_emr import EMRClient
    from mypy_boto3_emr.type_defs import (
        ClusterTypeDef,
        StepConfigTypeDef,
        StepSummaryTypeDef,
    )
    from mypy_boto3_s3 import S3Client

    from configs import EmrConfig

    Look = tuple[StepSummaryTypeDef, ClusterTypeDef]

JOB_SECTIONS = ("SPARKIFY_ETL_", "SPARKIFY_PARTITIONS_")
TAG = "spark.yarn.tags"
STOP_COMMAND = (
    "yarn application -list -appTags {tag} | grep -o '^application_[0-9_]*'"
    " | xargs -r -n 1 yarn application -kill"
)
UNFINISHED: Sequence[Any] = ("PENDING", "RUNNING", "CANCEL_PENDING")


class Exit(enum.IntEnum):
    """How the script ends."""

    DONE = 0  # the step is done; with --no-wait: it is added
    FAILED = 1  # the step failed, or AWS refused something
    USAGE = 2  # the command line or the configuration is wrong; nothing was begun
    CANCELLED = 3  # the step was cancelled, here or elsewhere
    INTERRUPTED = 4  # EMR stopped the step while it ran
    CLUSTER_DIED = 5  # the cluster ended before the step did
    STILL_RUNNING = 6  # gave up waiting, or left it on Ctrl-C: the step goes on


ENDS = {
    "COMPLETED": Exit.DONE,
    "FAILED": Exit.FAILED,
    "CANCELLED": Exit.CANCELLED,
    "INTERRUPTED": Exit.INTERRUPTED,
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A step on a cluster, and how to look at it."""

    emr: EMRClient
    cluster_id: str
    step_id: str
    args: argparse.Namespace


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and give its exit code."""
    return run_script(submit, argv)


def submit(argv: Sequence[str] | None) -> int:
    """Upload, add, follow and end as the command line says."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parse_args(arguments)
    config = load_config(args, required=("code_uri",))
    check_paths(load_job_config(args.config, args.job_args))
    code = read_code(ROOT, args.config, str(config.code_uri))
    step = build_step(code, config, args)
    if args.dry_run:
        print(json.dumps({"upload": sorted(object_uris(code)), "step": step}, indent=2))
        return Exit.DONE
    session = connect(args, config)
    refuse_secrets(code, session)
    cluster_id, created = prepare(session, config, code, args)
    try:
        step_id = add_step(session, cluster_id, step, args)
    except BaseException:
        if created:
            end_cluster(session, cluster_id, args)
        raise
    target = Target(session.client("emr"), cluster_id, step_id, args)
    return finish(session, target)


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; what follows -- is for etl.py."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).partition("\n")[0],
        usage="%(prog)s [flags] [-- arguments of etl.py, say --output s3://my-bucket/lake]",
    )
    flag = parser.add_argument
    flag("--cluster-id", metavar="ID", help="instead of finding the cluster by its name")
    flag("--create", action="store_true", help="create the cluster if it is not there")
    flag("--terminate-after", action="store_true", help="end the cluster when the step has ended")
    flag("--catalog", action="store_true", help="then register the tables in the Glue catalogue")
    flag("--no-wait", action="store_true", help="only add the step")
    flag("--no-attach", action="store_true", help="fail if the same step is already under way")
    flag("--timeout", type=float, metavar="MINUTES", help="give up waiting; the step goes on")
    flag("--log-wait", type=float, default=10, metavar="MINUTES", help="for a failed step's logs")
    flag("--spark-args", default="", metavar='"ARGS"', help="more arguments of spark-submit")
    flag("--yarn-url", metavar="URL", help="of YARN's resource manager, where it can be reached")
    flag("--dry-run", action="store_true", help="print the step; ask AWS nothing")
    flag("--json", action="store_true", help="print the outcome as JSON")
    add_flags(parser, ("code_uri",))
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own, job = arguments[:end], arguments[end + 1 :]
    args = parser.parse_args(own, argparse.Namespace(job_args=job))
    if args.no_wait and (args.terminate_after or args.catalog):
        wish = "--terminate-after" if args.terminate_after else "--catalog"
        parser.error(f"{wish} has to wait for the step: leave out --no-wait")
    if args.create and args.cluster_id:
        parser.error("--create finds or creates the cluster by its name: leave out --cluster-id")
    return args


# The step.


def build_step(code: Code, config: EmrConfig, args: argparse.Namespace) -> StepConfigTypeDef:
    """The step as AddJobFlowSteps takes it; its name and its paths tell the code's version."""
    name = f"{config.cluster_name} etl {code.digest}"
    settings = {**config.spark, **job_environment(os.environ)}
    given = [*split_args(args.spark_args), f"{code.uri}/{SCRIPT}", "--config", "dl.cfg"]
    given += args.job_args
    settings[TAG] = name_run(json.dumps([settings, given]))
    return command_step(
        name,
        *("spark-submit", "--deploy-mode", "cluster", "--name", name),
        *("--py-files", ",".join(f"{code.uri}/{module}" for module in MODULES)),
        *("--files", f"{code.uri}/dl.cfg"),
        *[part for key, value in settings.items() for part in ("--conf", f"{key}={value}")],
        *given,
    )


def name_run(arguments: str) -> str:
    """A tag for YARN: what is started with other code or arguments has another one."""
    return f"etl-{hashlib.sha256(arguments.encode()).hexdigest()[:16]}"


def build_stop_step(step: StepSummaryTypeDef) -> StepConfigTypeDef | None:
    """The step that ends what a step has started on YARN, or None if that has no tag of ours.

    EMR's cancelling only ends spark-submit, and in cluster mode the job does not need that any
    more: it would go on and publish.
    """
    tags = [part for part in step["Config"]["Args"] if part.startswith(f"{TAG}=etl-")]
    if not tags:
        return None
    command = STOP_COMMAND.format(tag=shlex.quote(tags[-1].partition("=")[2]))
    return command_step(f"stop {step['Name']}", "bash", "-c", command)


def command_step(name: str, *command: str) -> StepConfigTypeDef:
    """A step that runs a command on the master node; each argument arrives as it is."""
    return {
        "Name": name,
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {"Jar": "command-runner.jar", "Args": list(command)},
    }


def job_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that set the job's settings here, as the Spark settings that set them there."""
    return {
        f"spark.yarn.appMasterEnv.{name}": value
        for name, value in sorted(environ.items())
        if name.startswith(JOB_SECTIONS)
    }


def split_args(text: str) -> list[str]:
    """Arguments quoted as for a shell."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--spark-args {text!r}: {error}") from None


def prepare(
    session: boto3.Session, config: EmrConfig, code: Code, args: argparse.Namespace
) -> tuple[str, bool]:
    """The id of the cluster for the step, whether it is a new one, and the code in S3."""
    cluster = choose_cluster(session.client("emr"), config, args)
    new = upload(session.client("s3"), code)
    say(f"uploaded {new} of {len(code.files)} files to {code.uri}")
    if cluster:
        return cluster["Id"], False
    flags = {"create_bucket": False, "create_roles": False, "tag_network": False, "no_wait": True}
    wishes = argparse.Namespace(**flags, poll_seconds=args.poll_seconds)
    etl = load_etl_config(args.config)
    return iac_create.find_or_create(session, config, etl, wishes), True


def choose_cluster(
    emr: EMRClient, config: EmrConfig, args: argparse.Namespace
) -> ClusterTypeDef | None:
    """The cluster that is there, or None if it is to be created."""
    if args.cluster_id:
        cluster = fetch_cluster(emr, args.cluster_id)
        if cluster["Status"]["State"] not in ACTIVE:
            raise AwsError(
                f"cluster {args.cluster_id} takes no more steps, it is"
                f" {cluster['Status']['State']}: start a new one with iac_create.py"
            )
        return cluster
    found = find_cluster(emr, config.cluster_name)
    if not (found or args.create):
        raise AwsError(
            f"there is no cluster named {config.cluster_name} in {emr.meta.region_name}:"
            " run iac_create.py, or add --create"
        )
    return found


def add_step(
    session: boto3.Session, cluster_id: str, step: StepConfigTypeDef, args: argparse.Namespace
) -> str:
    """The id of the step: of the same one if that is under way, else of a new one."""
    same = find_same_step(session.client("emr"), cluster_id, step)
    if same and args.no_attach:
        raise AwsError(
            f"the same step is {same['Status']['State']} on {cluster_id}: {same['Id']};"
            " leave out --no-attach to follow it"
        )
    if same:
        say(f"the same step is already under way: following {same['Id']} on {cluster_id}")
        return same["Id"]
    emr = make_once_client(session)
    added = ask_once(
        lambda: emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=[step]), args.poll_seconds
    )
    say(f"added step {added['StepIds'][0]} to {cluster_id}: {step['Name']}")
    return added["StepIds"][0]


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


# Following it.


def finish(session: boto3.Session, target: Target) -> Exit:
    """Wait for the step unless told not to, tell how it went, and end the cluster if asked to."""
    if target.args.no_wait:
        return tell(target, "PENDING", Exit.DONE)
    try:
        step, cluster = follow_or_leave(target)
    except (AwsError, BotoCoreError, ClientError) as error:
        say(f"{explain_error(error)}; {target.step_id} goes on: run the same again to follow it")
        return tell(target, "RUNNING", Exit.STILL_RUNNING)
    end = judge(step, cluster)
    cause = None if end == Exit.DONE else explain(session.client("s3"), target, step, cluster)
    tell(target, step["Status"]["State"], end, cause)
    end_cluster(session, target.cluster_id, target.args)
    if end == Exit.DONE and target.args.catalog:
        register_tables(session, target.args)
    return end


def register_tables(session: boto3.Session, args: argparse.Namespace) -> None:
    """Put what the step has published into the Glue Data Catalog."""
    output = load_job_config(args.config, args.job_args).output
    config = load_catalog_config(args.config, {("etl", "output"): output})
    for change in publish_catalog(session, config):
        say(describe_change(change))


def follow_or_leave(target: Target) -> Look:
    """The step and its cluster at the end; Ctrl-C asks whether to cancel the step or leave it."""
    while True:
        try:
            return follow(target)
        except KeyboardInterrupt:
            if not wants_to_cancel():
                raise StillGoingError("you leave it") from None
            cancel(target)


def follow(target: Target) -> Look:
    """The step and its cluster, once the one or the other has ended."""
    seconds = None if target.args.timeout is None else target.args.timeout * 60
    looks = poll(lambda: look(target), target.args.poll_seconds, seconds)
    with Progress() as progress:
        while True:
            step, cluster = next(looks)
            state, detail = describe(step, cluster)
            if step["Status"]["State"] == "RUNNING" and target.args.yarn_url:
                detail += fetch_yarn_progress(target.args.yarn_url, step["Name"])
            progress.show(state, detail)
            if step["Status"]["State"] in ENDS or cluster["Status"]["State"] in ENDED:
                return step, cluster


def look(target: Target) -> Look:
    """The step and its cluster as they are now."""
    steps = target.emr.list_steps(ClusterId=target.cluster_id, StepIds=[target.step_id])["Steps"]
    return steps[0], fetch_cluster(target.emr, target.cluster_id)


def describe(step: StepSummaryTypeDef, cluster: ClusterTypeDef) -> tuple[str, str]:
    """The state, with the cluster's as long as that is what the step waits for, and details."""
    state, times = step["Status"]["State"], step["Status"].get("Timeline", {})
    start = times.get("StartDateTime")
    if not start:
        reason = cluster["Status"].get("StateChangeReason", {}).get("Message", "")
        detail = f"({reason})" if reason else ""
        return f"step {state}, cluster {cluster['Status']['State']}", detail
    end = times.get("EndDateTime") or utc_now()
    return f"step {state}", f"after {duration((end - start).total_seconds())}"


def fetch_yarn_progress(url: str, name: str) -> str:
    """How much of the cluster the job holds by now; nothing where YARN cannot be asked.

    YARN's own percentage is no use: for Spark it stands at ten from the start to the end.
    """
    query = f"{url.rstrip('/')}/ws/v1/cluster/apps?states=ACCEPTED,RUNNING"
    try:
        with urllib.request.urlopen(query, timeout=5) as answer:  # noqa: S310 (the user's own URL)
            found = json.load(answer)["apps"]["app"]  # apps is null when there is none
        apps = [app for app in found if app["name"] == name]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    told = "; YARN: {state}, {runningContainers} containers, {allocatedVCores} vcores"
    return told.format(**apps[0]) if apps else ""


# Cancelling.


def wants_to_cancel() -> bool:
    """Ask what Ctrl-C is to mean; without a terminal it leaves the step running."""
    if not sys.stdin.isatty():
        return False
    say("stop following: type c to cancel the step, or just press Enter to leave it running")
    try:
        return input().strip().lower() == "c"
    except (EOFError, KeyboardInterrupt):
        return False


def cancel(target: Target) -> None:
    """Ask EMR to cancel the step, and end what it has started on YARN."""
    step, _ = look(target)
    answer = target.emr.cancel_steps(ClusterId=target.cluster_id, StepIds=[target.step_id])
    for told in answer["CancelStepsInfoList"]:
        reason = f": {told['Reason']}" if told.get("Reason") else ""
        say(f"cancelling {target.step_id}: {told.get('Status', 'asked for')}{reason}")
    stop = build_stop_step(step)
    if stop and step["Status"]["State"] == "RUNNING" and not target.args.terminate_after:
        added = target.emr.add_job_flow_steps(JobFlowId=target.cluster_id, Steps=[stop])
        say(f"added step {added['StepIds'][0]}, which stops the job itself on YARN")


# Telling how it went.


def judge(step: StepSummaryTypeDef, cluster: ClusterTypeDef) -> Exit:
    """What the end of a step means."""
    state = step["Status"]["State"]
    if state != "COMPLETED" and cluster["Status"]["State"] not in ACTIVE:
        return Exit.CLUSTER_DIED
    return ENDS[state]


def explain(
    s3: S3Client, target: Target, step: StepSummaryTypeDef, cluster: ClusterTypeDef
) -> Cause | None:
    """Narrate why a step did not complete, as exactly as EMR and the logs tell."""
    end = judge(step, cluster)
    if end == Exit.CLUSTER_DIED:
        reason = failure_reason(cluster["Status"])
        say(f"cluster {target.cluster_id} is {cluster['Status']['State']}: {reason}")
        if "BOOTSTRAP_FAILURE" in reason:
            iac_create.show_bootstrap_log(s3, cluster, target.args)
        return None
    say(f"step {target.step_id} is {step['Status']['State']}: {describe_failure(step)}")
    if end != Exit.FAILED:
        return None
    if not cluster.get("LogUri"):
        say("the cluster keeps no logs: set log_uri in dl.cfg before you create the next one")
        return None
    cause = await_cause(s3, target, cluster)
    show_cause(cause, target, cluster)
    return cause


def describe_failure(step: StepSummaryTypeDef) -> str:
    """EMR's reason and the log that EMR names."""
    log = step["Status"].get("FailureDetails", {}).get("LogFile")
    return failure_reason(step["Status"]) + (f" ({log})" if log else "")


def await_cause(s3: S3Client, target: Target, cluster: ClusterTypeDef) -> Cause | None:
    """What the logs tell, as soon as the driver's are there; at the latest, what there is then."""
    cause = None
    looks = poll(
        lambda: find_cause(s3, cluster["LogUri"], target.cluster_id, target.step_id),
        target.args.poll_seconds,
        target.args.log_wait * 60,
    )
    try:
        with Progress() as progress:
            for cause in looks:
                if cause and cause.certain:
                    break
                progress.show(
                    "waiting for the logs", "(EMR brings them within minutes; Ctrl-C skips)"
                )
    except (StillGoingError, KeyboardInterrupt):
        pass
    except ClientError as error:
        say(f"the logs cannot be read: {explain_error(error)}")
    return cause


def show_cause(cause: Cause | None, target: Target, cluster: ClusterTypeDef) -> None:
    """Narrate what the log says, where it is, and what to do."""
    folder = cluster["LogUri"].replace("s3n://", "s3://") + target.cluster_id
    if not cause:
        say(f"the logs tell no cause yet; look again in some minutes: {folder}/")
        return
    for line in cause.lines:
        say(f"  {line}")
    say(f"log: {cause.log}")
    if not cause.certain:
        say(f"the driver's own log is not there yet; it will be in {folder}/containers/")
    say("next: mend the cause, then run the same command again")


def tell(target: Target, state: str, end: Exit, cause: Cause | None = None) -> Exit:
    """Print the outcome."""
    outcome = {
        "cluster_id": target.cluster_id,
        "step_id": target.step_id,
        "state": state,
        "outcome": end.name,
        "cause": list(cause.lines) if cause else None,
        "log": cause.log if cause else None,
    }
    plain = f"{target.cluster_id} {target.step_id} {state}"
    print(json.dumps(outcome, indent=2) if target.args.json else plain)
    return end


def end_cluster(session: boto3.Session, cluster_id: str, args: argparse.Namespace) -> None:
    """End the cluster if that was asked for and nobody else has work on it."""
    if not args.terminate_after:
        return
    emr = session.client("emr")
    others = emr.list_steps(ClusterId=cluster_id, StepStates=UNFINISHED)["Steps"]
    if others:
        ids = ", ".join(other["Id"] for other in others)
        warn(f"{cluster_id} is not ended, it has other steps: {ids}; see iac_terminate.py")
        return
    wishes = argparse.Namespace(
        unprotect=False, no_wait=False, poll_seconds=args.poll_seconds, timeout_minutes=30
    )
    iac_terminate.end_clusters(emr, [cluster_id], wishes)


if __name__ == "__main__":
    sys.exit(main())
