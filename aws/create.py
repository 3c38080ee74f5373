"""The project's cluster: found, or created in an account that is ready for it."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from aws.account import find_account_problems, has_security_configuration, written_buckets
from aws.cluster import ACTIVE, failure_reason, fetch_cluster, find_cluster
from aws.console import Progress, say
from aws.logs import show_bootstrap_log
from aws.prices import PriceList, dollars
from aws.refusals import explain_start
from aws.requests import build_cluster_request
from aws.session import (
    AwsError,
    StillGoingError,
    Waiting,
    ask_once,
    error_code,
    make_once_client,
    poll,
)
from aws.set_up import (
    create_buckets,
    create_roles,
    create_security_configuration,
    tag_network,
)
from lake.formats import duration

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_emr.type_defs import RunJobFlowInputTypeDef

    from configs import EmrConfig, EtlConfig

# IAM is eventually consistent: EMR may see a new role only after some seconds, and the policies of
# that role still later. https://github.com/hashicorp/terraform-provider-aws/pull/3050
NEW_ROLE_TRIES = 8
NEW_ROLE_SECONDS = 120
ABOUT_ROLES = re.compile("instance ?profile|role|permission", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class CreateOptions:
    """What may be made before the cluster, and whether to wait for it."""

    waiting: Waiting
    create_bucket: bool = False
    create_roles: bool = False
    tag_network: bool = False
    wait: bool = True
    ends_after_steps: bool = False  # of the new cluster: it does not wait for more


def find_or_create(
    session: boto3.Session, config: EmrConfig, etl: EtlConfig, options: CreateOptions
) -> str:
    """The id of the project's one cluster, which accepts steps if the options say to wait."""
    request = build_cluster_request(config, ends_after_steps=options.ends_after_steps)
    found = find_cluster(session.client("emr"), config.cluster_name)
    new_roles = set_up_account(session, config, etl, options)
    if found:
        cluster_id = found["Id"]
        say(f"found {config.cluster_name}: {cluster_id}, {found['Status']['State']}")
    else:
        check_account(session, config, etl)
        say(describe_price(config, session, options))
        cluster_id = start_cluster(session, request, options, new_roles=new_roles)
    if options.wait:
        wait_until_ready(session, cluster_id, options.waiting)
    return cluster_id


# Before the cluster.


def set_up_account(
    session: boto3.Session, config: EmrConfig, etl: EtlConfig, options: CreateOptions
) -> bool:
    """Make what the options ask for, with or without a cluster; returns whether roles are new."""
    if options.create_bucket:
        create_buckets(session.client("s3"), written_buckets(config, etl), config.region)
    new_roles = options.create_roles and create_roles(session, config, etl)
    if options.tag_network:
        tag_network(session.client("ec2"), config)
    return new_roles


def check_account(session: boto3.Session, config: EmrConfig, etl: EtlConfig) -> None:
    """Raise an AwsError if something is missing that the cluster needs."""
    problems = find_account_problems(session, config, etl)
    if problems:
        raise AwsError("; ".join(problems))
    emr, security = session.client("emr"), config.security_configuration
    if not has_security_configuration(emr, security):
        create_security_configuration(emr, security)


def describe_price(config: EmrConfig, session: boto3.Session, options: CreateOptions) -> str:
    """What the cluster costs at most per hour, and until it ends itself."""
    nodes = list_nodes(config)
    price_list = PriceList(session, config.prices)
    prices = {kind: price_list.of(kind) for types in nodes for kind in types}
    unknown = sorted(kind for kind, price in prices.items() if price is None)
    if unknown:
        return f"price per hour: unknown; add {', '.join(unknown)} to [prices] in dl.cfg"
    hourly = sum(max(prices[kind] or 0 for kind in types) for types in nodes)
    idle = dollars(hourly * config.idle_minutes / 60)
    end = f"after {config.idle_minutes} idle minutes, which cost at most {idle},"
    return (
        f"price per hour: at most {dollars(hourly)} for {len(nodes)} nodes, EC2 and EMR,"
        f" without disks and traffic; {'after its step' if options.ends_after_steps else end}"
        " the cluster ends itself"
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


def start_cluster(
    session: boto3.Session,
    request: RunJobFlowInputTypeDef,
    options: CreateOptions,
    *,
    new_roles: bool,
) -> str:
    """The id of a new cluster; with new roles a second one is tried where EMR ends the first."""
    if not new_roles:
        return request_cluster(session, request, options)
    say("waiting until EMR sees the new roles")
    time.sleep(options.waiting.poll_seconds)
    cluster_id = request_cluster(session, request, options)
    if not is_ended_for_roles(session, cluster_id, options.waiting):
        return cluster_id
    say(f"EMR has ended {cluster_id}, because it did not see the new roles yet: trying once more")
    time.sleep(options.waiting.poll_seconds)
    return request_cluster(session, request, options)


def request_cluster(
    session: boto3.Session, request: RunJobFlowInputTypeDef, options: CreateOptions
) -> str:
    """The id of a new cluster; EMR is asked again while IAM does not show it the new roles."""
    emr = make_once_client(session)
    poll_seconds = options.waiting.poll_seconds
    tries = NEW_ROLE_TRIES if options.create_roles else 1
    while True:
        try:
            answer = ask_once(lambda: emr.run_job_flow(**request), poll_seconds)
        except ClientError as error:
            tries -= 1
            if not (tries and is_about_roles(error)):
                raise
        else:
            say(f"asked for {request['Name']}: {answer['JobFlowId']}")
            return answer["JobFlowId"]
        say("EMR does not see the new roles yet: asking again")
        time.sleep(poll_seconds)


def is_about_roles(error: ClientError) -> bool:
    """Whether EMR refused a role or an instance profile that may be too new."""
    message = error.response["Error"].get("Message", "")
    if error_code(error) == "AccessDeniedException":
        return "authorize instance profile" in message  # else a permission is missing
    return error_code(error) == "ValidationException" and bool(ABOUT_ROLES.search(message))


def is_ended_for_roles(session: boto3.Session, cluster_id: str, waiting: Waiting) -> bool:
    """Whether EMR ends the cluster for its roles, in the minutes in which they are new."""
    emr = session.client("emr")
    looks = poll(lambda: fetch_cluster(emr, cluster_id), waiting.poll_seconds, NEW_ROLE_SECONDS)
    try:
        cluster = next(look for look in looks if look["Status"]["State"] != "STARTING")
    except StillGoingError:
        return False
    reason = failure_reason(cluster["Status"])
    return "VALIDATION_ERROR" in reason and bool(ABOUT_ROLES.search(reason))


def wait_until_ready(session: boto3.Session, cluster_id: str, waiting: Waiting) -> None:
    """Follow the cluster until it accepts steps; else an AwsError with EMR's reason."""
    emr = session.client("emr")
    started = time.monotonic()
    looks = poll(lambda: fetch_cluster(emr, cluster_id), waiting.poll_seconds, waiting.timeout)
    try:
        with Progress() as progress:
            for cluster in looks:
                state = cluster["Status"]["State"]
                progress.show(f"{cluster_id}: {state}", duration(time.monotonic() - started))
                if state in ("RUNNING", "WAITING"):
                    return
                if state not in ACTIVE:
                    break
    except StillGoingError as error:  # EMR goes on to ask for nodes that AWS does not have
        raise StillGoingError(
            f"{error}; it can still start, and cost: iac_terminate.py ends it"
        ) from None
    reason = explain_start(cluster["Status"])
    if "BOOTSTRAP_FAILURE" in reason:
        show_bootstrap_log(session.client("s3"), cluster, waiting.poll_seconds)
    raise AwsError(f"cluster {cluster_id} did not start: {state}, {reason}")
