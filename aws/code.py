"""The job's code and settings, uploaded to an S3 folder that is named by a hash of their content.

So nothing is uploaded twice, a new version never overwrites what a running step reads, and the name
of a step shows which version of the code it runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from aws.s3 import split_uri
from aws.session import error_code
from configs import ConfigError, EtlConfig, load_etl_config
from configs import refuse_secrets as refuse_secrets_in_settings

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).parents[1]
SCRIPT = "etl.py"
PACKAGE = "lake"
MODULES = ("configs.py", f"{PACKAGE}.zip")  # for --py-files of spark-submit
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold
PATHS = ("song_data", "log_data", "output")
SHORTEST_SECRET = 16  # AWS's have 40 characters; a shorter text may be an ordinary word
KEY_ID = re.compile(rb"\b(AKIA|ASIA)[A-Z0-9]{16}\b")


@dataclasses.dataclass(frozen=True)
class Code:
    """The files to upload, and the S3 folder that is named by a hash of them."""

    files: Mapping[str, bytes]
    uri: str
    sources: Mapping[str, bytes]  # the same files, with the package's modules instead of its zip

    @property
    def digest(self) -> str:
        """The hash that names the folder."""
        return self.uri.rpartition("/")[2]


def read_code(root: Path, config_path: Path, code_uri: str) -> Code:
    """Read the job, its package as one zip, and its settings as dl.cfg."""
    names = [SCRIPT, "configs.py"]
    package = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted((root / PACKAGE).glob("*.py"))
    }
    files = {name: (root / name).read_bytes() for name in names}
    files["dl.cfg"] = config_path.read_bytes()
    sources = {**files, **package}
    files[f"{PACKAGE}.zip"] = build_zip(package)
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return Code(files, f"{code_uri}/{digest.hexdigest()[:16]}", sources)


def build_zip(files: Mapping[str, bytes]) -> bytes:
    """A zip of these files; equal files give equal bytes, and so the same S3 folder."""
    content_of_zip = io.BytesIO()
    # Stored, not compressed: what zlib writes depends on its version.
    with zipfile.ZipFile(content_of_zip, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, EARLIEST), content)
    return content_of_zip.getvalue()


def object_uris(code: Code) -> dict[str, bytes]:
    """The content of each file, by the URI that it is uploaded to."""
    return {f"{code.uri}/{name}": content for name, content in code.files.items()}


def refuse_secrets(code: Code, session: boto3.Session) -> None:
    """Raise a ConfigError if a file to upload holds an AWS key or another secret."""
    credentials = session.get_credentials()
    secrets = [credentials.secret_key, credentials.token] if credentials else []
    own = [secret.encode() for secret in secrets if secret and len(secret) >= SHORTEST_SECRET]
    for name, content in code.sources.items():
        if name.endswith(".cfg"):
            refuse_secrets_in_settings(content.decode("utf-8-sig"), name)
        if KEY_ID.search(content) or any(secret in content for secret in own):
            raise ConfigError(
                f"{name} seems to hold a key, so it is not uploaded: keys belong in keys.cfg only"
            )


def load_job_config(config_path: Path, job_args: Sequence[str]) -> EtlConfig:
    """The settings that the job will have; paths in its arguments override dl.cfg."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for key in PATHS:
        parser.add_argument(f"--{key.replace('_', '-')}", dest=key)
    given = vars(parser.parse_known_args(job_args)[0])
    flags = {("etl", key): value for key, value in given.items() if value is not None}
    return load_etl_config(config_path, flags)


def check_paths(config: EtlConfig) -> None:
    """Raise a ConfigError for a path that the cluster cannot reach."""
    for key in PATHS:
        if "://" not in getattr(config, key):
            raise ConfigError(
                f"[etl] {key} = {getattr(config, key)}: the cluster cannot see this computer's"
                f" folders; give an s3:// folder there, or -- --{key.replace('_', '-')} s3://..."
            )


def upload(s3: S3Client, code: Code) -> int:
    """Upload the files that are not in S3 yet, and return how many those were."""
    missing = [entry for entry in object_uris(code).items() if not object_exists(s3, entry[0])]
    for uri, content in missing:
        bucket, key = split_uri(uri)
        s3.put_object(Bucket=bucket, Key=key, Body=content)
    return len(missing)


def object_exists(s3: S3Client, uri: str) -> bool:
    """Whether an object exists; its content is known, because the folder's name is its hash."""
    bucket, key = split_uri(uri)
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error_code(error) == "404":
            return False
        raise
    return True
