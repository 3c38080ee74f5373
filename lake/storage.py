"""The few things that publishing does with files, on any store that Spark can write to.

S3, HDFS and the rest are reached through Hadoop's FileSystem, as Spark does itself. A local disk is
reached by Python: Hadoop's class for it starts a process for every file that it lists, and where it
cannot rename a folder it copies file by file, so that its rename is not atomic.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from py4j.protocol import Py4JError, Py4JJavaError, Py4JNetworkError
from pyspark.errors import PySparkException

from lake.paths import ETL, folders_above, is_hidden, readable

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Stores where the rename of a folder is atomic. S3 copies and deletes, object by object.
ATOMIC_RENAME = ("file", "hdfs", "viewfs")
# How a FileStatus prints itself. One text for the whole listing takes one call into the JVM, where
# asking each FileStatus for its path and length would take three a file.
FILE_STATUS = re.compile(
    r"\{path=(.*?); isDirectory=false; length=(\d+);[^{}]*?modification_time=(\d+);[^{}]*\}"
    r"(?:\[eTag='([^']*)')?",
    re.DOTALL,
)
# A small file is written beside its place first, under such a name. A young one may be in use.
DRAFT = re.compile(r"\.(LOCK|[\w.-]+\.json)\.[0-9a-f]{6}")
DRAFT_SECONDS = 60
# Linux's own rename that lets two names change places: https://man7.org/linux/man-pages/man2/rename.2.html
AT_FDCWD, RENAME_EXCHANGE = -100, 2
# What is mounted where, on Linux: the fifth word of a line, in which a space is \040.
MOUNTS, OCTAL = Path("/proc/self/mountinfo"), re.compile(r"\\([0-7]{3})")
NOT_ALLOWED = "the file system refused; check that this user may write to the folders above"


class StorageError(Exception):
    """One file operation failed: which, where and why, in one line."""


class MissingError(StorageError):
    """It failed because what it is about is not there."""


class Version(NamedTuple):
    """What a listing tells of a file: equal versions are taken for equal content."""

    bytes: int
    changed: int  # in nanoseconds since 1970; 0 where there is an ETag, which tells more
    # S3's ETag, or a disk's inode: files of one archive have one time, and may swap their names.
    identity: str = ""


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

    def all_files(self, relative: str) -> dict[str, int]:
        """The same, with the hidden files."""

    def versions(self) -> dict[str, Version]:
        """The versions of all files below the root, by their full paths; a file is itself."""

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

    def exchange(self, one: str, other: str) -> bool:
        """Let two folders take each other's place in one step; False where that is not possible."""

    def delete(self, relative: str) -> None:
        """Delete a file, or a folder with all in it; do nothing where there is none."""

    def sync(self, *relatives: str) -> None:
        """Make files, or folders with all in them, outlast a power cut, their names included."""

    def sync_names(self, relatives: Iterable[str]) -> None:
        """Make it outlast a power cut which of these files and folders there are."""

    def drop_drafts(self, relative: str) -> None:
        """Delete what a write that was killed has left in a folder."""

    def obstacle(self, relative: str) -> str:
        """Why a folder could not be moved to the job's own, such as 'is a link'; '' if it can."""


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
        self._statuses: Any = self._new_list()
        self._listed: list[str] = []  # their paths, in order
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
        return _visible(self.all_files(relative))

    def all_files(self, relative: str) -> dict[str, int]:
        """The files below a folder, hidden ones included."""
        found = FILE_STATUS.findall(str(self._all_statuses(relative).toString()))
        start = len(self.path(relative).rstrip("/")) + 1
        return {path[start:]: int(size) for path, size, *_ in found}

    def versions(self) -> dict[str, Version]:
        """The versions of all files below the root, by their full paths; on S3 a request a 1,000.

        The statuses are kept: statuses_of hands them to Spark, which then asks for none of them.
        """
        self._statuses = self._all_statuses("")
        found = FILE_STATUS.findall(str(self._statuses.toString()))
        if len(found) != self._statuses.size():
            raise StorageError(
                f"cannot list {self.root}: of {self._statuses.size():,} files only {len(found):,} "
                "could be told apart; rename files whose names hold braces"
            )
        self._listed = [path for path, *_ in found]
        return {
            path: Version(int(size), 0 if etag else int(changed) * 1_000_000, etag.strip('"'))
            for path, size, changed, etag in found
        }

    def statuses_of(self, files: Collection[str]) -> Any:  # noqa: ANN401 (a Java object)
        """Hadoop's FileStatus of some of the files that versions() has listed, as a Java list."""
        few = self._new_list()
        if (
            len(files) > len(self._listed) // 2
        ):  # a call into the JVM for each that is left out is less
            few.addAll(self._statuses)
            for index in reversed(range(len(self._listed))):
                if self._listed[index] not in files:
                    del few[index]
        else:
            for index, path in enumerate(self._listed):
                if path in files:
                    few.add(self._statuses.get(index))
        return few

    def matches(self) -> list[str]:
        """The paths that match the root as a pattern of Hadoop's, in order."""
        with _one_line("look up", self.root):
            found = self._filesystem.globStatus(self._path("")) or []
        return sorted(str(status.getPath().toString()) for status in found)

    def _all_statuses(self, relative: str) -> Any:  # noqa: ANN401 (a Java object)
        with _one_line("list", self.path(relative)):
            try:
                return self._to_list(self._filesystem.listFiles(self._path(relative), True))
            except Py4JJavaError as error:
                # With real folders it may be a folder further down that was deleted meanwhile.
                if not _is_missing(error) or (not self.is_flat and self.exists(relative)):
                    raise
                return self._new_list()

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

    def exchange(self, one: str, other: str) -> bool:  # noqa: ARG002
        """Say that these stores have no such step."""
        return False

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

    def sync(self, *relatives: str) -> None:
        """Do nothing: such a store answers a write when it is kept."""

    def sync_names(self, relatives: Iterable[str]) -> None:
        """Do nothing, as sync."""

    def drop_drafts(self, relative: str) -> None:
        """Do nothing: a file is written in its place."""

    def obstacle(self, relative: str) -> str:
        """Whether a file is in the place of a folder; these stores have no links or mounts."""
        with contextlib.suppress(MissingError), _one_line("look up", self.path(relative)):
            if self._filesystem.getFileStatus(self._path(relative)).isFile():
                return "is a file"
        return ""

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
        return _visible(self.all_files(relative))

    def all_files(self, relative: str) -> dict[str, int]:
        """The files below a folder, hidden ones included; a link to a folder counts as a file."""
        start, found = self._local(relative), {}
        with _one_line("list", self.path(relative)):
            for folder, names, files in os.walk(start, onerror=_raise, followlinks=True):
                at = Path(folder).relative_to(start)
                links = [name for name in names if Path(folder, name).is_symlink()]
                names[:] = [name for name in names if name not in links]
                for name in (*files, *links):
                    found[(at / name).as_posix()] = Path(folder, name).lstat().st_size
        return found

    def versions(self) -> dict[str, Version]:
        """The versions of all files below the root, by their full paths; a file is itself."""
        root = self._local("")
        found = {}
        with _one_line("list", self.root):
            paths = [str(root)] if root.is_file() else []
            walk = () if paths else os.walk(root, onerror=_raise, followlinks=True)
            for folder, _, files in walk:
                paths += [f"{folder}/{name}" for name in files]
            for path in paths:
                status = os.stat(path)  # noqa: PTH116 (twice as fast as Path)
                version = Version(status.st_size, status.st_mtime_ns, str(status.st_ino))
                found[f"file:{path}"] = version
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

    def exchange(self, one: str, other: str) -> bool:
        """Let two folders take each other's place in one step; False where that is not possible."""
        paths = [os.fsencode(self._local(relative)) for relative in (one, other)]
        if not all(map(os.path.isdir, paths)):
            return False
        try:
            renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
        except (AttributeError, OSError):  # not Linux, or an old C library
            return False
        return bool(renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE) == 0)

    def delete(self, relative: str) -> None:
        """Delete a file, or a folder with all in it; do nothing where there is none."""
        path = self._local(relative)
        with _one_line("delete", self.path(relative)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def sync(self, *relatives: str) -> None:
        """Write files, or folders with all in them, through to the disk, their names included."""
        for relative in relatives:
            path = self._local(relative)
            with _one_line("sync", self.path(relative)):
                # Without an error where the folder is missing: what uses it next says so better.
                for folder, _, files in os.walk(path):
                    for file in (*files, ""):
                        _fsync(Path(folder, file))
                if path.is_file():
                    _fsync(path)
        self.sync_names(relatives)

    def sync_names(self, relatives: Iterable[str]) -> None:
        """Write the folders above these paths through to the disk, up to the lake's root."""
        folders = {folder for relative in relatives for folder in ("", *folders_above(relative))}
        with _one_line("sync", self.root):
            for folder in sorted(folders, key=len, reverse=True):
                if self._local(folder).is_dir():
                    _fsync(self._local(folder))
        with contextlib.suppress(OSError):  # a folder that only others may read
            _fsync(self._local("").parent)

    def drop_drafts(self, relative: str) -> None:
        """Delete what a write that was killed has left in a folder."""
        for draft in self._local(relative).glob(".*"):
            with contextlib.suppress(OSError):  # this very moment it may become LOCK
                is_old = time.time() - draft.stat().st_mtime > DRAFT_SECONDS
                if DRAFT.fullmatch(draft.name) and is_old:
                    draft.unlink()

    def obstacle(self, relative: str) -> str:
        """Why a folder could not be moved to the job's own; '' if it can or there is none."""
        path, own = self._local(relative), self._local(ETL)
        with _one_line("look up", self.path(relative)):
            if path.is_symlink():
                return f"is a link to {path.readlink()}"
            if not path.exists():
                return ""
            if not path.is_dir():
                return "is a file"
            mounted = find_mount(path)
            if mounted == "." or os.path.ismount(path):
                return "is a mount point"
            if own.exists() and own.stat().st_dev != path.stat().st_dev:
                return f"is on another file system than {own}"
            return f"holds a mount point, {mounted}" if mounted and relative != ETL else ""

    def _local(self, relative: str) -> Path:
        return Path(self.path(relative).replace("file:", "", 1))


def find_mount(folder: Path) -> str:
    """The first mount point in a folder, relative to it, '.' for itself; '' if there is none."""
    if MOUNTS.is_file():  # it knows of folders and files of the same disk that are mounted, too
        lines = (line.split() for line in os.fsdecode(MOUNTS.read_bytes()).splitlines())
        points = (Path(OCTAL.sub(lambda code: chr(int(code[1], 8)), line[4])) for line in lines)
        above = folder.resolve()
        inside = (point.relative_to(above) for point in points if above in (point, *point.parents))
    else:
        below = (Path(at, name) for at, names, _ in os.walk(folder) for name in names)
        inside = (path.relative_to(folder) for path in below if os.path.ismount(path))
    return min((path.as_posix() for path in inside), default="")


def _visible(files: dict[str, int]) -> dict[str, int]:
    return {file: size for file, size in files.items() if not is_hidden(file)}


def _fsync(path: Path) -> None:
    """Write a file or a folder through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _one_line(*doing: str) -> Iterator[None]:
    try:
        yield
    except (Py4JError, PySparkException, OSError) as error:
        kind = MissingError if _is_missing(error) else StorageError
        raise kind(f"cannot {' '.join(map(readable, doing))}: {_cause(error)}") from None


def _is_missing(error: Py4JError | PySparkException | OSError) -> bool:
    if isinstance(error, Py4JJavaError):
        return str(error.java_exception.getClass().getName()) == "java.io.FileNotFoundException"
    return isinstance(error, FileNotFoundError)


def _cause(error: Py4JError | PySparkException | OSError) -> str:
    if isinstance(error, OSError) and not isinstance(error, ConnectionError):
        return error.strerror or str(error)
    if isinstance(error, (Py4JNetworkError, OSError)):
        return "Spark's JVM has ended"
    java = getattr(error, "java_exception", None)
    return " ".join(str(java.toString() if java else error).split())


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
