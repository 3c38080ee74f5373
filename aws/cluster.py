"""EMR clusters: found by name and tag, and why one of them is in its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aws.session import AwsError

if TYPE_CHECKING:
    from mypy_boto3_emr import EMRClient
    from mypy_boto3_emr.literals import ClusterStateType
    from mypy_boto3_emr.type_defs import ClusterTypeDef

PROJECT_TAG = ("project", "sparkify-data-lake")  # marks what these scripts may find and end
ACTIVE: Sequence[ClusterStateType] = ("STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING")
ENDED: Sequence[ClusterStateType] = ("TERMINATED", "TERMINATED_WITH_ERRORS")


def find_clusters(
    emr: EMRClient, name: str | None, states: Sequence[ClusterStateType] = ACTIVE
) -> list[ClusterTypeDef]:
    """The clusters in these states of this name and the project's tag; without a name, all."""
    pages = emr.get_paginator("list_clusters").paginate(ClusterStates=states)
    listed = [found for page in pages for found in page["Clusters"]]
    # A listing has no tags, so each cluster of the name is looked at.
    clusters = [
        emr.describe_cluster(ClusterId=found["Id"])["Cluster"]
        for found in listed
        if name in (None, found["Name"])
    ]
    return [cluster for cluster in clusters if name is None or is_ours(cluster)]


def find_cluster(emr: EMRClient, name: str) -> ClusterTypeDef | None:
    """The one active cluster of this name and tag, or None; two are an error that lists them."""
    clusters = find_clusters(emr, name)
    if len(clusters) > 1:
        ids = ", ".join(sorted(cluster["Id"] for cluster in clusters))
        raise AwsError(
            f"{len(clusters)} active clusters are named {name}: {ids}; "
            "end all but one with iac_terminate.py --cluster-id"
        )
    return clusters[0] if clusters else None


def fetch_cluster(emr: EMRClient, cluster_id: str) -> ClusterTypeDef:
    """The cluster of this id, in whatever state."""
    try:
        return emr.describe_cluster(ClusterId=cluster_id)["Cluster"]
    except emr.exceptions.InvalidRequestException:
        region = emr.meta.region_name
        raise AwsError(f"there is no cluster {cluster_id} in {region}: check --region") from None


def is_ours(cluster: ClusterTypeDef) -> bool:
    """Whether a cluster carries the project's tag."""
    tags = {tag.get("Key"): tag.get("Value") for tag in cluster.get("Tags", [])}
    return tags.get(PROJECT_TAG[0]) == PROJECT_TAG[1]


def failure_reason(status: Mapping[str, Any]) -> str:
    """Why a cluster or a step is in its state, as far as EMR says."""
    details, reason = status.get("FailureDetails", {}), status.get("StateChangeReason", {})
    told = [
        details.get("Reason"),
        details.get("Message"),
        reason.get("Code"),
        reason.get("Message"),
    ]
    return ": ".join(dict.fromkeys(part for part in told if part)) or "EMR gives no reason"
