"""Where the job keeps its own files below the lake's root, and which files readers pass over."""

from __future__ import annotations

import secrets

from lake.formats import utc_now

ETL = "_etl"  # hidden: engines pass over names that begin with an underscore
LOCK = f"{ETL}/LOCK"
REPORTS = f"{ETL}/reports"
REJECTS = f"{ETL}/rejects"
PUBLISHED = f"{ETL}/published.json"
KEPT = ("reports", "rejects")  # the folders in _etl that are no run's staging area


def new_run() -> str:
    """A name for this run that sorts by time."""
    return f"{utc_now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def staged_path(run: str, name: str) -> str:
    """Where a run stages a table or a source."""
    return f"{ETL}/{run}/{name}"


def plan_path(run: str) -> str:
    """Where a run's commit record is."""
    return f"{ETL}/{run}/plan.json"


def partition_of(file: str) -> str:
    """The partition that a file of a table is in, such as year=2018/month=11; '' if in none."""
    return file.rpartition("/")[0]


def is_hidden(path: str) -> bool:
    """Whether readers pass over a file: a name in its relative path begins with _ or a dot.

    Spark, Athena and Redshift Spectrum all follow this rule of Hadoop's.
    """
    return any(name.startswith(("_", ".")) for name in path.split("/"))
