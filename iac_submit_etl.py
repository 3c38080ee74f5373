"""Run the job on the cluster: upload its code, add one step, follow it, and explain a failure.

Prints the cluster, the step and its state. While a step with the same code and
arguments has not ended, the command follows that one instead of adding another.
Exit codes: those of lake/exit_codes.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aws.account import written_buckets
from aws.catalog import describe_change, load_catalog_config, publish_catalog
from aws.cluster import ACTIVE, fetch_cluster, find_cluster
from aws.code import (
    ROOT,
    Code,
    check_paths,
    load_job_config,
    object_uris,
    read_code,
    refuse_secrets,
    upload,
)
from aws.console import say
from aws.create import CreateOptions, find_or_create
from aws.locations import build_job_flags, locate, locate_without_aws
from aws.session import (
    AWS_ERRORS,
    AwsError,
    CommonOptions,
    Waiting,
    add_common_flags,
    connect,
    explain_error,
    load_cluster_config,
    read_common_options,
    run_script,
)
from aws.set_up import create_buckets
from aws.steps import (
    AddedStep,
    JobArguments,
    add_step,
    build_step,
    cancel,
    describe_cluster_end,
    end_unused_cluster,
    explain_end,
    follow,
    judge,
)
from aws.upload import DataFile, find_data, find_sample, upload_data
from configs import ConfigError
from lake.exit_codes import ExitCode

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_emr import EMRClient
    from mypy_boto3_emr.type_defs import ClusterTypeDef, StepConfigTypeDef

    from aws.logs import Cause
    from aws.steps import Snapshot
    from configs import EmrConfig, EtlConfig

END_MINUTES = 30  # for --terminate-after to see the cluster end


@dataclasses.dataclass(frozen=True)
class SubmitOptions:
    """What the command line says."""

    common: CommonOptions
    cluster_id: str | None
    set_up: bool
    sample: bool
    upload: Path | None
    create: bool
    terminate_after: bool
    catalog: bool
    wait: bool
    attach: bool
    timeout: float | None  # minutes
    log_wait: float  # minutes
    dry_run: bool
    json: bool
    spark_args: str
    job_args: Sequence[str]

    def waiting(self, minutes: float | None) -> Waiting:
        """To look as often as the command line says, for so many minutes."""
        return Waiting(self.common.poll_seconds, minutes)


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """One run of the job on a cluster: settings with all S3 paths, what is uploaded, the step."""

    emr: EmrConfig
    etl: EtlConfig
    code: Code
    step: StepConfigTypeDef
    data: Sequence[DataFile]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and give its exit code."""
    return run_script(submit, argv)


def submit(argv: Sequence[str] | None) -> ExitCode:
    """Upload the code, add the step, follow it and end the cluster, as the command line says."""
    options = parse_args(sys.argv[1:] if argv is None else argv)
    if options.dry_run:
        return show_run(plan_run(None, options))
    session = connect(options.common, load_cluster_config(options.common))
    plan = plan_run(session, options)
    refuse_secrets(plan.code, session)
    cluster_id, created = prepare_step(session, plan, options)
    try:
        added = add_step(
            session, cluster_id, plan.step, options.common.poll_seconds, attach=options.attach
        )
    except BaseException:
        if created and options.terminate_after:
            waiting = options.waiting(END_MINUTES)
            end_unused_cluster(session.client("emr"), cluster_id, waiting)
        raise
    return follow_and_report(session, added, plan, options)


def plan_run(session: boto3.Session | None, options: SubmitOptions) -> RunPlan:
    """What the command line asks for, before anything is sent; without a session for a dry run."""
    path = options.common.config
    emr, given = load_cluster_config(options.common), load_job_config(path, options.job_args)
    emr, etl = locate(session, emr, given) if session else locate_without_aws(emr, given)
    check_paths(etl)
    code = read_code(ROOT, path, str(emr.code_uri))
    job = [*build_job_flags(given, etl), *options.job_args]
    step = build_step(code, emr, JobArguments(split_args(options.spark_args), job, os.environ))
    data = read_data(options, etl)
    return RunPlan(emr, etl, code, step, data)


def read_data(options: SubmitOptions, etl: EtlConfig) -> Sequence[DataFile]:
    """The files that --sample or --upload puts where the job reads them; none without either."""
    if options.sample:
        return find_sample(etl)
    return find_data(options.upload, etl) if options.upload else ()


def show_run(plan: RunPlan) -> ExitCode:
    """Print what would be uploaded and the step, as a dry run."""
    uris = [*object_uris(plan.code), *(file.uri for file in plan.data)]
    print(json.dumps({"upload": sorted(uris), "step": plan.step}, indent=2))
    return ExitCode.DONE


def parse_args(arguments: Sequence[str]) -> SubmitOptions:
    """The command line; what follows -- is for etl.py."""
    parser = build_parser()
    end = arguments.index("--") if "--" in arguments else len(arguments)
    known, unknown = parser.parse_known_args(arguments[:end])
    if unknown:
        parser.error(
            f"unrecognized arguments: {' '.join(unknown)}; write -- before arguments of etl.py"
        )
    args = vars(known)
    names = {field.name for field in dataclasses.fields(SubmitOptions)}
    options = SubmitOptions(
        common=read_common_options(args),
        job_args=arguments[end + 1 :],
        **{name: value for name, value in args.items() if name in names},
    )
    if not options.wait and (options.terminate_after or options.catalog):
        wish = "--terminate-after" if options.terminate_after else "--catalog"
        parser.error(f"{wish} has to wait for the step: leave out --no-wait")
    if options.create and options.cluster_id:
        parser.error("--create finds or creates the cluster by its name: leave out --cluster-id")
    if options.set_up and not options.create:
        parser.error("--set-up prepares the account for a cluster: add --create")
    return options


def build_parser() -> argparse.ArgumentParser:
    """The flags of the script itself."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).partition("\n")[0],
        usage="%(prog)s [flags] [-- arguments of etl.py, such as --output s3://my-bucket/lake]",
    )
    flag = parser.add_argument
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--sample", action="store_true", help="upload the sample data first")
    data.add_argument(
        "--upload", type=Path, metavar="FOLDER", help="upload its song_data and log_data first"
    )
    for name, meaning in (
        ("--set-up", "make the bucket and the roles, tag the network: what an account needs once"),
        ("--create", "create the cluster if it does not exist"),
        ("--terminate-after", "end the cluster when the step has ended"),
        ("--catalog", "then register the tables in the Glue catalogue"),
        ("--dry-run", "print the step; ask AWS nothing"),
        ("--json", "print the outcome as JSON"),
    ):
        flag(name, action="store_true", help=meaning)
    flag("--cluster-id", metavar="ID", help="instead of finding the cluster by its name")
    flag("--no-wait", dest="wait", action="store_false", help="only add the step")
    flag("--no-attach", dest="attach", action="store_false", help="fail if the step exists already")
    flag("--timeout", type=float, metavar="MINUTES", help="give up waiting; the step goes on")
    flag("--log-wait", type=float, default=10, metavar="MINUTES", help="for a failed step's logs")
    flag("--spark-args", default="", metavar='"ARGS"', help="more arguments of spark-submit")
    add_common_flags(parser, ("bucket", "code_uri"))
    return parser


def split_args(text: str) -> list[str]:
    """Arguments that are quoted as for a shell."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--spark-args {text!r}: {error}") from None


# Before the step.


def prepare_step(session: boto3.Session, plan: RunPlan, options: SubmitOptions) -> tuple[str, bool]:
    """Upload code and data, find or create the cluster; returns its id and whether it is new."""
    s3 = session.client("s3")
    cluster = choose_cluster(session.client("emr"), plan.emr, options)
    if options.set_up:
        create_buckets(s3, written_buckets(plan.emr, plan.etl), plan.emr.region)
    new = upload(s3, plan.code)
    say(f"uploaded {new} of {len(plan.code.files)} files to {plan.code.uri}")
    if plan.data:
        upload_data(s3, plan.data)
    if cluster and not options.set_up:
        return cluster["Id"], False
    # The step waits for the cluster, so nothing else has to.
    creation = CreateOptions(
        options.waiting(None),
        create_bucket=options.set_up,
        create_roles=options.set_up,
        tag_network=options.set_up,
        wait=False,
        ends_after_steps=options.terminate_after,
    )
    return find_or_create(session, plan.emr, plan.etl, creation), cluster is None


def choose_cluster(
    emr: EMRClient, config: EmrConfig, options: SubmitOptions
) -> ClusterTypeDef | None:
    """The cluster that exists, or None if it is to be created."""
    if options.cluster_id:
        cluster = fetch_cluster(emr, options.cluster_id)
        if cluster["Status"]["State"] not in ACTIVE:
            raise AwsError(
                f"cluster {options.cluster_id} accepts no steps any more, it is"
                f" {cluster['Status']['State']}: start a new one with iac_create.py"
            )
        return cluster
    found = find_cluster(emr, config.cluster_name)
    if not (found or options.create):
        raise AwsError(
            f"there is no cluster named {config.cluster_name} in {emr.meta.region_name}:"
            " run iac_create.py, or add --create"
        )
    return found


# After the step was added.


def follow_and_report(
    session: boto3.Session, added: AddedStep, plan: RunPlan, options: SubmitOptions
) -> ExitCode:
    """Follow the step to its end, print the outcome, then do what the options ask for."""
    if not options.wait:
        return print_outcome(added, "PENDING", ExitCode.DONE, options)
    try:
        step, cluster = follow_or_cancel(added, options)
    except (*AWS_ERRORS, KeyboardInterrupt) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        reason = "stopped" if stopped else explain_error(error)
        say_what_goes_on(added, reason, options)
        code = ExitCode.CTRL_C if stopped else ExitCode.STILL_RUNNING
        return print_outcome(added, "RUNNING", code, options)
    code = judge(step, cluster)
    cause = None
    if code != ExitCode.DONE:
        log_waiting = options.waiting(options.log_wait)
        cause = explain_end(session.client("s3"), step, cluster, log_waiting)
    print_outcome(added, step["Status"]["State"], code, options, cause)
    if options.terminate_after:
        end_unused_cluster(added.emr, added.cluster_id, options.waiting(END_MINUTES))
    if code == ExitCode.DONE and options.catalog:
        register_tables(session, plan, options)
    return code


def say_what_goes_on(added: AddedStep, reason: str, options: SubmitOptions) -> None:
    """Print that the step goes on, and what becomes of --terminate-after."""
    if options.terminate_after:
        try:
            say(describe_cluster_end(added.emr, added.cluster_id))
        except AWS_ERRORS:  # such as an expired token
            say(f"{added.cluster_id} may go on after the step: see get_cluster_status.py later")
    say(f"{reason}; step {added.id} goes on: run the same command again to follow it")


def follow_or_cancel(added: AddedStep, options: SubmitOptions) -> Snapshot:
    """Follow the step to its end; Ctrl-C asks whether to cancel it, and else is raised."""
    while True:
        try:
            return follow(added, options.waiting(options.timeout))
        except KeyboardInterrupt:
            if not wants_to_cancel():
                raise
            # The end of the cluster also ends what the step has started on YARN.
            cancel(added, stop_job=not options.terminate_after)


def wants_to_cancel() -> bool:
    """Ask what Ctrl-C is to mean; without a terminal it leaves the step running."""
    if not sys.stdin.isatty():
        return False
    say("stopped following: type c to cancel the step, or press Enter to leave it running")
    try:
        return input().strip().lower() == "c"
    except (EOFError, KeyboardInterrupt):
        return False


def print_outcome(
    added: AddedStep,
    state: str,
    code: ExitCode,
    options: SubmitOptions,
    cause: Cause | None = None,
) -> ExitCode:
    """Print the outcome as the result of the script, and return its exit code."""
    outcome = {
        "cluster_id": added.cluster_id,
        "step_id": added.id,
        "state": state,
        "outcome": code.name,
        "cause": list(cause.lines) if cause else None,
        "log": cause.log if cause else None,
        "next": cause.cure if cause else None,
    }
    plain = f"{added.cluster_id} {added.id} {state}"
    print(json.dumps(outcome, indent=2) if options.json else plain)
    return code


def register_tables(session: boto3.Session, plan: RunPlan, options: SubmitOptions) -> None:
    """Register the tables that the step has published in the Glue Data Catalog."""
    output = {("etl", "output"): plan.etl.output}
    lake = load_catalog_config(options.common.config, output)
    for change in publish_catalog(session, lake):
        say(describe_change(change))
    say(f"all tables are in {lake.database}: ask them with python -m aws.athena")


if __name__ == "__main__":
    sys.exit(main())
