"""Runs etl.py and sends its own process a signal right before it does a chosen thing.

    python -m tests.signalled_run SIGKILL 'rename .*plan.draft' <arguments of etl.py>

What it does is told as 'write PATH', 'rename PATH to PATH', 'exchange PATH with PATH',
'delete PATH' and 'stage PATH'.
"""

from __future__ import annotations

import functools
import os
import re
import signal
import sys

import etl
from lake import steps, storage


def main() -> int:
    """Run the job; nothing else about it is changed."""
    name, pattern, *arguments = sys.argv[1:]

    def signal_before(told: str) -> None:
        nonlocal pattern
        if pattern and re.search(pattern, told):
            pattern = ""  # once
            os.kill(os.getpid(), signal.Signals[name])

    for kind in (storage.HadoopStorage, storage.Disk):
        for verb in ("write", "delete"):
            wrap(kind, verb, lambda *given, verb=verb: signal_before(f"{verb} {given[1]}"))
        wrap(kind, "rename", lambda _, old, new: signal_before(f"rename {old} to {new}"))
        wrap(kind, "exchange", lambda _, one, two: signal_before(f"exchange {one} with {two}"))
    wrap(steps, "stage_table", lambda *given: signal_before(f"stage {given[2]}"))
    return etl.main(arguments)


def wrap(owner, name, before):
    """Let a function be called only after another one."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def wrapped(*arguments):
        before(*arguments)
        return function(*arguments)

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    sys.exit(main())
