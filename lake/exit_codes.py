"""The exit codes of the job and of the scripts, in one table."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """How a program of this project ends."""

    DONE = 0  # all that was asked for is done, or nothing was to do
    FAILED = 1  # the job failed, or AWS refused something
    USAGE = 2  # the command line or the configuration is wrong, or a package is missing
    LOCKED = 3  # another run of the job holds the lock on the lake
    CANCELLED = 4  # the step was cancelled, by this script or by someone else
    INTERRUPTED = 5  # EMR stopped the step while it ran
    CLUSTER_DIED = 6  # the cluster ended before the step did
    STILL_RUNNING = 7  # the script gave up waiting for the step, which goes on
    CTRL_C = 130  # interrupted at the keyboard (128 + 2, the number of SIGINT), or by SIGTERM
