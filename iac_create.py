"""Find the project's EMR cluster, or create it, and wait until it takes steps.

Prints the cluster's id. Exit codes: 0 it is ready (or asked for, with --no-wait), 1 AWS or the
cluster failed, 2 usage or configuration.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from aws import account as aws_setup
from aws import prices as aws_prices
from aws.cluster import ACTIVE, failure_reason, fetch_cluster, find_cluster
from aws.console import Progress, say
from aws.requests import MANAGED_TAG, build_cluster_request
from aws.s3 import list_keys, read_text, split_uri
from aws.session import (
    AwsError,
    StillGoingError,
    add_flags,
    ask_once,
    connect,
    error_code,
    explain_error,
    load_config,
    make_once_client,
    poll,
    run_script,
)
from configs import EmrConfig, load_etl_config
from lake.formats import duration

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_emr import EMRClient
    from mypy_boto3_emr.type_defs import ClusterTypeDef, RunJobFlowInputTypeDef
    from mypy_boto3_s3 import S3Client

    from configs import EtlConfig

SETTINGS = [field.name for field in dataclasses.fields(EmrConfig) if "parse" in field.metadata]
BOOTSTRAP_LOG = re.compile(r"/(bootstrap-actions/\d+|provision-node/.*)/stderr(\.gz)?$")
LOG_LINES = 20
LOG_SECONDS = 300  # EMR pushes a dying node's logs to S3 within minutes
NEW_ROLE_TRIES = 8  # a new instance profile takes IAM some seconds to show everywhere


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and give its exit code."""
    return run_script(create, argv)


def create(argv: Sequence[str] | None) -> int:
    """Find or create the cluster as the command line says."""
    args = parse_args(argv)
    config = load_config(args, required=("code_uri", "log_uri"))
    if args.dry_run:
        print(json.dumps(build_cluster_request(config), indent=2))
        return 0
    session = connect(args, config)
    print(find_or_create(session, config, load_etl_config(args.config), args))
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; every key of [emr] has its flag."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    add_create_flags(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the request; ask AWS nothing")
    parser.add_argument("--no-wait", action="store_true", help="only ask for the cluster")
    add_flags(parser, SETTINGS)
    return parser.parse_args(argv)


def add_create_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of what is made before the cluster."""
    for flag, meaning in (
        ("--create-bucket", "make the missing buckets: private, encrypted"),
        ("--create-roles", "make EMR's role and the nodes', or update their policies"),
        ("--tag-network", f"tag the subnets and their VPC {MANAGED_TAG}"),
    ):
        parser.add_argument(flag, action="store_true", help=meaning)
    parser.add_argument(
        "--timeout-minutes", type=float, default=60, help="for the cluster to start"
    )


def find_or_create(
    session: boto3.Session, config: EmrConfig, etl: EtlConfig, args: argparse.Namespace
) -> str:
    """The id of the one cluster, which takes steps unless args.no_wait.

    The arguments are those of add_create_flags, with poll_seconds and, if at all, no_wait.
    """
    found = find_cluster(session.client("emr"), config.cluster_name)
    if found:
        cluster_id = found["Id"]
        say(f"{config.cluster_name} is there: {cluster_id}, {found['Status']['State']}")
    else:
        request = build_cluster_request(config)
        prepare(session, config, etl, args)
        say(describe_price(config, session))
        cluster_id = create_cluster(session, request, args)
        say(f"asked for {config.cluster_name}: {cluster_id}")
    if not getattr(args, "no_wait", False):
        wait_until_ready(session, cluster_id, args)
    return cluster_id


# Before the cluster.


def prepare(
    session: boto3.Session, config: EmrConfig, etl: EtlConfig, args: argparse.Namespace
) -> None:
    """Make what the flags ask for, then check that nothing stands in the cluster's way."""
    if args.create_bucket:
        buckets = aws_setup.written_buckets(config, etl)
        aws_setup.create_buckets(session.client("s3"), buckets, config.region)
    if args.create_roles:
        aws_setup.create_roles(session, config, etl)
    if args.tag_network:
        aws_setup.tag_network(session.client("ec2"), config)
    problems = aws_setup.check_account(session, config, etl)
    if problems:
        raise AwsError("; ".join(problems))
    aws_setup.create_security_configuration(session.client("emr"), config.security_configuration)


def describe_price(config: EmrConfig, session: boto3.Session) -> str:
    """What the cluster costs at most, per hour and while it idles."""
    nodes = list_nodes(config)
    price_list = aws_prices.PriceList(session, config.prices)
    known = {kind: price_list.of(kind) for types in nodes for kind in types}
    unknown = sorted(kind for kind, price in known.items() if price is None)
    if unknown:
        return f"price per hour: unknown; add {', '.join(unknown)} to [prices] in dl.cfg"
    hourly = sum(max(known[kind] or 0 for kind in types) for types in nodes)
    idle = hourly * config.idle_minutes / 60
    return (
        f"price per hour: at most {aws_prices.dollars(hourly)} for {len(nodes)} nodes, EC2 and EMR"
        f" without disks and traffic; idle for {config.idle_minutes} min it ends itself,"
        f" which costs at most {aws_prices.dollars(idle)}"
    )


def list_nodes(config: EmrConfig) -> list[tuple[str, ...]]:
    """For each node that the cluster can have, the types that it may be."""
    core, task = config.core_count, config.task_count
    more = max(0, (config.scaling_maximum or 0) - core - task)
    return [
        config.master_types,
        *[config.core_types] * core,
        *[config.task_types] * task,
        *[config.core_types + config.task_types] * more,
    ]


# The cluster.


def create_cluster(
    session: boto3.Session, request: RunJobFlowInputTypeDef, args: argparse.Namespace
) -> str:
    """Ask for the cluster, once; a role made just now may have to be waited for."""
    emr = make_once_client(session)
    tries = NEW_ROLE_TRIES if args.create_roles else 1
    for _ in range(tries - 1):
        try:
            return ask_for_cluster(emr, request, args)
        except ClientError as error:
            if not is_about_roles(error):
                raise
            say("IAM does not show the new roles everywhere yet: asking again")
            time.sleep(args.poll_seconds)
    return ask_for_cluster(emr, request, args)


def ask_for_cluster(
    emr: EMRClient, request: RunJobFlowInputTypeDef, args: argparse.Namespace
) -> str:
    """Send RunJobFlow once and give the cluster's id."""
    return ask_once(lambda: emr.run_job_flow(**request), args.poll_seconds)["JobFlowId"]


def is_about_roles(error: ClientError) -> bool:
    """Whether EMR refused a role or an instance profile."""
    message = error.response["Error"].get("Message", "")
    refused = error_code(error) == "ValidationException"
    return refused and bool(re.search("instance ?profile|role", message, re.IGNORECASE))


def wait_until_ready(session: boto3.Session, cluster_id: str, args: argparse.Namespace) -> None:
    """Follow the cluster until it takes steps, or fail with EMR's reason and the node's log."""
    emr = session.client("emr")
    started = time.monotonic()
    looks = poll(
        lambda: fetch_cluster(emr, cluster_id), args.poll_seconds, args.timeout_minutes * 60
    )
    with Progress() as progress:
        for cluster in looks:
            state = cluster["Status"]["State"]
            progress.show(f"{cluster_id}: {state}", duration(time.monotonic() - started))
            if state in ("RUNNING", "WAITING"):
                return
            if state not in ACTIVE:
                break
    reason = failure_reason(cluster["Status"])
    if "BOOTSTRAP_FAILURE" in reason:
        show_bootstrap_log(session.client("s3"), cluster, args)
    raise AwsError(f"cluster {cluster_id} did not start: {state}, {reason}")


def show_bootstrap_log(s3: S3Client, cluster: ClusterTypeDef, args: argparse.Namespace) -> None:
    """Narrate the end of what the failing node wrote; EMR brings it to S3 late, or never."""
    bucket, folder = split_uri(cluster["LogUri"])
    prefix = f"{folder}{cluster['Id']}/node/"
    reason = failure_reason(cluster["Status"])
    try:
        for keys in poll(lambda: list_keys(s3, bucket, prefix), args.poll_seconds, LOG_SECONDS):
            key = choose_bootstrap_log(keys, reason)
            if key:
                say(f"end of s3://{bucket}/{key}:")
                say("\n".join(read_text(s3, bucket, key).splitlines()[-LOG_LINES:]))
                return
    except (StillGoingError, ClientError) as error:
        say(f"no log of the node under s3://{bucket}/{prefix}: {explain_error(error)}")


def choose_bootstrap_log(keys: Sequence[str], reason: str) -> str | None:
    """The stderr of a node's setup, of the node that EMR's reason names if it names one."""
    logs = sorted(key for key in keys if BOOTSTRAP_LOG.search(key))
    named = [key for key in logs for node in re.findall(r"i-[0-9a-f]+", reason) if node in key]
    return next(iter(named or logs), None)


if __name__ == "__main__":
    sys.exit(main())
