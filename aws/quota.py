"""The quota of vCPUs that EC2 gives an account, asked for before the cluster is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from configs import EmrConfig

QUOTA = "L-1216C47A"  # running on-demand instances of the standard families
STANDARD = re.compile(r"(a|c|d|h|i|im|is|m|r|t|z)\d")
PAGE = "https://{region}.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/{quota}"


def check_quota(quotas: Any, config: EmrConfig, vcpus: Mapping[str, int]) -> Iterator[str]:  # noqa: ANN401 (mypy_boto3_service_quotas is not among the packages)
    """Check that the cluster's on-demand nodes fit into the quota, if the account tells it."""
    quota = fetch_quota(quotas)
    needed = count_vcpus(config, vcpus)
    if quota is None or needed <= quota:
        return
    smallest = count_vcpus(dataclasses.replace(config, core_count=1, task_count=0), vcpus)
    page = PAGE.format(region=config.region, quota=QUOTA)
    fits = f", or set core_count = 1 ({smallest} vCPUs)" if smallest <= quota else ""
    yield (
        f"the cluster needs {needed} vCPUs, and this account may run {quota:.0f} in"
        f" {config.region}: ask AWS for more at {page}{fits}"
    )


def fetch_quota(quotas: Any) -> float | None:  # noqa: ANN401 (as above)
    """The quota in vCPUs, or None where it may not be asked for: that is no reason to stop."""
    try:
        return float(quotas.get_service_quota(ServiceCode="ec2", QuotaCode=QUOTA)["Quota"]["Value"])
    except (BotoCoreError, ClientError):
        return None


def count_vcpus(config: EmrConfig, vcpus: Mapping[str, int]) -> int:
    """The vCPUs of the nodes that count for the quota; of several types the smallest counts."""
    nodes = [
        ("master", config.master_types, 1),
        ("core", config.core_types, config.core_count),
        ("task", config.task_types, config.task_count),
    ]
    return sum(
        count * min(vcpus[kind] if STANDARD.match(kind) else 0 for kind in types)
        for name, types, count in nodes
        if name not in config.spot
    )
