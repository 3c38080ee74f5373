"""The lock: only one run at a time may write to a lake.

LOCK names the run that holds it, and a heartbeat refreshes it. A lock that was not refreshed for
the time of the lease belongs to a dead run, and the next run takes it over.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from lake.formats import utc_now
from lake.paths import ETL, LOCK, readable
from lake.storage import MissingError, Storage, StorageError


class LockedError(Exception):
    """Another run is at work on this output, or has taken this run's lock over."""


# There is no atomic create on every store. If two runs write LOCK at once the last write wins. So
# each run waits this long, reads LOCK again, and gives up if it names another run.
SETTLE_SECONDS = 0.3
SETTLE_SECONDS_ON_S3 = 2.0  # long beside the time that a request takes


@dataclass(frozen=True)
class Holder:
    """Who holds the lock, as LOCK says."""

    run: str
    host: str
    process: int
    pid_namespace: str  # a process id can only be compared within its PID namespace
    since: str


class Lock:
    """The right to publish, held while LOCK names this run and was refreshed a short while ago."""

    def __init__(self, storage: Storage, run: str, lease_seconds: float) -> None:
        self.storage = storage
        self.holder = Holder(
            run,
            socket.gethostname(),
            os.getpid(),
            _pid_namespace(),
            f"{utc_now():%Y-%m-%d %H:%M:%S} UTC",
        )
        self.lease_seconds = lease_seconds
        self._refreshed = 0.0
        self._refreshing = threading.Lock()
        self._stop = threading.Event()
        self._heartbeat = threading.Thread(target=self._keep_refreshing, daemon=True)

    def acquire(self) -> str | None:
        """Take the lock or raise LockedError; returns a line if it was taken over from a dead run.

        LOCK is written even if this raises: call release() in any case.
        """
        taken_over = None
        age = lock_age(self.storage, self.holder.run)
        if age is not None:
            with contextlib.suppress(StorageError):
                taken_over = read_holder(self.storage)
            self._refuse_if_alive(taken_over, age)
        self._write()
        time.sleep(SETTLE_SECONDS if self.storage.atomic_rename else SETTLE_SECONDS_ON_S3)
        self.assert_held(ask=True)
        self._heartbeat.start()
        if age is None:
            return None
        dead = f"run {taken_over.run}" if taken_over else "a run that LOCK does not name"
        return f"took over the lock of {dead}, last heard of {age:.0f} s ago"

    def assert_held(self, *, ask: bool = False) -> None:
        """Raise LockedError unless this run holds the lock.

        Trusts the clock for the first half of the lease; afterwards, or with ask=True, it reads
        LOCK again. So a run that was paused stops before it touches a file: another run may have
        taken the lock over and published.
        """
        # Wall clock, not a monotonic clock: that one stands still while a laptop sleeps.
        if not ask and abs(time.time() - self._refreshed) < self.lease_seconds / 2:
            return
        with self._refreshing:  # not while the heartbeat writes LOCK
            holder = read_holder(self.storage)
            if holder != self.holder:
                other = f"run {holder.run} on {holder.host} holds" if holder else "nobody holds"
                raise LockedError(
                    f"the lock on {readable(self.storage.root)} was taken from this run: {other} "
                    "it now. This run stops; see what became of the other before you start another"
                )
            self._write()

    def assert_not_taken(self) -> None:
        """Raise LockedError if the lock is lost."""
        if self.is_lost():
            self.assert_held(ask=True)

    def is_lost(self) -> bool:
        """Whether LOCK is gone or names another run; half a LOCK is no proof."""
        holder = read_holder(self.storage)
        return holder != self.holder if holder else not self.storage.exists(LOCK)

    def release(self) -> None:
        """Stop the heartbeat and delete LOCK if it is ours; if that fails, the lease runs out."""
        self._stop.set()
        if self._heartbeat.is_alive():
            self._heartbeat.join()
        with contextlib.suppress(StorageError):
            if read_holder(self.storage) == self.holder:
                self.storage.delete(LOCK)

    def _refuse_if_alive(self, holder: Holder | None, age: float) -> None:
        if age > self.lease_seconds or (holder and self._died_here(holder)):
            return
        who = (
            f"run {holder.run} (process {holder.process} on {holder.host}, since {holder.since})"
            if holder
            else "a run that does not give its name"
        )
        raise LockedError(
            f"{who} is at work on {readable(self.storage.root)}, last heard of {max(age, 0):.0f} s "
            f"ago. Wait for it; if it is dead, its lock lapses {self.lease_seconds / 60:g} minutes "
            f"after that, or delete {readable(self.storage.path(LOCK))}"
        )

    def _died_here(self, holder: Holder) -> bool:
        """Whether the holder was a process of this host, on its own disk, and is gone."""
        here = (holder.host, holder.pid_namespace) == (self.holder.host, self.holder.pid_namespace)
        if not here or not self.storage.root.startswith("file:"):
            return False
        try:
            os.kill(holder.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def _write(self) -> None:
        # Taken before the write, so that our lease ends before others see it end.
        now = time.time()
        self.storage.write(LOCK, json.dumps(asdict(self.holder)))
        self._refreshed = now

    def _keep_refreshing(self) -> None:
        while not self._stop.wait(self.lease_seconds / 10):
            # A failed refresh is no error yet: the next one may succeed before the lease ends.
            with contextlib.suppress(StorageError, LockedError):
                self.assert_held(ask=True)


def read_holder(storage: Storage) -> Holder | None:
    """Who LOCK names; None where there is no lock, or where it is only half written."""
    try:
        return Holder(**json.loads(storage.read(LOCK)))
    except (MissingError, ValueError, TypeError):
        return None


def lock_age(storage: Storage, run: str) -> float | None:
    """Seconds since LOCK was refreshed; None where there is no lock.

    Both times come from the store's clock: this machine's may be minutes off.
    """
    refreshed = storage.written(LOCK)
    if refreshed is None:
        return None
    storage.write(f"{ETL}/{run}/clock", "")
    now = storage.written(f"{ETL}/{run}/clock")
    storage.delete(f"{ETL}/{run}")
    return (now or time.time()) - refreshed


def _pid_namespace() -> str:
    """This process's PID namespace, which a container has of its own; '' where there is none."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
