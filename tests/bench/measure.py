"""What a command costs as a whole: wall clock, CPU and memory of every process that it starts.

Linux only, as it reads /proc. A Spark job is a Python process, a JVM and whatever these fork, and
the JVM outlives the process that started it: none of the usual counters of one child sees it all.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.05
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Cost:
    """Seconds until the command ended, CPU seconds and peak memory of its whole process tree."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


class CommandError(Exception):
    """A command that failed, with the end of what it printed."""


def run(command: Sequence[str], folder: Path, log: Path) -> Cost:
    """Run a command to its end and the end of all it left behind; raise CommandError if it fails.

    Memory is the sum of the resident sets, sampled; pages that processes share may count for each.
    The calling process may have no other children: it waits for every one.
    """
    _adopt_orphans()
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=output, start_new_session=True
        )
        with _peak_of(process.pid) as peak:
            try:
                _, status, usage = os.wait4(process.pid, 0)
                seconds = time.perf_counter() - started
                cpu_seconds = usage.ru_utime + usage.ru_stime + _wait_for_orphans()
            except KeyboardInterrupt:  # a session of its own does not hear of Ctrl-C
                os.killpg(process.pid, signal.SIGTERM)
                raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = log.read_text(errors="replace")[-2000:]
        raise CommandError(f"exit code {process.returncode}: {' '.join(command)}\n{tail}")
    return Cost(seconds, cpu_seconds, peak[0])


def _adopt_orphans() -> None:
    """Make a process whose parent has ended a child of this one, so that it can be waited for."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "this kernel has no child subreaper")


def _wait_for_orphans() -> float:
    cpu_seconds = 0.0
    with contextlib.suppress(ChildProcessError):
        while True:
            _, _, usage = os.wait4(-1, 0)
            cpu_seconds += usage.ru_utime + usage.ru_stime
    return cpu_seconds


@contextlib.contextmanager
def _peak_of(session: int) -> Iterator[list[int]]:
    """Sample the memory of a session's processes; the list's one number is the most so far."""
    peak, ended = [0], threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            peak[0] = max(peak[0], _resident_bytes(session))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peak
    finally:
        ended.set()
        sampler.join()


def _resident_bytes(session: int) -> int:
    # Between vfork and exec, which a JVM does for every chmod, a child shows its parent's memory as
    # its own: what has the same virtual size to the byte is taken for the same memory.
    resident_by_size = {}
    for process in Path("/proc").iterdir():
        fields = _fields(process) if process.name.isdigit() else []
        if fields and int(fields[3]) == session:
            resident_by_size[fields[20]] = int(fields[21])
    return sum(resident_by_size.values()) * PAGE_BYTES


def _fields(process: Path) -> list[str]:
    """What proc(5) describes as stat, from the third field on; none if the process has ended."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
