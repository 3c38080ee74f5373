"""URIs, listings and small objects in S3."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectTypeDef


def split_uri(uri: str) -> tuple[str, str]:
    """The bucket and the key of an s3://, s3a:// or s3n:// URI; EMR returns log URIs as s3n://."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def is_s3(uri: str) -> bool:
    """Whether a path is in S3 rather than a local folder."""
    return uri.startswith(("s3://", "s3a://"))


def list_keys(s3: S3Client, bucket: str, prefix: str) -> list[str]:
    """All keys with this prefix."""
    return list(list_sizes(s3, bucket, prefix))


def list_sizes(s3: S3Client, bucket: str, prefix: str) -> dict[str, int]:
    """The bytes of each object with this prefix, by its key."""
    return {entry["Key"]: entry["Size"] for entry in _list_objects(s3, bucket, prefix)}


def list_etags(s3: S3Client, bucket: str, prefix: str) -> dict[str, str]:
    """The ETag of each object with this prefix, by its key: other content has another one."""
    return {entry["Key"]: entry["ETag"] for entry in _list_objects(s3, bucket, prefix)}


def _list_objects(s3: S3Client, bucket: str, prefix: str) -> Iterator[ObjectTypeDef]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return (entry for page in pages for entry in page.get("Contents", []))


def read_text(s3: S3Client, bucket: str, key: str) -> str:
    """The text of an object; one whose key ends in .gz is decompressed."""
    body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    return (gzip.decompress(body) if key.endswith(".gz") else body).decode("utf-8", "replace")
