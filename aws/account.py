"""What an account needs for the cluster: checked always, made on request by aws/set_up.py."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from aws.quota import check_quota
from aws.requests import MANAGED_TAG
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
# From this release on s3:// is Hadoop's own connector, S3A; the one before it marks folders by
# files that the tables' readers would meet.
# https://docs.aws.amazon.com/emr/latest/ReleaseGuide/emr-s3a-migrate.html
OLDEST_RELEASE = (7, 10)
SPOT_ROLE = "AWSServiceRoleForEC2Spot"
# EMR reuses its own security groups of a VPC by their names.
EMR_GROUPS = "ElasticMapReduce-*"


# Checks: each yields what is wrong and how to fix it.


def find_account_problems(session: boto3.Session, config: EmrConfig, etl: EtlConfig) -> list[str]:
    """All problems that would keep the cluster from starting."""
    emr, iam = session.client("emr"), session.client("iam")
    return [
        *(list(check_release(emr, config)) or check_nodes(session, config)),
        *check_buckets(session.client("s3"), written_buckets(config, etl), config.region),
        *check_roles(iam, config),
        *check_network(session.client("ec2"), iam, config),
    ]


def check_release(emr: EMRClient, config: EmrConfig) -> Iterator[str]:
    """Check that the release exists, and that the job was made for it."""
    labels = list_all(emr.list_release_labels, "ReleaseLabels", "NextToken")
    label = config.release_label
    if label not in labels:
        problem = f"there is no release {label} in {config.region}"
        yield name_setting(problem, "release_label", hint(label, labels))
    elif is_too_old(label):
        oldest = "emr-{}.{}.0".format(*OLDEST_RELEASE)
        problem = f"release {label} reads and writes S3 in a way that this job was not made for"
        yield name_setting(problem, "release_label", f"choose {oldest} or a later one")


def is_too_old(label: str) -> bool:
    """Whether a release is older than OLDEST_RELEASE."""
    version = re.match(r"emr-(\d+)\.(\d+)\.", label)
    return version is not None and tuple(map(int, version.groups())) < OLDEST_RELEASE


def check_nodes(session: boto3.Session, config: EmrConfig) -> Iterator[str]:
    """Check that the release supports the instance types, and that the quota admits the nodes."""
    emr = session.client("emr")

    def list_types(**marker: str) -> Mapping[str, Any]:
        return emr.list_supported_instance_types(ReleaseLabel=config.release_label, **marker)

    listed = list_all(list_types, "SupportedInstanceTypes", "Marker")
    vcpus = {kind["Type"]: kind["VCPU"] for kind in listed}
    problems = list(check_types(config, list(vcpus)))
    yield from problems or check_quota(session.client("service-quotas"), config, vcpus)


def check_types(config: EmrConfig, types: Sequence[str]) -> Iterator[str]:
    """Check that the release supports the instance types."""
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
        return f"there is no bucket {bucket}: add --set-up, or correct dl.cfg"
    if code == "403":
        return f"bucket {bucket} belongs to someone else: choose another name in dl.cfg"
    if code == "301":
        return explain_region(bucket, region, headers.get("x-amz-bucket-region", "another region"))
    raise error


def explain_region(bucket: str, region: str, found: str) -> str:
    """The problem of a bucket in another region: EMR writes no logs there, and traffic costs."""
    return f"bucket {bucket} is in {found}, not in {region}: use a bucket there"


def check_roles(iam: IAMClient, config: EmrConfig) -> Iterator[str]:
    """Check that EMR's role exists and can be used, and the nodes' profile with a role in it."""
    yield from check_service_role(iam, config)
    roles = profile_roles(iam, config.instance_profile)
    if not roles:
        state = "does not exist" if roles is None else "holds no role"
        yield (
            f"instance profile {config.instance_profile} {state}: add --set-up,"
            " or name another as instance_profile in [emr]"
        )


def check_service_role(iam: IAMClient, config: EmrConfig) -> Iterator[str]:
    """Check that EMR may assume its role in this region, and that Spot has its own role."""
    role = find_role(iam, config.service_role)
    if role is None:
        yield (
            f"there is no role {config.service_role}: add --set-up,"
            " or name another as service_role in [emr]"
        )
        return
    if not trusts_region(role["AssumeRolePolicyDocument"], config.region):
        yield (
            f"EMR may not assume {config.service_role} in {config.region}: its trust policy names"
            " another region: add --set-up, which brings it up to date"
        )
    # EMR's v2 policy does not let it make this role.
    if config.spot and has_v2_policy(iam, config.service_role) and not find_role(iam, SPOT_ROLE):
        yield f"there is no role {SPOT_ROLE}, which spot nodes need: add --set-up"


def check_network(ec2: EC2Client, iam: IAMClient, config: EmrConfig) -> Iterator[str]:
    """Check that the subnets exist, and that all carries the tag of the service role's policy."""
    try:
        untagged = find_untagged_network(ec2, config)
    except ClientError as error:
        if error_code(error) not in ("InvalidSubnetID.NotFound", "InvalidSubnetID.Malformed"):
            raise
        yield f"{error.response['Error']['Message']} in {config.region} (subnet_ids in [emr])"
        return
    if untagged is None:
        yield f"{config.region} has no default VPC: name a subnet as subnet_ids in [emr]"
    elif untagged and has_v2_policy(iam, config.service_role):
        yield (
            f"the policy of {config.service_role} allows only networks with the tag {MANAGED_TAG}"
            f" = true, and {', '.join(untagged)} lack it: add --set-up"
        )


# What exists.


def written_buckets(config: EmrConfig, etl: EtlConfig) -> list[str]:
    """The buckets that the scripts, the cluster and the job write to."""
    uris = [config.code_uri, config.log_uri, etl.output]
    return list(dict.fromkeys(split_uri(uri)[0] for uri in uris if uri and is_s3(uri)))


def find_role(iam: IAMClient, name: str) -> Mapping[str, Any] | None:
    """The role of this name, or None."""
    try:
        return iam.get_role(RoleName=name)["Role"]
    except iam.exceptions.NoSuchEntityException:
        return None


def trusts_region(trust: Any, region: str) -> bool:  # noqa: ANN401 (boto3 parses the document)
    """Whether a trust policy admits EMR in a region; one that names no region admits all."""
    sources: list[str] = []
    statements = trust.get("Statement", [])
    for statement in [statements] if isinstance(statements, dict) else statements:
        named = statement.get("Condition", {}).get("ArnLike", {}).get("aws:SourceArn", [])
        sources += [named] if isinstance(named, str) else named
    regions = [(source.split(":") + ["*"] * 4)[3] for source in sources]
    return not regions or any(fnmatch.fnmatchcase(region, name or "*") for name in regions)


def profile_roles(iam: IAMClient, name: str) -> list[str] | None:
    """The roles in an instance profile (one at most), or None if there is no such profile."""
    try:
        profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    except iam.exceptions.NoSuchEntityException:
        return None
    return [role["RoleName"] for role in profile["Roles"]]


def has_v2_policy(iam: IAMClient, role: str) -> bool:
    """Whether a role has EMR's v2 policy; the user's own policies need not ask for the tag."""
    try:
        attached = iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
    except iam.exceptions.NoSuchEntityException:
        return False
    return any(policy["PolicyArn"].endswith(SERVICE_POLICY) for policy in attached)


def has_security_configuration(emr: EMRClient, name: str) -> bool:
    """Whether there is a security configuration of this name, whatever it says."""
    try:
        emr.describe_security_configuration(Name=name)
    except emr.exceptions.InvalidRequestException:
        return False
    return True


def find_untagged_network(ec2: EC2Client, config: EmrConfig) -> list[str] | None:
    """The subnets, their VPCs and EMR's groups in them without its tag; None without a subnet."""
    if config.subnet_ids:
        subnets = ec2.describe_subnets(SubnetIds=config.subnet_ids)["Subnets"]
    else:
        default: FilterTypeDef = {"Name": "default-for-az", "Values": ["true"]}
        subnets = ec2.describe_subnets(Filters=[default])["Subnets"]
    if not subnets:
        return None
    vpc_ids = sorted({subnet["VpcId"] for subnet in subnets})
    vpcs = ec2.describe_vpcs(VpcIds=vpc_ids)["Vpcs"]
    of_emr: list[FilterTypeDef] = [
        {"Name": "vpc-id", "Values": vpc_ids},
        {"Name": "group-name", "Values": [EMR_GROUPS]},
    ]
    groups = ec2.describe_security_groups(Filters=of_emr)["SecurityGroups"]
    tags = {subnet["SubnetId"]: subnet.get("Tags", []) for subnet in subnets}
    tags.update({vpc["VpcId"]: vpc.get("Tags", []) for vpc in vpcs})
    tags.update({group["GroupId"]: group.get("Tags", []) for group in groups})
    wanted = {"Key": MANAGED_TAG, "Value": "true"}
    return [name for name, its_tags in tags.items() if wanted not in its_tags]


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
