"""Which files a source holds: listed once, before any of them is read."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lake.locations import is_pattern
from lake.paths import is_no_input, readable
from lake.storage import HadoopStorage, Storage, StorageError, Version, open_storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

COMPRESSED = re.compile(r"\.(gz|bz2|deflate|lz4|snappy|zst)$")  # Hadoop unpacks by these endings
PACKED = re.compile(
    r"\.(zip|7z|rar|tar|tgz|tbz2?|txz|xz|lzma|lzo|br|z|gz|bz2|zst)$|\.tar\.\w+$", re.IGNORECASE
)


class SourceError(Exception):
    """A source cannot be read or has nothing to load, or too much of it is bad; in one line."""


@dataclass(frozen=True)
class Listing:
    """The files of a source to read, by their paths as Spark has them, and those passed over."""

    began: int  # when, in nanoseconds since 1970
    ended: int
    storages: Sequence[Storage]  # one for each folder or file that the source's path stands for
    files: Mapping[str, Version]
    passed_over: Sequence[str]


def list_source(spark: SparkSession, name: str, path: str) -> Listing:
    """The files of a source, found recursively.

    Raises SourceError if the path does not exist, or if a file is packed as Spark cannot read it.
    """
    began = time.time_ns()
    storages = find_roots(spark, name, path)
    files: dict[str, Version] = {}
    passed_over = []
    for storage in storages:
        for file, version in storage.versions().items():
            if is_no_input(file, storage.root):
                passed_over.append(file)
            else:
                files[file] = version
    ended = time.time_ns()
    refuse_packed(name, files)
    refuse_unreadable_names(spark, name, files)
    return Listing(began, ended, storages, files, sorted(passed_over))


def find_roots(spark: SparkSession, name: str, path: str) -> list[Storage]:
    """What a source's path stands for: itself if it exists, else what it matches as a pattern."""
    try:
        storage = open_storage(spark, path)
        if storage.exists(""):
            return [storage]
        matches = HadoopStorage(spark, path).matches() if is_pattern(path) else []
    except StorageError as error:
        raise SourceError(f"{name}: {describe_missing(path, error)}") from None
    if not matches:
        raise SourceError(f"{name}: cannot read {path}: it does not exist")
    return [open_storage(spark, match) for match in matches]


def describe_missing(path: str, error: StorageError) -> str:
    """What is wrong with a source that cannot be looked up."""
    if re.search("NoSuchBucket|UnknownStoreException", str(error)):
        bucket = path.split("/")[2]
        return f"bucket {bucket} does not exist: check the spelling of {path}"
    return str(error)


def refuse_packed(name: str, files: Mapping[str, Version]) -> None:
    """Raise SourceError for a file whose ending says that it is packed as Spark cannot read it."""
    packed = [file for file in files if PACKED.search(file) and is_packed(file)]
    if packed:
        raise SourceError(
            f"{name}: cannot read {readable(packed[0])}: its ending stands for a packed file that "
            f"Spark does not unpack ({len(packed):,} such files). Pack it with gzip, as .gz, or "
            "move it away"
        )


def is_packed(file: str) -> bool:
    """Whether a file with the ending of a packed one is not one that Hadoop unpacks."""
    return ".tar." in file or COMPRESSED.search(file) is None


def refuse_unreadable_names(spark: SparkSession, name: str, files: Mapping[str, Version]) -> None:
    """Raise SourceError for a name that Java cannot give to the disk in this locale."""
    others = [file for file in files if file.startswith("file:") and not file.isascii()]
    jvm = spark._jvm
    if others and jvm is not None:
        encoding = str(jvm.System.getProperty("sun.jnu.encoding"))
        if not re.fullmatch("utf-?8", encoding, re.IGNORECASE):
            raise SourceError(
                f"{name}: cannot read {readable(others[0])!a}: Java runs in a locale whose "
                f"encoding is {encoding}; set LC_ALL=C.UTF-8 and run again"
            )
