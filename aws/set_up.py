"""What an account needs for the cluster, made on request; aws/account.py checks it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from aws.account import (
    SERVICE_POLICY,
    SPOT_ROLE,
    find_role,
    find_untagged_network,
    profile_roles,
    trusts_region,
)
from aws.console import say
from aws.ownership import OWN_TAGS
from aws.requests import (
    MANAGED_TAG,
    build_node_policy,
    build_node_trust,
    build_pass_policy,
    build_service_trust,
)
from aws.session import error_code

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import TagTypeDef
    from mypy_boto3_emr import EMRClient
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_s3 import S3Client

    from configs import EmrConfig, EtlConfig

# Version 2 of EC2's instance metadata service (IMDSv2), which gives a node the credentials of its
# role, asks for a token; the hop limit of 1 keeps the answers on the node.
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
SECURITY_CONFIGURATION = {
    "InstanceMetadataServiceConfiguration": {
        "MinimumInstanceMetadataServiceVersion": 2,
        "HttpPutResponseHopLimit": 1,
    }
}
DAYS_TO_FINISH_UPLOAD = 7
POLICY_NAME = "sparkify"  # of inline policies of the roles; the region follows in the nodes' role
# EMR makes this one itself, if whoever asks for the first cluster may make it.
CLEANUP_ROLE = "AWSServiceRoleForEMRCleanup"


def create_buckets(s3: S3Client, buckets: Sequence[str], region: str) -> None:
    """Create the buckets that do not exist."""
    for bucket in buckets:
        try:
            s3.head_bucket(Bucket=bucket)
        except ClientError as error:
            if error_code(error) != "404":
                continue  # check_buckets says what is wrong with it
            create_bucket(s3, bucket, region)
            say(f"created bucket {bucket}")


def create_bucket(s3: S3Client, bucket: str, region: str) -> None:
    """Create a private, encrypted bucket that deletes unfinished multipart uploads."""
    place: Any = {} if region == "us-east-1" else {"LocationConstraint": region}
    s3.create_bucket(Bucket=bucket, **({"CreateBucketConfiguration": place} if place else {}))
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": OWN_TAGS})
    s3.put_public_access_block(
        Bucket=bucket,
        PublicAccessBlockConfiguration={
            "BlockPublicAcls": True,
            "IgnorePublicAcls": True,
            "BlockPublicPolicy": True,
            "RestrictPublicBuckets": True,
        },
    )
    s3.put_bucket_encryption(
        Bucket=bucket,
        ServerSideEncryptionConfiguration={
            "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
        },
    )
    s3.put_bucket_lifecycle_configuration(
        Bucket=bucket,
        LifecycleConfiguration={
            "Rules": [
                {
                    "ID": "drop-unfinished-uploads",
                    "Status": "Enabled",
                    "Filter": {"Prefix": ""},
                    "AbortIncompleteMultipartUpload": {
                        "DaysAfterInitiation": DAYS_TO_FINISH_UPLOAD
                    },
                }
            ]
        },
    )


def create_roles(session: boto3.Session, config: EmrConfig, etl: EtlConfig) -> bool:
    """Create EMR's role and the nodes', or bring them up to date; returns whether any is new."""
    iam = session.client("iam")
    account = session.client("sts").get_caller_identity()["Account"]
    partition = session.get_partition_for_region(config.region)
    service_role, node_role = config.service_role, config.instance_profile
    trust = build_service_trust(partition, account)
    new = [create_role(iam, service_role, trust, config.region)]
    iam.attach_role_policy(
        RoleName=service_role, PolicyArn=f"arn:{partition}:iam::aws:policy/{SERVICE_POLICY}"
    )
    put_policy(iam, service_role, POLICY_NAME, build_pass_policy(partition, account, node_role))
    new.append(create_role(iam, node_role, build_node_trust()))
    # Roles are global. With a policy for each region, the lake of another one can still be written.
    policy = build_node_policy(partition, config, etl)
    put_policy(iam, node_role, f"{POLICY_NAME}-{config.region}", policy)
    new.append(create_profile(iam, node_role))
    create_linked_role(iam, CLEANUP_ROLE, "elasticmapreduce.amazonaws.com")
    if config.spot:
        create_linked_role(iam, SPOT_ROLE, "spot.amazonaws.com")
    if not any(new):
        say(f"roles {service_role} and {node_role} are up to date")
    return any(new)


def create_role(iam: IAMClient, name: str, trust: Mapping[str, Any], region: str = "") -> bool:
    """Create a role, or make it usable in this region as well; returns whether it is new."""
    document = json.dumps(trust)
    role = find_role(iam, name)
    if role:
        # A trust policy that works stays as it is: the role may be one of the user's own.
        if not trusts_region(role["AssumeRolePolicyDocument"], region):
            iam.update_assume_role_policy(RoleName=name, PolicyDocument=document)
            say(f"role {name} can now be used in every region")
        return False
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=document, Tags=OWN_TAGS)
    say(f"created role {name}")
    return True


def create_linked_role(iam: IAMClient, name: str, service: str) -> None:
    """Create the role that AWS itself defines for a service, unless it is there."""
    if not find_role(iam, name):
        iam.create_service_linked_role(AWSServiceName=service)
        say(f"created role {name}")


def put_policy(iam: IAMClient, role: str, name: str, policy: Mapping[str, Any]) -> None:
    """Create or replace an inline policy of a role."""
    iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(policy))


def create_profile(iam: IAMClient, name: str) -> bool:
    """Put the role of this name into the profile of this name; returns whether that is new."""
    roles = profile_roles(iam, name)
    if roles is None:
        iam.create_instance_profile(InstanceProfileName=name, Tags=OWN_TAGS)
        say(f"created instance profile {name}")
    if not roles:
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    return not roles


def create_security_configuration(emr: EMRClient, name: str) -> None:
    """Create the security configuration."""
    emr.create_security_configuration(
        Name=name, SecurityConfiguration=json.dumps(SECURITY_CONFIGURATION)
    )
    say(f"created security configuration {name}")


def tag_network(ec2: EC2Client, config: EmrConfig) -> None:
    """Tag the subnets, their VPCs and EMR's security groups in them as its policy asks for."""
    untagged = find_untagged_network(ec2, config)
    if untagged:
        managed: TagTypeDef = {"Key": MANAGED_TAG, "Value": "true"}
        ec2.create_tags(Resources=untagged, Tags=[managed, *OWN_TAGS])
        say(f"tagged {', '.join(untagged)}")
