"""Song and log files, uploaded to where the job reads them: the sample, or a user's own."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from boto3.s3.transfer import TransferConfig

from aws.console import Progress, say
from aws.s3 import split_uri
from aws.session import AwsError
from configs import ConfigError
from lake.formats import size
from lake.locations import is_pattern
from lake.paths import is_no_input

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from configs import EtlConfig

SAMPLE = Path(__file__).parents[1] / "data"
SOURCES = {"song_data": "song-data.zip", "log_data": "log-data.zip"}
AT_ONCE = 10  # as many connections as boto3 keeps open
# Larger files are uploaded in parts of this size, which decide about their ETag: see build_etag.
PART_BYTES = 64 * 1024 * 1024
TRANSFER = TransferConfig(
    multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, use_threads=False
)


@dataclasses.dataclass(frozen=True)
class DataFile:
    """One file to upload: a file on disk, or an entry of a zip archive."""

    path: Path
    entry: str | None  # of the archive
    size: int
    folder: str  # the source of the job that it belongs to, in S3
    name: str  # in that folder

    @property
    def uri(self) -> str:
        """Where the file goes."""
        return f"{self.folder}/{self.name}"

    def open(self) -> BinaryIO:
        """The content, to be read from its start."""
        try:
            if self.entry is None:
                return self.path.open("rb")
            with zipfile.ZipFile(self.path) as archive:
                return io.BytesIO(archive.read(self.entry))
        except OSError as error:
            raise AwsError(f"{self.path}: cannot be read: {error.strerror}") from None


# What there is to upload.


def find_sample(etl: EtlConfig) -> list[DataFile]:
    """The files of the sample, straight from its archives."""
    files = []
    for key, name in SOURCES.items():
        folder = check_folder(etl, key)
        if not (SAMPLE / name).is_file():
            raise ConfigError(
                f"{SAMPLE / name} is missing: git checkout -- data/{name} restores it"
            )
        with zipfile.ZipFile(SAMPLE / name) as archive:
            files += [
                DataFile(
                    path=SAMPLE / name,
                    entry=entry.filename,
                    size=entry.file_size,
                    folder=folder,
                    name=entry.filename.partition("/")[2],
                )
                for entry in archive.infolist()
                if not entry.is_dir()
            ]
    return files


def find_data(folder: Path, etl: EtlConfig) -> list[DataFile]:
    """The files of a folder's song_data and log_data, without those that the job passes over."""
    sources = [key for key in SOURCES if (folder / key).is_dir()]
    if not sources:
        raise ConfigError(f"--upload {folder}: expected a folder with song_data and log_data in it")
    files = []
    for key in sources:
        paths = [path for path in sorted((folder / key).rglob("*")) if path.is_file()]
        names = {path: path.relative_to(folder / key).as_posix() for path in paths}
        files += [
            DataFile(path, None, path.stat().st_size, check_folder(etl, key), name)
            for path, name in names.items()
            if not is_no_input(path.as_posix(), (folder / key).as_posix())
        ]
    return files


def check_folder(etl: EtlConfig, key: str) -> str:
    """The folder in S3 that a source is; raises a ConfigError where it is a pattern."""
    folder: str = getattr(etl, key).rstrip("/")
    if is_pattern(folder):
        raise ConfigError(f"[etl] {key} = {folder} is a pattern: to upload, name a folder")
    return folder


# Uploading.


def upload_data(s3: S3Client, files: Sequence[DataFile]) -> int:
    """Upload the files that are not in S3 yet, several at a time; returns how many those were."""
    stored = list_stored(s3, files)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        known = list(pool.map(lambda file: is_stored(file, stored), files))
        new = [file for file, is_known in zip(files, known) if not is_known]
        show_uploads([pool.submit(upload_file, s3, file) for file in new])
    rest = "" if len(new) == len(files) else "; the rest is there already"
    total = size(sum(file.size for file in new))
    say(f"uploaded {len(new):,} of {len(files):,} data files, {total}{rest}")
    return len(new)


def show_uploads(uploads: Sequence[concurrent.futures.Future[None]]) -> None:
    """Show how many uploads are done until all are; after a failure no further one begins."""
    state = f"uploading {len(uploads):,} data files"
    try:
        with Progress() as progress:
            for done, upload in enumerate(concurrent.futures.as_completed(uploads), start=1):
                upload.result()
                progress.show(state, f"({done:,} done)")
    except BaseException:
        for upload in uploads:
            upload.cancel()
        raise


def upload_file(s3: S3Client, file: DataFile) -> None:
    """Upload one file."""
    with file.open() as content:
        s3.upload_fileobj(content, *split_uri(file.uri), Config=TRANSFER)


# What is there already.


def list_stored(s3: S3Client, files: Sequence[DataFile]) -> dict[str, tuple[int, str]]:
    """Size and ETag of each object in the folders that the files go to, by URI."""
    stored = {}
    for folder in sorted({file.folder for file in files}):
        bucket, prefix = split_uri(f"{folder}/")
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                name = entry["Key"].removeprefix(prefix)
                stored[f"{folder}/{name}"] = (entry["Size"], entry["ETag"].strip('"'))
    return stored


def is_stored(file: DataFile, stored: Mapping[str, tuple[int, str]]) -> bool:
    """Whether S3 holds this very content; only a file of the same size is read to tell.

    Its time of change tells nothing: to copy, to unpack and to check out all make an old file new.
    """
    stored_size, etag = stored.get(file.uri, (-1, ""))
    return stored_size == file.size and etag == build_etag(file)


def build_etag(file: DataFile) -> str:
    """The ETag that S3 gives the file when upload_file has uploaded it.

    It is the MD5 of the content, or that of its parts' MD5s, but not where the bucket encrypts with
    a key of KMS: there every file is uploaded again.
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
    """
    with file.open() as content:
        parts = [md5(part) for part in iter(lambda: content.read(PART_BYTES), b"")]
    if file.size < PART_BYTES:
        return (parts[0] if parts else md5(b"")).hex()
    return f"{md5(b''.join(parts)).hex()}-{len(parts)}"


def md5(content: bytes) -> bytes:
    """The MD5 of a content, which here tells contents apart and secures nothing."""
    return hashlib.md5(content, usedforsecurity=False).digest()
