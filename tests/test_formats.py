"""Durations, sizes and times as people read them; exit codes that never change their meaning."""

from __future__ import annotations

import datetime as dt

import pytest

from lake.exit_codes import ExitCode
from lake.formats import duration, size, utc_now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (90_061, "25 h 1 min"),
    ],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1 KiB"),
        (5 * 1024**2, "5 MiB"),
        (1024**3, "1.0 GiB"),
        (3_000 * 1024**3, "3,000.0 GiB"),
    ],
)
def test_sizes_read_well(count, text):
    assert size(count) == text


def test_now_is_a_moment_in_utc():
    before = dt.datetime.now(dt.timezone.utc)
    assert before <= utc_now() <= dt.datetime.now(dt.timezone.utc)
    assert utc_now().utcoffset() == dt.timedelta()


def test_programs_that_go_by_an_exit_code_can_rely_on_it():
    assert {code.name: code.value for code in ExitCode} == {
        "DONE": 0,
        "FAILED": 1,
        "USAGE": 2,
        "LOCKED": 3,
        "CANCELLED": 4,
        "INTERRUPTED": 5,
        "CLUSTER_DIED": 6,
        "STILL_RUNNING": 7,
        "CTRL_C": 130,
    }
