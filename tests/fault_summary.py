"""Counts the faults that were tried; tests/conftest.py lets pytest tell of them at the end."""

from __future__ import annotations

from collections import Counter

import pytest

TRIED: Counter[str] = Counter()  # where -> how many


def tried(where: str, faults: int = 1) -> None:
    """Count faults, once a test has found every row after them."""
    TRIED[where] += faults


def pytest_sessionfinish(session):
    """In one of several processes: hand the counts to the one that tells of them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tried"] = dict(TRIED)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Add the counts of a process that has finished."""
    TRIED.update(getattr(node, "workeroutput", {}).get("tried", {}))


def pytest_terminal_summary(terminalreporter):
    """One line for each store: its fault points; a lost row has failed its test above."""
    for where, count in sorted(TRIED.items()):
        terminalreporter.write_line(f"{count:,} faults tried {where}: none lost a row")
