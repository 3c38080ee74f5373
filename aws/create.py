"""The project's cluster: found, or created in an account that is ready for it."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from aws.account import (
    create_buckets,
    create_roles,
    create_security_configuration,
    find_account_problems,
    tag_network,
    written_buckets,
)
from aws.cluster import ACTIVE, failure_reason, fetch_cluster, find_cluster
from aws.console import Progress, say
from aws.logs import show_bootstrap_log
from aws.prices import PriceList, dollars
from aws.requests import build_cluster_request
from aws.session import AwsError, Waiting, ask_once, error_code, make_once_client, poll
from lake.formats import duration

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_emr.type_defs import RunJobFlowInputTypeDef

    from configs import EmrConfig, EtlConfig

NEW_ROLE_TRIES = 8  # IAM is eventually consistent: EMR may see a new role only after some seconds


@dataclasses.dataclass(frozen=True)
class CreateOptions:
    """What may be made before the cluster, and whether to wait for it."""

    waiting: Waiting
    create_bucket: bool = False
    create_roles: bool = False
    tag_network: bool = False
    wait: bool = True


def find_or_create(
    session: boto3.Session, config: EmrConfig, etl: EtlConfig, options: CreateOptions
) -> str:
    """The id of the project's one cluster, which accepts steps if the options say to wait."""
    found = find_cluster(session.client("emr"), config.cluster_name)
    if found:
        cluster_id = found["Id"]
        say(f"found {config.cluster_name}: {cluster_id}, {found['Status']['State']}")
    else:
        request = build_cluster_request(config)
        prepare_account(session, config, etl, options)
        say(describe_price(config, session))
        cluster_id = create_cluster(session, request, options)
        say(f"asked for {config.cluster_name}: {cluster_id}")
    if options.wait:
        wait_until_ready(session, cluster_id, options.waiting)
    return cluster_id


# Before the cluster.


def prepare_account(
    session: boto3.Session, config: EmrConfig, etl: EtlConfig, options: CreateOptions
) -> None:
    """Make what the options ask for; raise an AwsError if something is then still missing."""
    if options.create_bucket:
        create_buckets(session.client("s3"), written_buckets(config, etl), config.region)
    if options.create_roles:
        create_roles(session, config, etl)
    if options.tag_network:
        tag_network(session.client("ec2"), config)
    problems = find_account_problems(session, config, etl)
    if problems:
        raise AwsError("; ".join(problems))
    create_security_configuration(session.client("emr"), config.security_configuration)


def describe_price(config: EmrConfig, session: boto3.Session) -> str:
    """What the cluster costs at most per hour, and until its idle timeout ends it."""
    nodes = list_nodes(config)
    price_list = PriceList(session, config.prices)
    prices = {kind: price_list.of(kind) for types in nodes for kind in types}
    unknown = sorted(kind for kind, price in prices.items() if price is None)
    if unknown:
        return f"price per hour: unknown; add {', '.join(unknown)} to [prices] in dl.cfg"
    hourly = sum(max(prices[kind] or 0 for kind in types) for types in nodes)
    idle = hourly * config.idle_minutes / 60
    return (
        f"price per hour: at most {dollars(hourly)} for {len(nodes)} nodes, EC2 and EMR,"
        f" without disks and traffic; after {config.idle_minutes} idle minutes, which cost at"
        f" most {dollars(idle)}, the cluster ends itself"
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
    session: boto3.Session, request: RunJobFlowInputTypeDef, options: CreateOptions
) -> str:
    """The id of a new cluster; EMR is asked again while IAM does not show it the new roles."""
    emr = make_once_client(session)
    poll_seconds = options.waiting.poll_seconds
    tries = NEW_ROLE_TRIES if options.create_roles else 1
    while True:
        try:
            return ask_once(lambda: emr.run_job_flow(**request), poll_seconds)["JobFlowId"]
        except ClientError as error:
            tries -= 1
            if not (tries and is_about_roles(error)):
                raise
        say("EMR does not see the new roles yet: asking again")
        time.sleep(poll_seconds)


def is_about_roles(error: ClientError) -> bool:
    """Whether EMR refused a role or an instance profile."""
    message = error.response["Error"].get("Message", "")
    refused = error_code(error) == "ValidationException"
    return refused and bool(re.search("instance ?profile|role", message, re.IGNORECASE))


def wait_until_ready(session: boto3.Session, cluster_id: str, waiting: Waiting) -> None:
    """Follow the cluster until it accepts steps; else an AwsError with EMR's reason."""
    emr = session.client("emr")
    started = time.monotonic()
    looks = poll(lambda: fetch_cluster(emr, cluster_id), waiting.poll_seconds, waiting.timeout)
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
        show_bootstrap_log(session.client("s3"), cluster, waiting.poll_seconds)
    raise AwsError(f"cluster {cluster_id} did not start: {state}, {reason}")
