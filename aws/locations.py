"""Where code, logs, data and lake are in S3: where dl.cfg says, or in the project's bucket."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aws.console import say

if TYPE_CHECKING:
    import boto3

    from configs import EmrConfig, EtlConfig

EMR_FOLDERS = {"code_uri": "code", "log_uri": "logs"}
ETL_FOLDERS = {"song_data": "song_data", "log_data": "log_data", "output": "lake"}
# The paths of the shipped dl.cfg are for a run on the laptop. No cluster can see them, so there the
# folders of the bucket stand for them. Any other path is the user's own and stays.
ON_THE_LAPTOP = {"song_data": "data/song_data", "log_data": "data/log_data", "output": "output"}
ANY_ACCOUNT, ANY_REGION = "123456789012", "us-west-2"  # for a dry run, which asks AWS nothing


def build_locations(emr: EmrConfig, etl: EtlConfig, bucket: str) -> tuple[EmrConfig, EtlConfig]:
    """The settings with a folder of the bucket for each S3 path that is not set.

    Not set are a blank code_uri or log_uri, and a path of [etl] that is still the shipped one.
    """
    unset = find_unset(emr, etl)

    def build(folders: Mapping[str, str]) -> Any:  # noqa: ANN401 (the fields of either class)
        return {key: f"s3://{bucket}/{name}" for key, name in folders.items() if key in unset}

    return (
        dataclasses.replace(emr, **build(EMR_FOLDERS)),
        dataclasses.replace(etl, **build(ETL_FOLDERS)),
    )


def find_unset(emr: EmrConfig, etl: EtlConfig) -> set[str]:
    """The keys of the S3 paths that follow from the bucket."""
    return {
        *[key for key in EMR_FOLDERS if not getattr(emr, key)],
        *[key for key, path in ON_THE_LAPTOP.items() if getattr(etl, key) == path],
    }


def build_bucket_name(account: str, region: str) -> str:
    """The name of the project's bucket; the buckets of all accounts share one name space."""
    return f"sparkify-{account}-{region}"


def build_job_flags(before: EtlConfig, after: EtlConfig) -> list[str]:
    """The arguments of etl.py that give it the paths that follow from the bucket."""
    changed = [key for key in ETL_FOLDERS if getattr(before, key) != getattr(after, key)]
    return [part for key in changed for part in (f"--{key.replace('_', '-')}", getattr(after, key))]


def locate(session: boto3.Session, emr: EmrConfig, etl: EtlConfig) -> tuple[EmrConfig, EtlConfig]:
    """The settings with the session's region, the bucket and all S3 paths.

    The bucket that a blank key stands for is said, before anything is made in it.
    """
    emr = dataclasses.replace(emr, region=session.region_name)
    if not emr.bucket:
        account = session.client("sts").get_caller_identity()["Account"]
        emr = dataclasses.replace(emr, bucket=build_bucket_name(account, emr.region))
        say(f"bucket {emr.bucket}, named for your account and region; [emr] bucket names another")
    return build_locations(emr, etl, str(emr.bucket))


def locate_without_aws(emr: EmrConfig, etl: EtlConfig) -> tuple[EmrConfig, EtlConfig]:
    """The same for a dry run: account and region are made up where only AWS knows them."""
    emr = dataclasses.replace(emr, region=emr.region or ANY_REGION)
    if not emr.bucket:
        emr = dataclasses.replace(emr, bucket=build_bucket_name(ANY_ACCOUNT, emr.region))
        say(f"dry run: bucket {emr.bucket} stands for sparkify-<account>-<region>")
    return build_locations(emr, etl, str(emr.bucket))


def locate_lake(session: boto3.Session | None, emr: EmrConfig, etl: EtlConfig) -> str:
    """The lake's URI alone, for which a set output needs no bucket; without a session a dry run."""
    if etl.output != ON_THE_LAPTOP["output"]:
        return etl.output
    _, located = locate(session, emr, etl) if session else locate_without_aws(emr, etl)
    return located.output
