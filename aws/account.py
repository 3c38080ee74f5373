"""What an account needs for the cluster: checked always, created on request."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from aws.console import say
from aws.requests import (
    MANAGED_TAG,
    build_node_policy,
    build_node_trust,
    build_pass_policy,
    build_service_trust,
)
from aws.s3 import is_s3, split_uri
from aws.session import error_code
from configs import hint

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import FilterTypeDef
    from mypy_boto3_emr import EMRClient
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_s3 import S3Client

    from configs import EmrConfig, EtlConfig

SERVICE_POLICY = "service-role/AmazonEMRServicePolicy_v2"
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


# Checks: each yields what is wrong and how to fix it.


def find_account_problems(session: boto3.Session, config: EmrConfig, etl: EtlConfig) -> list[str]:
    """All problems that would keep the cluster from starting."""
    emr, iam = session.client("emr"), session.client("iam")
    return [
        *check_release(emr, config),
        *check_buckets(session.client("s3"), written_buckets(config, etl), config.region),
        *check_roles(iam, config),
        *check_network(session.client("ec2"), iam, config),
    ]


def check_release(emr: EMRClient, config: EmrConfig) -> Iterator[str]:
    """Check that the release exists, and that it supports the instance types."""
    labels = list_all(emr.list_release_labels, "ReleaseLabels", "NextToken")
    if config.release_label not in labels:
        problem = f"there is no release {config.release_label} in {config.region}"
        yield name_setting(problem, "release_label", hint(config.release_label, labels))
        return

    def list_types(**marker: str) -> Mapping[str, Any]:
        return emr.list_supported_instance_types(ReleaseLabel=config.release_label, **marker)

    types = [kind["Type"] for kind in list_all(list_types, "SupportedInstanceTypes", "Marker")]
    for key in ("master_types", "core_types", "task_types"):
        for kind in getattr(config, key):
            if kind not in types:
                problem = f"{config.release_label} has no instance type {kind} in {config.region}"
                yield name_setting(problem, key, hint(kind, types))


def check_buckets(s3: S3Client, buckets: Sequence[str], region: str) -> Iterator[str]:
    """Check that the buckets exist, may be used, and are in the cluster's region."""
    for bucket in buckets:
        try:
            found = s3.head_bucket(Bucket=bucket).get("BucketRegion", region)
        except ClientError as error:
            yield explain_bucket(bucket, region, error)
        else:
            if found != region:
                yield explain_region(bucket, region, found)


def explain_bucket(bucket: str, region: str, error: ClientError) -> str:
    """What is wrong with a bucket; S3 answers HeadBucket with a status code and no message."""
    code, headers = error_code(error), error.response["ResponseMetadata"]["HTTPHeaders"]
    if code == "404":
        return f"there is no bucket {bucket}: add --create-bucket, or correct dl.cfg"
    if code == "403":
        return f"bucket {bucket} belongs to someone else: choose another name in dl.cfg"
    if code == "301":
        return explain_region(bucket, region, headers.get("x-amz-bucket-region", "another region"))
    raise error


def explain_region(bucket: str, region: str, found: str) -> str:
    """The problem of a bucket in another region: EMR writes no logs there, and traffic costs."""
    return f"bucket {bucket} is in {found}, not in {region}: use a bucket there"


def check_roles(iam: IAMClient, config: EmrConfig) -> Iterator[str]:
    """Check that EMR's role exists, and the nodes' instance profile with a role in it."""
    if not role_exists(iam, config.service_role):
        yield (
            f"there is no role {config.service_role}: add --create-roles,"
            " or name another as service_role in [emr]"
        )
    roles = profile_roles(iam, config.instance_profile)
    if not roles:
        state = "does not exist" if roles is None else "holds no role"
        yield (
            f"instance profile {config.instance_profile} {state}: add --create-roles,"
            " or name another as instance_profile in [emr]"
        )


def check_network(ec2: EC2Client, iam: IAMClient, config: EmrConfig) -> Iterator[str]:
    """Check that the subnets exist and carry the tag that the service role's policy asks for."""
    try:
        untagged = find_untagged_network(ec2, config)
    except ClientError as error:
        if error_code(error) not in ("InvalidSubnetID.NotFound", "InvalidSubnetID.Malformed"):
            raise
        yield f"{error.response['Error']['Message']} in {config.region} (subnet_ids in [emr])"
        return
    if untagged is None:
        yield f"{config.region} has no default VPC: name a subnet as subnet_ids in [emr]"
    elif untagged and needs_tagged_network(iam, config.service_role):
        yield (
            f"the policy of {config.service_role} allows only networks with the tag {MANAGED_TAG}"
            f" = true, and {', '.join(untagged)} lack it: add --tag-network"
        )


# What exists.


def written_buckets(config: EmrConfig, etl: EtlConfig) -> list[str]:
    """The buckets that the scripts, the cluster and the job write to."""
    uris = [config.code_uri, config.log_uri, etl.output]
    return list(dict.fromkeys(split_uri(uri)[0] for uri in uris if uri and is_s3(uri)))


def role_exists(iam: IAMClient, name: str) -> bool:
    """Whether there is a role of this name."""
    try:
        iam.get_role(RoleName=name)
    except iam.exceptions.NoSuchEntityException:
        return False
    return True


def profile_roles(iam: IAMClient, name: str) -> list[str] | None:
    """The roles in an instance profile (one at most), or None if there is no such profile."""
    try:
        profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    except iam.exceptions.NoSuchEntityException:
        return None
    return [role["RoleName"] for role in profile["Roles"]]


def needs_tagged_network(iam: IAMClient, role: str) -> bool:
    """Whether a role has EMR's v2 policy; the user's own policies need not ask for the tag."""
    try:
        attached = iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
    except iam.exceptions.NoSuchEntityException:
        return False
    return any(policy["PolicyArn"].endswith(SERVICE_POLICY) for policy in attached)


def find_untagged_network(ec2: EC2Client, config: EmrConfig) -> list[str] | None:
    """The cluster's subnets and their VPCs without EMR's tag; None if there is no subnet."""
    if config.subnet_ids:
        subnets = ec2.describe_subnets(SubnetIds=config.subnet_ids)["Subnets"]
    else:
        default: FilterTypeDef = {"Name": "default-for-az", "Values": ["true"]}
        subnets = ec2.describe_subnets(Filters=[default])["Subnets"]
    if not subnets:
        return None
    vpcs = ec2.describe_vpcs(VpcIds=sorted({subnet["VpcId"] for subnet in subnets}))["Vpcs"]
    tags = {subnet["SubnetId"]: subnet.get("Tags", []) for subnet in subnets}
    tags.update({vpc["VpcId"]: vpc.get("Tags", []) for vpc in vpcs})
    wanted = {"Key": MANAGED_TAG, "Value": "true"}
    return [name for name, its_tags in tags.items() if wanted not in its_tags]


# What is created.


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


def create_roles(session: boto3.Session, config: EmrConfig, etl: EtlConfig) -> None:
    """Create EMR's role and the nodes', or update their policies if they exist."""
    iam = session.client("iam")
    account = session.client("sts").get_caller_identity()["Account"]
    partition = session.get_partition_for_region(config.region)
    node_role = config.instance_profile
    create_role(iam, config.service_role, build_service_trust(partition, config.region, account))
    iam.attach_role_policy(
        RoleName=config.service_role, PolicyArn=f"arn:{partition}:iam::aws:policy/{SERVICE_POLICY}"
    )
    put_policy(iam, config.service_role, build_pass_policy(partition, account, node_role))
    create_role(iam, node_role, build_node_trust())
    put_policy(iam, node_role, build_node_policy(partition, config, etl))
    create_profile(iam, node_role)


def create_role(iam: IAMClient, name: str, trust: Mapping[str, Any]) -> None:
    """Create a role; an existing one of this name stays as it is."""
    if not role_exists(iam, name):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
        say(f"created role {name}")


def put_policy(iam: IAMClient, role: str, policy: Mapping[str, Any]) -> None:
    """Create or replace the role's inline policy of this project."""
    document = json.dumps(policy)
    iam.put_role_policy(RoleName=role, PolicyName="sparkify", PolicyDocument=document)


def create_profile(iam: IAMClient, name: str) -> None:
    """Create the instance profile of this name, and put the role of the same name in it."""
    roles = profile_roles(iam, name)
    if roles is None:
        iam.create_instance_profile(InstanceProfileName=name)
        say(f"created instance profile {name}")
    if not roles:
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)


def create_security_configuration(emr: EMRClient, name: str) -> None:
    """Create the security configuration; an existing one of this name stays as it is."""
    try:
        emr.describe_security_configuration(Name=name)
    except emr.exceptions.InvalidRequestException:
        emr.create_security_configuration(
            Name=name, SecurityConfiguration=json.dumps(SECURITY_CONFIGURATION)
        )
        say(f"created security configuration {name}")


def tag_network(ec2: EC2Client, config: EmrConfig) -> None:
    """Tag the cluster's subnets and their VPCs as EMR's policy asks for."""
    untagged = find_untagged_network(ec2, config)
    if untagged:
        ec2.create_tags(Resources=untagged, Tags=[{"Key": MANAGED_TAG, "Value": "true"}])
        say(f"tagged {', '.join(untagged)}")


# Small helpers.


def list_all(ask: Any, key: str, marker: str) -> list[Any]:  # noqa: ANN401 (operations without a paginator)
    """All entries of a listing that botocore has no paginator for."""
    entries: list[Any] = []
    place: dict[str, str] = {}
    while True:
        page = ask(**place)
        entries += page[key]
        if not page.get(marker):
            return entries
        place = {marker: page[marker]}


def name_setting(problem: str, key: str, cure: str) -> str:
    """A problem with its cure, if there is one, and the setting of [emr] to correct."""
    return f"{'; '.join(filter(None, [problem, cure]))} ({key} in [emr])"
