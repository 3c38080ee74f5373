"""After any sequence of changes, faults and damages an incremental run ends as a full one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.model import ModelJob
from tests.sequences import run_real_sequence, run_sequence

MEMORY = Path("/dev/shm")  # thousands of small files: a disk takes twice as long


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_sequences_on_a_model_end_as_full_runs(first):
    reasons = []
    for seed in range(first, first + 50):
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
            reasons += run_sequence(ModelJob(), Path(folder), seed).reasons
    assert reasons.count("") > len(reasons) / 2, "most runs should read only what is new"


@pytest.mark.parametrize("seed", [0])
def test_sequences_with_the_real_job_end_as_full_runs_and_as_duckdb_computes(spark, tmp_path, seed):
    run_real_sequence(spark, tmp_path, seed, steps=3)
