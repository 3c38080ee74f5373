"""All that the project made in an account beside its clusters: found, shown, and removed.

Only what carries the project's tag is removed. A security configuration has no tags: it is removed
where it says what the project's says.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from aws.account import SERVICE_POLICY, find_role
from aws.athena import RESULTS
from aws.console import say
from aws.ownership import PROJECT_TAG, has_own_parameter, has_own_tag
from aws.requests import MANAGED_TAG
from aws.s3 import is_s3, list_sizes, split_uri
from aws.session import AWS_ERRORS, AwsError, error_code, explain_error
from aws.set_up import POLICY_NAME, SECURITY_CONFIGURATION
from lake.formats import size

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import TagTypeDef
    from mypy_boto3_emr import EMRClient
    from mypy_boto3_glue import GlueClient
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import DeleteTypeDef

    from configs import EmrConfig, EtlConfig

DELETE_AT_ONCE = 1000  # the most keys that one DeleteObjects takes
TAGGED = ("subnet", "vpc", "security-group")  # what --tag-network tags
ALWAYS_LEFT = (
    "EMR's own security groups, service-linked roles and list of ended clusters: they cost nothing"
)


@dataclasses.dataclass(frozen=True)
class Find:
    """One thing in the account; without `remove` it stays, and `what` says why."""

    what: str
    remove: Callable[[], object] | None = None
    is_data: bool = False  # sources and lake are removed only where that is asked for


# Finding, in the order of removal.


def find_everything(
    session: boto3.Session, emr: EmrConfig, etl: EtlConfig, database: str
) -> list[Find]:
    """All that the project made beside its clusters, and what it finds and leaves."""
    return [
        *find_catalog(session.client("glue"), database),
        *find_buckets(session.client("s3"), emr, etl),
        *find_security_configuration(session.client("emr"), emr.security_configuration),
        *find_roles(session.client("iam"), emr),
        *find_tags(session.client("ec2")),
    ]


def find_catalog(glue: GlueClient, database: str) -> Iterator[Find]:
    """The project's tables in the catalogue, and the database unless others use it as well."""
    try:
        found = glue.get_database(Name=database)["Database"]
    except glue.exceptions.EntityNotFoundException:
        return
    pages = glue.get_paginator("get_tables").paginate(DatabaseName=database)
    tables = [table for page in pages for table in page["TableList"]]
    own = sorted(table["Name"] for table in tables if has_own_parameter(table))

    def remove_tables() -> None:
        for name in own:
            glue.delete_table(DatabaseName=database, Name=name)

    if own:
        yield Find(f"Glue tables {', '.join(own)} of {database}", remove_tables)
    if len(own) == len(tables) and has_own_parameter(found):
        yield Find(f"Glue database {database}", lambda: glue.delete_database(Name=database))
    else:
        yield Find(f"Glue database {database}: others use it as well")


def find_buckets(s3: S3Client, emr: EmrConfig, etl: EtlConfig) -> Iterator[Find]:
    """The folders of the project in its buckets, and the buckets; another's bucket is left."""
    results = f"s3://{split_uri(etl.output)[0]}/{RESULTS}"
    data = (etl.song_data, etl.log_data, etl.output)
    uris = [uri for uri in (emr.code_uri, emr.log_uri, results, *data) if uri and is_s3(uri)]
    for bucket in dict.fromkeys(split_uri(uri)[0] for uri in uris):
        tags = fetch_bucket_tags(s3, bucket)
        if tags is None:
            continue
        if has_own_tag(tags):
            folders = {
                split_uri(uri)[1]: uri in data for uri in uris if split_uri(uri)[0] == bucket
            }
            yield from find_folders(s3, bucket, folders)
        else:
            yield Find(f"bucket {bucket} and all in it: this project did not make it")


def fetch_bucket_tags(s3: S3Client, bucket: str) -> Sequence[object] | None:
    """The tags of a bucket, or None if there is no such bucket."""
    try:
        return s3.get_bucket_tagging(Bucket=bucket)["TagSet"]
    except ClientError as error:
        if error_code(error) == "NoSuchBucket":
            return None
        if error_code(error) == "NoSuchTagSet":
            return []
        raise


def find_folders(s3: S3Client, bucket: str, folders: Mapping[str, bool]) -> Iterator[Find]:
    """The folders of one bucket, each with whether it is data, and the bucket if that is all."""
    sizes = list_sizes(s3, bucket, "")
    has_data = False
    for folder, is_data in folders.items():
        prefix = f"{folder}/" if folder else "/"  # a whole bucket may hold what others put there
        inside = [sizes.pop(key) for key in list(sizes) if key.startswith(prefix)]
        if inside:
            has_data = has_data or is_data
            what = f"s3://{bucket}/{prefix}: {len(inside):,} objects, {size(sum(inside))}"
            yield Find(what, delete_all(s3, bucket, prefix), is_data)
    if sizes:
        yield Find(f"bucket {bucket}: {len(sizes):,} other objects, such as {min(sizes)}")
    else:
        yield Find(f"bucket {bucket}", lambda: s3.delete_bucket(Bucket=bucket), has_data)


def delete_all(s3: S3Client, bucket: str, prefix: str) -> Callable[[], None]:
    """What deletes all objects with this prefix, those included that come until it is called."""

    def delete() -> None:
        keys = list(list_sizes(s3, bucket, prefix))
        for start in range(0, len(keys), DELETE_AT_ONCE):
            batch = keys[start : start + DELETE_AT_ONCE]
            objects: DeleteTypeDef = {"Objects": [{"Key": key} for key in batch], "Quiet": True}
            errors = s3.delete_objects(Bucket=bucket, Delete=objects).get("Errors", [])
            if errors:
                first = errors[0]
                raise AwsError(f"{first.get('Key')}: {first.get('Message')} ({first.get('Code')})")

    return delete


def find_security_configuration(emr: EMRClient, name: str) -> Iterator[Find]:
    """EMR's security configuration."""
    try:
        found = emr.describe_security_configuration(Name=name)["SecurityConfiguration"]
    except emr.exceptions.InvalidRequestException:
        return
    if json.loads(found) == SECURITY_CONFIGURATION:
        yield Find(
            f"security configuration {name}", lambda: emr.delete_security_configuration(Name=name)
        )
    else:
        yield Find(f"security configuration {name}: it is not as this project makes it")


def find_roles(iam: IAMClient, emr: EmrConfig) -> Iterator[Find]:
    """The roles and the instance profile, which serve clusters in all regions."""
    node_role, own = emr.instance_profile, f"{POLICY_NAME}-{emr.region}"
    policies = list_policies(iam, node_role)
    others = ", ".join(name.removeprefix(f"{POLICY_NAME}-") for name in policies if name != own)
    if not others:
        yield from find_profile(iam, node_role)
        yield from find_role_of_ours(iam, node_role)
        yield from find_role_of_ours(iam, emr.service_role)
        return
    yield Find(f"roles {emr.service_role} and {node_role}: they serve {others} as well")
    if own in policies:
        yield Find(
            f"policy {own} of role {node_role}",
            lambda: iam.delete_role_policy(RoleName=node_role, PolicyName=own),
        )


def list_policies(iam: IAMClient, role: str) -> list[str]:
    """The names of the inline policies that this project has given to a role."""
    try:
        names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    except iam.exceptions.NoSuchEntityException:
        return []
    return [name for name in names if name.startswith(POLICY_NAME)]


def find_profile(iam: IAMClient, name: str) -> Iterator[Find]:
    """The nodes' instance profile."""
    try:
        profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    except iam.exceptions.NoSuchEntityException:
        return

    def remove() -> None:
        for role in profile["Roles"]:
            iam.remove_role_from_instance_profile(
                InstanceProfileName=name, RoleName=role["RoleName"]
            )
        iam.delete_instance_profile(InstanceProfileName=name)

    if has_own_tag(profile.get("Tags", [])):
        yield Find(f"instance profile {name}", remove)
    else:
        yield Find(f"instance profile {name}: this project did not make it")


def find_role_of_ours(iam: IAMClient, name: str) -> Iterator[Find]:
    """A role; IAM refuses to delete one that somebody has given further policies."""
    role = find_role(iam, name)
    if role and has_own_tag(role.get("Tags", [])):
        yield Find(f"role {name}", lambda: remove_role(iam, name))
    elif role:
        yield Find(f"role {name}: this project did not make it")


def remove_role(iam: IAMClient, name: str) -> None:
    """Delete a role with the policies that this project has given it."""
    for policy in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
        if policy["PolicyArn"].endswith(SERVICE_POLICY):
            iam.detach_role_policy(RoleName=name, PolicyArn=policy["PolicyArn"])
    for inline in list_policies(iam, name):
        iam.delete_role_policy(RoleName=name, PolicyName=inline)
    iam.delete_role(RoleName=name)


def find_tags(ec2: EC2Client) -> Iterator[Find]:
    """The tags that --tag-network has put on the network."""
    filters = {"key": [PROJECT_TAG[0]], "value": [PROJECT_TAG[1]], "resource-type": list(TAGGED)}
    pages = ec2.get_paginator("describe_tags").paginate(
        Filters=[{"Name": name, "Values": values} for name, values in filters.items()]
    )
    tagged = [tag["ResourceId"] for page in pages for tag in page["Tags"]]
    managed: list[TagTypeDef] = [{"Key": MANAGED_TAG}, {"Key": PROJECT_TAG[0]}]
    if tagged:
        what = f"tag {MANAGED_TAG} of {', '.join(sorted(tagged))}"
        yield Find(what, lambda: ec2.delete_tags(Resources=tagged, Tags=managed))


# Removing.


def choose(finds: Sequence[Find], *, with_data: bool) -> tuple[list[Find], list[Find]]:
    """What is to be removed, and what is left."""
    chosen = [find for find in finds if find.remove and (with_data or not find.is_data)]
    return chosen, [find for find in finds if find not in chosen]


def remove_all(finds: Sequence[Find]) -> None:
    """Remove each; what AWS refuses keeps no other from going, and is an AwsError at the end."""
    refused = []
    for find in finds:
        try:
            if find.remove:
                find.remove()
        except AWS_ERRORS as error:
            refused.append(f"{find.what}: {explain_error(error)}")
        else:
            say(f"removed {find.what}")
    if refused:
        raise AwsError(f"not removed, run the same again in some minutes: {'; '.join(refused)}")
