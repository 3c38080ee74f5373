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
from typing import TYPE_CHECKING

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
from configs import ConfigError
from lake.exit_codes import ExitCode

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_emr import EMRClient
    from mypy_boto3_emr.type_defs import ClusterTypeDef

    from aws.logs import Cause
    from aws.steps import Snapshot
    from configs import EmrConfig

END_MINUTES = 30  # for --terminate-after to see the cluster end


@dataclasses.dataclass(frozen=True)
class SubmitOptions:
    """What the command line says."""

    common: CommonOptions
    cluster_id: str | None
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and give its exit code."""
    return run_script(submit, argv)


def submit(argv: Sequence[str] | None) -> ExitCode:
    """Upload the code, add the step, follow it and end the cluster, as the command line says."""
    options = parse_args(sys.argv[1:] if argv is None else argv)
    config = load_cluster_config(options.common, required=("code_uri",))
    check_paths(load_job_config(options.common.config, options.job_args))
    code = read_code(ROOT, options.common.config, str(config.code_uri))
    arguments = JobArguments(split_args(options.spark_args), options.job_args, os.environ)
    step = build_step(code, config, arguments)
    if options.dry_run:
        print(json.dumps({"upload": sorted(object_uris(code)), "step": step}, indent=2))
        return ExitCode.DONE
    session = connect(options.common, config)
    refuse_secrets(code, session)
    cluster_id, created = prepare_step(session, config, code, options)
    try:
        added = add_step(
            session, cluster_id, step, options.common.poll_seconds, attach=options.attach
        )
    except BaseException:
        if created and options.terminate_after:
            waiting = options.waiting(END_MINUTES)
            end_unused_cluster(session.client("emr"), cluster_id, waiting)
        raise
    return follow_and_report(session, added, options)


def parse_args(arguments: Sequence[str]) -> SubmitOptions:
    """The command line; what follows -- is for etl.py."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).partition("\n")[0],
        usage="%(prog)s [flags] [-- arguments of etl.py, such as --output s3://my-bucket/lake]",
    )
    flag = parser.add_argument
    flag("--cluster-id", metavar="ID", help="instead of finding the cluster by its name")
    flag("--create", action="store_true", help="create the cluster if it does not exist")
    flag("--terminate-after", action="store_true", help="end the cluster when the step has ended")
    flag("--catalog", action="store_true", help="then register the tables in the Glue catalogue")
    flag("--no-wait", dest="wait", action="store_false", help="only add the step")
    flag("--no-attach", dest="attach", action="store_false", help="fail if the step exists already")
    flag("--timeout", type=float, metavar="MINUTES", help="give up waiting; the step goes on")
    flag("--log-wait", type=float, default=10, metavar="MINUTES", help="for a failed step's logs")
    flag("--spark-args", default="", metavar='"ARGS"', help="more arguments of spark-submit")
    flag("--dry-run", action="store_true", help="print the step; ask AWS nothing")
    flag("--json", action="store_true", help="print the outcome as JSON")
    add_common_flags(parser, ("code_uri",))
    end = arguments.index("--") if "--" in arguments else len(arguments)
    args = vars(parser.parse_args(arguments[:end]))
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
    return options


def split_args(text: str) -> list[str]:
    """Arguments that are quoted as for a shell."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--spark-args {text!r}: {error}") from None


# Before the step.


def prepare_step(
    session: boto3.Session, config: EmrConfig, code: Code, options: SubmitOptions
) -> tuple[str, bool]:
    """Upload the code and find or create the cluster; returns its id and whether it is new."""
    cluster = choose_cluster(session.client("emr"), config, options)
    new = upload(session.client("s3"), code)
    say(f"uploaded {new} of {len(code.files)} files to {code.uri}")
    if cluster:
        return cluster["Id"], False
    etl = load_job_config(options.common.config, options.job_args)
    # The step waits for the cluster, so nothing else has to.
    creation = CreateOptions(
        options.waiting(None), wait=False, ends_after_steps=options.terminate_after
    )
    return find_or_create(session, config, etl, creation), True


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


def follow_and_report(session: boto3.Session, added: AddedStep, options: SubmitOptions) -> ExitCode:
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
        register_tables(session, options)
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


def register_tables(session: boto3.Session, options: SubmitOptions) -> None:
    """Register the tables that the step has published in the Glue Data Catalog."""
    path = options.common.config
    output = load_job_config(path, options.job_args).output
    for change in publish_catalog(session, load_catalog_config(path, {("etl", "output"): output})):
        say(describe_change(change))


if __name__ == "__main__":
    sys.exit(main())
