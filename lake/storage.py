"""The few things that publishing does with files, on any store that Spark can write to.

S3, HDFS and the rest are reached through Hadoop's FileSystem, as Spark does itself. A local disk is
reached by Python: Hadoop's class for it starts a process for every file that it lists, and where it
cannot rename a folder it copies file by file, so that its rename is not atomic.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from py4j.protocol import Py4JError, Py4JJavaError

from lake.paths import is_hidden

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Stores where the rename of a folder is atomic. S3 copies and deletes, object by object.
ATOMIC_RENAME = ("file", "hdfs", "viewfs")
# How a FileStatus prints itself. One text for the whole listing takes one call into the JVM, where
# asking each FileStatus for its path and length would take three a file.
FILE_STATUS = re.compile(r"\{path=(.*?); isDirectory=false; length=(\d+);")
NOT_ALLOWED = "the file system refused; check that this user may write to the folders above"


class StorageError(Exception):
    """One file operation failed: which, where and why, in one line."""


class MissingError(StorageError):
    """It failed because what it is about is not there."""


class Storage(Protocol):
    """The files of one lake; paths are relative to its root and use forward slashes.

    Every method raises StorageError, in one line, where the store refuses or does not answer.
    """

    root: str
    atomic_rename: bool

    def path(self, relative: str) -> str:
        """The full path of a file or folder, as Spark reads and writes it."""

    def exists(self, relative: str) -> bool:
        """Whether a file or a folder is there."""

    def files(self, relative: str) -> dict[str, int]:
        """The visible files below a folder, relative to it, with their bytes; {} without one."""

    def folders(self, relative: str) -> list[str]:
        """The names of the folders directly in a folder, in order; [] without a folder."""

    def written(self, relative: str) -> float | None:
        """When a file was written, in seconds by the store's clock; None where there is none."""

    def read(self, relative: str) -> str:
        """A small text file; raises MissingError where there is none."""

    def write(self, relative: str, content: str) -> None:
        """Write or replace a small text file, making the folders above it."""

    def rename(self, source: str, target: str) -> None:
        """Move a file or a folder to where nothing is yet, making the folders above it."""

    def delete(self, relative: str) -> None:
        """Delete a file, or a folder with all in it; do nothing where there is none."""


def open_storage(spark: SparkSession, root: str) -> Storage:
    """The files of the lake at a path or URI."""
    storage = HadoopStorage(spark, root)
    return Disk(storage.root) if storage.root.startswith("file:") else storage


class HadoopStorage:
    """The files of a lake on a store that Hadoop's FileSystem reaches: S3, HDFS."""

    def __init__(self, spark: SparkSession, root: str) -> None:
        # PySpark has no public API for Hadoop's FileSystem, so this uses py4j. Classes are kept:
        # each part of a dotted name costs a call into the JVM.
        jvm: Any = spark._jvm
        context: Any = spark.sparkContext._jsc
        self._new_path = jvm.org.apache.hadoop.fs.Path
        self._to_list = jvm.org.apache.hadoop.util.functional.RemoteIterators.toList
        self._new_list = jvm.java.util.ArrayList
        self._to_text = jvm.org.apache.commons.io.IOUtils.toString
        self._changes = ThreadPoolExecutor(1)
        # With a slash: Hadoop takes s3://bucket without a path for the user's home in that bucket.
        self.root = root.rstrip("/") + "/"
        with _one_line("open", root):
            path = self._path("")
            self._filesystem = path.getFileSystem(context.hadoopConfiguration())
            self.root = str(self._filesystem.makeQualified(path).toString())
            self.atomic_rename = str(self._filesystem.getUri().getScheme()) in ATOMIC_RENAME

    @property
    def is_flat(self) -> bool:
        """Whether the store has no real folders, so that one request lists a thousand files: S3."""
        return str(self._filesystem.getScheme()) == "s3a"

    def path(self, relative: str) -> str:
        """The full path of a file or folder, as Spark reads and writes it."""
        return f"{self.root.rstrip('/')}/{relative}" if relative else self.root

    def exists(self, relative: str) -> bool:
        """Whether a file or a folder is there."""
        with _one_line("look up", self.path(relative)):
            return bool(self._filesystem.exists(self._path(relative)))

    def files(self, relative: str) -> dict[str, int]:
        """The visible files below a folder, relative to it, with their bytes; {} without one."""
        found = FILE_STATUS.findall(str(self.statuses(relative).toString()))
        start = len(self.path(relative).rstrip("/")) + 1
        return {path[start:]: int(size) for path, size in found}

    def statuses(self, relative: str) -> Any:  # noqa: ANN401 (a Java object)
        """Hadoop's FileStatus of each visible file below a folder, as a list in the JVM.

        It takes a few calls into the JVM for any number of files, and on S3 a request a thousand.
        """
        with _one_line("list", self.path(relative)):
            try:
                found = self._to_list(self._filesystem.listFiles(self._path(relative), True))
            except Py4JJavaError as error:
                # With real folders it may be a folder further down that was deleted meanwhile.
                if not _is_missing(error) or (not self.is_flat and self.exists(relative)):
                    raise
                return self._new_list()
            start = len(self.path(relative).rstrip("/"))
            paths = [path for path, _ in FILE_STATUS.findall(str(found.toString()))]
            for index in reversed(range(len(paths))):
                if is_hidden(paths[index][start:].lstrip("/")):
                    del found[index]
            return found

    def folders(self, relative: str) -> list[str]:
        """The names of the folders directly in a folder, in order."""
        try:
            with _one_line("list", self.path(relative)):
                statuses = self._filesystem.listStatus(self._path(relative))
        except MissingError:
            return []
        return sorted(str(s.getPath().getName()) for s in statuses if s.isDirectory())

    def written(self, relative: str) -> float | None:
        """When a file was written, in seconds by the store's clock; None where there is none."""
        try:
            with _one_line("look up", self.path(relative)):
                status = self._filesystem.getFileStatus(self._path(relative))
        except MissingError:
            return None
        return float(status.getModificationTime()) / 1000

    def read(self, relative: str) -> str:
        """A small text file."""
        with _one_line("read", self.path(relative)):
            stream = self._filesystem.open(self._path(relative))
            with contextlib.closing(stream):
                return str(self._to_text(stream, "UTF-8"))

    def write(self, relative: str, content: str) -> None:
        """Write or replace a small text file, making the folders above it."""

        def write() -> None:
            stream = self._filesystem.create(self._path(relative), True)
            with contextlib.closing(stream):
                stream.write(bytearray(content.encode()))

        with _one_line("write", self.path(relative)):
            self._change(write)

    def rename(self, source: str, target: str) -> None:
        """Move a file or a folder to where nothing is yet, making the folders above it."""

        def rename() -> None:
            if not self.is_flat:
                self._filesystem.mkdirs(self._path(target).getParent())
            if self.atomic_rename and self._filesystem.exists(self._path(target)):
                raise OSError("something is there already")  # HDFS would move it into that folder
            if not self._filesystem.rename(self._path(source), self._path(target)):
                raise OSError(NOT_ALLOWED)

        with _one_line("move", self.path(source), "to", self.path(target)):
            self._change(rename)

    def delete(self, relative: str) -> None:
        """Delete a file, or a folder with all in it; do nothing where there is none."""

        def delete() -> None:
            path = self._path(relative)
            if self._filesystem.delete(path, True) or self.is_flat:
                return
            # Some file systems only return false when they fail; S3A raises.
            if self._filesystem.exists(path):
                raise OSError(NOT_ALLOWED)

        with _one_line("delete", self.path(relative)):
            self._change(delete)

    def _change(self, change: Callable[[], None]) -> None:
        """Change files in another thread, so that Ctrl-C cannot break a change off half-way.

        Later changes wait for it, so that the lock is not released while the JVM still moves files.
        """
        if threading.current_thread() is threading.main_thread():
            self._changes.submit(change).result()
        else:
            change()

    def _path(self, relative: str) -> Any:  # noqa: ANN401 (a Java object)
        return self._new_path(self.path(relative))


class Disk:
    """The files of a lake on this machine's disk."""

    atomic_rename = True

    def __init__(self, root: str) -> None:
        self.root = root  # such as file:/home/me/lake

    def path(self, relative: str) -> str:
        """The full path of a file or folder, as Spark reads and writes it."""
        return f"{self.root.rstrip('/')}/{relative}" if relative else self.root

    def exists(self, relative: str) -> bool:
        """Whether a file or a folder is there."""
        with _one_line("look up", self.path(relative)):
            return self._local(relative).exists()

    def files(self, relative: str) -> dict[str, int]:
        """The visible files below a folder, relative to it, with their bytes; {} without one."""
        start, found = self._local(relative), {}
        with _one_line("list", self.path(relative)):
            for folder, names, files in os.walk(start, onerror=_raise, followlinks=True):
                names[:] = [name for name in names if not is_hidden(name)]
                for path in (Path(folder) / file for file in files if not is_hidden(file)):
                    found[path.relative_to(start).as_posix()] = path.stat().st_size
        return found

    def folders(self, relative: str) -> list[str]:
        """The names of the folders directly in a folder, in order."""
        try:
            with _one_line("list", self.path(relative)):
                found = list(self._local(relative).iterdir())
        except MissingError:
            return []
        return sorted(path.name for path in found if path.is_dir())

    def written(self, relative: str) -> float | None:
        """When a file was written, in seconds by the disk's clock; None where there is none."""
        with _one_line("look up", self.path(relative)):
            try:
                return self._local(relative).stat().st_mtime
            except FileNotFoundError:
                return None

    def read(self, relative: str) -> str:
        """A small text file."""
        with _one_line("read", self.path(relative)):
            return self._local(relative).read_text(encoding="utf-8")

    def write(self, relative: str, content: str) -> None:
        """Write or replace a small text file in one step, making the folders above it."""
        path = self._local(relative)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(3)}")  # two runs may write LOCK
        with _one_line("write", self.path(relative)):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(content, encoding="utf-8")
            draft.replace(path)

    def rename(self, source: str, target: str) -> None:
        """Move a file or a folder to where nothing is yet, making the folders above it."""
        with _one_line("move", self.path(source), "to", self.path(target)):
            self._local(target).parent.mkdir(parents=True, exist_ok=True)
            self._local(source).rename(self._local(target))

    def delete(self, relative: str) -> None:
        """Delete a file, or a folder with all in it; do nothing where there is none."""
        path = self._local(relative)
        with _one_line("delete", self.path(relative)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _local(self, relative: str) -> Path:
        return Path(self.path(relative).replace("file:", "", 1))


@contextlib.contextmanager
def _one_line(*doing: str) -> Iterator[None]:
    try:
        yield
    except (Py4JError, OSError) as error:
        kind = MissingError if _is_missing(error) else StorageError
        raise kind(f"cannot {' '.join(doing)}: {_cause(error)}") from None


def _is_missing(error: Py4JError | OSError) -> bool:
    if isinstance(error, Py4JJavaError):
        return str(error.java_exception.getClass().getName()) == "java.io.FileNotFoundException"
    return isinstance(error, FileNotFoundError)


def _cause(error: Py4JError | OSError) -> str:
    if isinstance(error, OSError) and not isinstance(error, ConnectionError):
        return error.strerror or str(error)
    java = getattr(error, "java_exception", None)
    return " ".join(str(java.toString()).split()) if java else "Spark's JVM has ended"


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
