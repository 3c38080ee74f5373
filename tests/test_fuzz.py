"""The job and plain Python judge thousands of damaged lines alike: see tests/fuzz.py."""

from __future__ import annotations

from lake.spark import set_what_results_depend_on
from tests.fuzz import build_lines, find_disagreements


def test_the_job_and_plain_python_judge_every_line_alike(spark):
    set_what_results_depend_on(spark)
    assert find_disagreements(spark, build_lines(20_000, seed=1)) == []
