"""What keeps EMR from starting a cluster in an account, as the emulator finds it in moto.

EMR accepts such a request, and ends the cluster with the reason VALIDATION_ERROR a minute later.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Mapping
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID

Json = dict[str, Any]
SERVICE_POLICY = "AmazonEMRServicePolicy_v2"
TAG = "for-use-with-amazon-emr-managed-policies"
SPOT_ROLE = "AWSServiceRoleForEC2Spot"
LINKED_ROLES = {"spot": "EC2Spot", "elasticmapreduce": "EMRCleanup"}  # AWSServiceRoleFor...
YES = ("True", "true")  # moto has it as either
VCPUS = {"m5.xlarge": 4, "m5a.xlarge": 4, "m5.2xlarge": 8, "r5.xlarge": 4}
# The first refuses to see a new instance profile, the second to let EMR use it:
# https://github.com/hashicorp/terraform-provider-aws/pull/3050
FRESH_PROFILE = (
    ("ValidationException", "Invalid InstanceProfile: {profile}."),
    ("AccessDeniedException", "Failed to authorize instance profile {profile}"),
)


def find_validation_error(params: Json, region: str, vcpu_quota: float) -> str:
    """EMR's reason not to start this cluster; empty where nothing is wrong."""
    return next(find_validation_errors(params, region, vcpu_quota), "")


def find_validation_errors(params: Json, region: str, vcpu_quota: float) -> Iterator[str]:
    """Each reason of EMR, in its words as far as they are known."""
    from moto.iam.models import iam_backends  # moto loads its parts on demand

    iam = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
    roles = {role.name: role for role in iam.roles.values()}
    role = roles[params["ServiceRole"]]
    if not trusts(role.assume_role_policy_document, region):
        yield f"EMR service role {role.arn} is invalid"
    fleets = params["Instances"].get("InstanceFleets", [])
    if any(SERVICE_POLICY in arn for arn in role.managed_policies):
        if list_untagged(params["Instances"].get("Ec2SubnetIds", []), region):
            yield f"Service role {role.arn} has insufficient EC2 permissions"
        if SPOT_ROLE not in roles and any(fleet.get("TargetSpotCapacity") for fleet in fleets):
            yield (
                "The provided credentials do not have permission to create the service-linked role"
                " for EC2 Spot Instances."
            )
    if count_vcpus(fleets) > vcpu_quota:
        yield (
            f"You have requested more vCPU capacity than your current vCPU limit of"
            f" {vcpu_quota:.0f} allows for the instance bucket that the specified instance type"
            " belongs to."
        )


def trusts(document: str | Mapping[str, Any], region: str) -> bool:
    """Whether a trust policy lets EMR assume the role for a cluster in this region."""
    policy = json.loads(document) if isinstance(document, str) else document
    source = f"arn:aws:elasticmapreduce:{region}:{DEFAULT_ACCOUNT_ID}:cluster/j-1"
    for statement in policy["Statement"]:
        condition = statement.get("Condition", {})
        patterns = condition.get("ArnLike", {}).get("aws:SourceArn", "*")
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if fnmatch.fnmatchcase(source, pattern):
                return True
    return not policy["Statement"]  # a role of the tests that says nothing at all


def list_untagged(subnet_ids: list[str], region: str) -> list[str]:
    """The subnets, VPCs and EMR's own security groups in them that lack the tag."""
    from moto.ec2.models import ec2_backends  # moto loads its parts on demand

    ec2 = ec2_backends[DEFAULT_ACCOUNT_ID][region]
    subnets = [
        subnet
        for subnet in ec2.describe_subnets()
        if subnet.id in subnet_ids
        or (not subnet_ids and str(subnet.default_for_az).lower() == "true")
    ]
    vpc_ids = {subnet.vpc_id for subnet in subnets}
    vpcs = [vpc for vpc in ec2.describe_vpcs() if vpc.id in vpc_ids]
    groups = [
        group
        for group in ec2.describe_security_groups()
        if group.vpc_id in vpc_ids and group.name.startswith("ElasticMapReduce-")
    ]
    return [thing.id for thing in [*subnets, *vpcs, *groups] if not is_tagged(thing)]


def is_tagged(thing: Any) -> bool:
    """Whether something of EC2 carries EMR's tag."""
    return (TAG, "true") in [(tag["key"], tag["value"]) for tag in thing.get_tags()]


def count_vcpus(fleets: list[Json]) -> int:
    """The vCPUs of the on-demand nodes, each the smallest of its types."""
    return sum(
        fleet.get("TargetOnDemandCapacity", 0)
        * min(VCPUS[kind["InstanceType"]] for kind in fleet["InstanceTypeConfigs"])
        for fleet in fleets
    )


def get_service_quota(params: Json, vcpu_quota: float) -> Json | None:
    """The quota of on-demand standard instances, in the shape of Service Quotas."""
    if (params["ServiceCode"], params["QuotaCode"]) != ("ec2", "L-1216C47A"):
        return None
    name = "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances"
    return {"Quota": {"QuotaName": name, "Value": vcpu_quota, "Unit": "None"}}
