"""EMR clusters: found by name and tag, explained, and ended."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aws.console import Progress, say
from aws.ownership import has_own_tag
from aws.session import AwsError, Waiting, poll
from lake.formats import duration, utc_now

if TYPE_CHECKING:
    from mypy_boto3_emr import EMRClient
    from mypy_boto3_emr.literals import ClusterStateType, StepStateType
    from mypy_boto3_emr.type_defs import ClusterTypeDef

ACTIVE: Sequence[ClusterStateType] = ("STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING")
ENDED: Sequence[ClusterStateType] = ("TERMINATED", "TERMINATED_WITH_ERRORS")
UNFINISHED: Sequence[StepStateType] = ("PENDING", "RUNNING", "CANCEL_PENDING")  # of steps
END_AT_ONCE = 10  # the most clusters that one TerminateJobFlows takes


@dataclasses.dataclass(frozen=True)
class EndOptions:
    """How clusters are ended."""

    waiting: Waiting
    unprotect: bool = False  # end protected clusters as well
    wait: bool = True  # until each is gone


# Finding.


def find_clusters(
    emr: EMRClient, name: str | None, states: Sequence[ClusterStateType] = ACTIVE
) -> list[ClusterTypeDef]:
    """The project's clusters of this name in these states; without a name, all of the region."""
    pages = emr.get_paginator("list_clusters").paginate(ClusterStates=states)
    listed = [found for page in pages for found in page["Clusters"]]
    # ListClusters returns no tags, so each cluster of this name is described.
    clusters = [
        emr.describe_cluster(ClusterId=found["Id"])["Cluster"]
        for found in listed
        if name in (None, found["Name"])
    ]
    return [cluster for cluster in clusters if name is None or is_ours(cluster)]


def find_cluster(emr: EMRClient, name: str) -> ClusterTypeDef | None:
    """The project's one active cluster of this name, or None; two are an error that lists them."""
    clusters = find_clusters(emr, name)
    if len(clusters) > 1:
        ids = ", ".join(sorted(cluster["Id"] for cluster in clusters))
        raise AwsError(
            f"{len(clusters)} active clusters are named {name}: {ids}; "
            "end all but one with iac_terminate.py --cluster-id"
        )
    return clusters[0] if clusters else None


def find_last_ended(emr: EMRClient, name: str, since: dt.datetime) -> ClusterTypeDef | None:
    """The project's newest ended cluster of this name that was made since then, or None."""
    pages = emr.get_paginator("list_clusters").paginate(ClusterStates=ENDED, CreatedAfter=since)
    named = [found for page in pages for found in page["Clusters"] if found["Name"] == name]
    newest_first = sorted(
        named, key=lambda found: found["Status"]["Timeline"]["CreationDateTime"], reverse=True
    )
    clusters = (fetch_cluster(emr, found["Id"]) for found in newest_first)
    return next((cluster for cluster in clusters if is_ours(cluster)), None)


def fetch_cluster(emr: EMRClient, cluster_id: str) -> ClusterTypeDef:
    """The cluster of this id, in whatever state."""
    try:
        return emr.describe_cluster(ClusterId=cluster_id)["Cluster"]
    except emr.exceptions.InvalidRequestException:
        region = emr.meta.region_name
        raise AwsError(f"there is no cluster {cluster_id} in {region}: check --region") from None


def is_ours(cluster: ClusterTypeDef) -> bool:
    """Whether a cluster carries the project's tag."""
    return has_own_tag(cluster.get("Tags", []))


def failure_reason(status: Mapping[str, Any]) -> str:
    """Why a cluster or a step is in its state, as far as EMR says."""
    details, reason = status.get("FailureDetails", {}), status.get("StateChangeReason", {})
    parts = [
        details.get("Reason"),
        details.get("Message"),
        reason.get("Code"),
        reason.get("Message"),
    ]
    return ": ".join(dict.fromkeys(part for part in parts if part)) or "EMR gives no reason"


# Ending.


def describe_cluster(emr: EMRClient, cluster: ClusterTypeDef) -> str:
    """What would be lost, in one line: name, id, state, age, and the unfinished steps."""
    status = cluster["Status"]
    age = utc_now() - status["Timeline"]["CreationDateTime"]
    steps = emr.list_steps(ClusterId=cluster["Id"], StepStates=UNFINISHED)["Steps"]
    unfinished = [f"{step['Status']['State']} {step['Name']}" for step in steps]
    protected = ", protected" if cluster["TerminationProtected"] else ""
    return (
        f"{cluster['Name']} {cluster['Id']}: {status['State']}{protected},"
        f" {duration(age.total_seconds())} old,"
        f" unfinished steps: {', '.join(unfinished) or 'none'}"
    )


def refuse_protected(clusters: Sequence[ClusterTypeDef], options: EndOptions) -> None:
    """Raise an AwsError, before any cluster is ended, if one is protected against it."""
    protected = [cluster["Id"] for cluster in clusters if cluster["TerminationProtected"]]
    if protected and not options.unprotect:
        raise AwsError(f"protected from termination: {', '.join(protected)}; add --unprotect")


def end_clusters(emr: EMRClient, ids: Sequence[str], options: EndOptions) -> None:
    """End the clusters, and unless options.wait is false, wait until each is gone."""
    for start in range(0, len(ids), END_AT_ONCE):
        batch = ids[start : start + END_AT_ONCE]
        if options.unprotect:
            emr.set_termination_protection(JobFlowIds=batch, TerminationProtected=False)
        emr.terminate_job_flows(JobFlowIds=batch)
    say(f"ending {', '.join(ids)}")
    if options.wait:
        for cluster_id in ids:
            wait_until_gone(emr, cluster_id, options.waiting)


def wait_until_gone(emr: EMRClient, cluster_id: str, waiting: Waiting) -> None:
    """Follow a cluster until it has ended, with or without errors."""
    started = time.monotonic()
    looks = poll(lambda: fetch_cluster(emr, cluster_id), waiting.poll_seconds, waiting.timeout)
    with Progress() as progress:
        for cluster in looks:
            state = cluster["Status"]["State"]
            progress.show(f"{cluster_id}: {state}", duration(time.monotonic() - started))
            if state in ENDED:
                return
