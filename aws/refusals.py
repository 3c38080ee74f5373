"""EMR's reasons not to start a cluster, each with its cure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aws.cluster import failure_reason
from aws.quota import QUOTA

SET_UP = "run iac_create.py --set-up"
MORE_TYPES = "name several types of one size as master_types and core_types in [emr]"
# EMR documents no list of these texts. They are from reports of users, and the first that fits
# counts: https://github.com/aws/aws-parallelcluster/issues/3505 has one of them.
CURES = (
    (r"service-linked role.*spot|EC2 Spot", f"{SET_UP} with spot set in [emr]"),
    (r"AWSServiceRoleForEMRCleanup|service-linked role", SET_UP),
    (
        r"insufficient EC2 permissions",
        "EMR's policy allows only subnets, VPCs and security groups with its tag:"
        " run iac_create.py --set-up; if the roles are new, try again in a minute",
    ),
    (
        r"service ?role.* is invalid",
        f"EMR may not assume it in this region, or does not see it yet: {SET_UP},"
        " then try again in a minute",
    ),
    (r"instance ?profile", f"{SET_UP}, then try again in a minute"),
    (
        r"vCPU|quota|instance limit|limit exceeded",
        f"set core_count = 1 in [emr], or ask AWS for a higher quota: {QUOTA} of EC2",
    ),
    (
        r"not supported in the requested availability zone|noinstancetype",
        f"{MORE_TYPES}, or a subnet in another zone as subnet_ids",
    ),
    (
        r"insufficient.*capacity|sufficient capacity|provision instance|out of capacity",
        f"AWS has none of these nodes to give now: {MORE_TYPES}, or try again later",
    ),
    (
        r"block public access",
        "a security group ElasticMapReduce-* is open to the world: in EC2's console remove its"
        " rules for 0.0.0.0/0 except on port 22",
    ),
    (r"free (ip )?address", "name a subnet with free addresses as subnet_ids in [emr]"),
    (
        r"route|subnet",
        "the subnet needs a route to the internet or to S3: name another as subnet_ids in [emr]",
    ),
    (r"key ?pair", "name a key pair of this region as key_pair in [emr], or leave it blank"),
)


def explain_start(status: Mapping[str, Any]) -> str:
    """Why a cluster did not start or has ended, with the cure where one is known."""
    reason = failure_reason(status)
    cure = find_cure(reason)
    return f"{reason}; {cure}" if cure else reason


def find_cure(reason: str) -> str:
    """What to do about a reason of EMR; empty where that is not known."""
    if not re.search("VALIDATION_ERROR|FLEET_TIMEOUT|INSTANCE_FAILURE", reason):
        return ""
    cures = (cure for pattern, cure in CURES if re.search(pattern, reason, re.IGNORECASE))
    return next(cures, "")
