"""The request for a cluster, and the policies of its roles, as AWS takes them.

All functions are pure; iac_create.py --dry-run prints what build_cluster_request returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aws.ownership import PROJECT_TAG
from aws.s3 import is_s3, split_uri
from configs import ConfigError

if TYPE_CHECKING:
    from mypy_boto3_emr.literals import InstanceFleetTypeType
    from mypy_boto3_emr.type_defs import (
        ConfigurationTypeDef,
        InstanceFleetConfigTypeDef,
        RunJobFlowInputTypeDef,
        TagTypeDef,
    )

    from configs import EmrConfig, EtlConfig

# EMR's v2 policies allow only resources with this tag:
# https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-managed-iam-policies.html
MANAGED_TAG = "for-use-with-amazon-emr-managed-policies"


# The cluster.


def build_cluster_request(
    config: EmrConfig, *, ends_after_steps: bool = False
) -> RunJobFlowInputTypeDef:
    """The whole request of RunJobFlow; a cluster that does not end after its steps ends idle."""
    request: RunJobFlowInputTypeDef = {
        "Name": config.cluster_name,
        "LogUri": f"{config.log_uri}/",
        "ReleaseLabel": config.release_label,
        "Applications": [{"Name": name} for name in config.applications],
        "Instances": {
            "InstanceFleets": build_fleets(config),
            "KeepJobFlowAliveWhenNoSteps": not ends_after_steps,
            "TerminationProtected": config.termination_protection,
        },
        "Configurations": build_configurations(config),
        "ServiceRole": config.service_role,
        "JobFlowRole": config.instance_profile,
        "SecurityConfiguration": config.security_configuration,
        "StepConcurrencyLevel": config.step_concurrency,
        "ScaleDownBehavior": "TERMINATE_AT_TASK_COMPLETION",
        "VisibleToAllUsers": True,
        "Tags": build_tags(config),
    }
    if not ends_after_steps:
        request["AutoTerminationPolicy"] = {"IdleTimeout": config.idle_minutes * 60}
    if config.subnet_ids:
        request["Instances"]["Ec2SubnetIds"] = list(config.subnet_ids)
    if config.key_pair:
        request["Instances"]["Ec2KeyName"] = config.key_pair
    if config.scaling_minimum and config.scaling_maximum:
        request["ManagedScalingPolicy"] = {
            "ComputeLimits": {
                "UnitType": "InstanceFleetUnits",  # every type has weight 1: a unit is a node
                "MinimumCapacityUnits": config.scaling_minimum,
                "MaximumCapacityUnits": config.scaling_maximum,
            }
        }
    return request


def build_fleets(config: EmrConfig) -> list[InstanceFleetConfigTypeDef]:
    """One master node, the core nodes, and the task nodes where there are any."""
    fleets = [
        build_fleet(config, "MASTER", config.master_types, 1),
        build_fleet(config, "CORE", config.core_types, config.core_count),
    ]
    if config.task_count:
        fleets.append(build_fleet(config, "TASK", config.task_types, config.task_count))
    return fleets


def build_fleet(
    config: EmrConfig, kind: InstanceFleetTypeType, types: Sequence[str], count: int
) -> InstanceFleetConfigTypeDef:
    """The nodes of one kind; EMR replaces spot nodes that it does not get in time by on-demand."""
    fleet: InstanceFleetConfigTypeDef = {
        "Name": kind.lower(),
        "InstanceFleetType": kind,
        "InstanceTypeConfigs": [
            {
                "InstanceType": name,
                "WeightedCapacity": 1,
                "EbsConfiguration": {
                    "EbsBlockDeviceConfigs": [
                        {
                            "VolumeSpecification": {
                                "VolumeType": "gp3",
                                "SizeInGB": config.disk_gb,
                            },
                            "VolumesPerInstance": 1,
                        }
                    ]
                },
            }
            for name in types
        ],
    }
    if kind.lower() in config.spot:
        fleet["TargetSpotCapacity"] = count
        fleet["LaunchSpecifications"] = {
            "SpotSpecification": {
                "TimeoutDurationMinutes": config.spot_wait_minutes,
                "TimeoutAction": "SWITCH_TO_ON_DEMAND",
                "AllocationStrategy": "price-capacity-optimized",
            }
        }
    else:
        fleet["TargetOnDemandCapacity"] = count
    return fleet


def build_configurations(config: EmrConfig) -> list[ConfigurationTypeDef]:
    """The settings of Spark and of the S3 connector, as EMR's configuration classifications."""
    sections = {"spark-defaults": config.spark, "core-site": config.s3}
    return [
        {"Classification": name, "Properties": dict(properties)}
        for name, properties in sections.items()
        if properties
    ]


def build_tags(config: EmrConfig) -> list[TagTypeDef]:
    """The user's tags, the project's tag, and the tag that EMR's policies ask for."""
    fixed = dict([PROJECT_TAG, (MANAGED_TAG, "true")])
    for key in fixed:
        if key in config.tags:
            raise ConfigError(
                f"[tags] {key}: the scripts set this tag themselves; remove it from dl.cfg"
            )
    return [{"Key": key, "Value": value} for key, value in {**config.tags, **fixed}.items()]


# The policies of the roles that --create-roles creates.


def build_service_trust(partition: str, account: str) -> dict[str, Any]:
    """EMR may assume the role, but only for clusters of this account."""
    source = f"arn:{partition}:elasticmapreduce:*:{account}:*"  # a role is there in all regions
    return build_policy(
        {
            "Effect": "Allow",
            "Principal": {"Service": "elasticmapreduce.amazonaws.com"},
            "Action": "sts:AssumeRole",
            "Condition": {
                "StringEquals": {"aws:SourceAccount": account},
                "ArnLike": {"aws:SourceArn": source},
            },
        }
    )


def build_node_trust() -> dict[str, Any]:
    """EC2 may assume the role, which gives it to the nodes."""
    return build_policy(
        {
            "Effect": "Allow",
            "Principal": {"Service": "ec2.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    )


def build_pass_policy(partition: str, account: str, node_role: str) -> dict[str, Any]:
    """EMR may pass this role to its nodes; the v2 policy allows EMR_EC2_DefaultRole only."""
    return build_policy(
        {
            "Effect": "Allow",
            "Action": "iam:PassRole",
            "Resource": f"arn:{partition}:iam::{account}:role/{node_role}",
            "Condition": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
        }
    )


def build_node_policy(partition: str, config: EmrConfig, etl: EtlConfig) -> dict[str, Any]:
    """Nodes may read the code and the sources, and read and write the lake and the logs."""
    written = [uri for uri in (etl.output, config.log_uri) if uri and is_s3(uri)]
    read = [uri for uri in (config.code_uri, etl.song_data, etl.log_data) if uri and is_s3(uri)]
    buckets = dict.fromkeys(split_uri(uri)[0] for uri in [*read, *written])
    return build_policy(
        {
            "Effect": "Allow",
            "Action": ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"],
            "Resource": [f"arn:{partition}:s3:::{bucket}" for bucket in buckets],
        },
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject"],
            "Resource": [objects_of(partition, uri) for uri in [*read, *written]],
        },
        {
            "Effect": "Allow",
            "Action": [
                "s3:PutObject",
                "s3:DeleteObject",
                "s3:AbortMultipartUpload",
                "s3:ListMultipartUploadParts",
            ],
            "Resource": [objects_of(partition, uri) for uri in written],
        },
    )


def build_policy(*statements: Mapping[str, Any]) -> dict[str, Any]:
    """A policy document."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


def objects_of(partition: str, uri: str) -> str:
    """The ARN of all objects in an S3 folder."""
    bucket, key = split_uri(uri.rstrip("/"))
    return f"arn:{partition}:s3:::{'/'.join(filter(None, [bucket, key]))}/*"
