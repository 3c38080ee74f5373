"""Where the job keeps its own files below the lake's root, and which files readers pass over."""

from __future__ import annotations

import re
import secrets

from lake.formats import utc_now

ETL = "_etl"  # hidden: engines pass over names that begin with an underscore
LOCK = f"{ETL}/LOCK"
REPORTS = f"{ETL}/reports"
REJECTS = f"{ETL}/rejects"
PUBLISHED = f"{ETL}/published.json"
INPUTS = f"{ETL}/inputs"  # what is known of the input's files
PARSED = f"{ETL}/parsed"  # the records of the input, by source and by the run that parsed them
PROBE = ".etl-probe"  # hidden, beside the tables: shows that the swap can move files there
# Copies of editors, half-finished uploads, files of a desktop.
NO_INPUT = re.compile(r"(~|\._COPYING_|\.(bak|crc|db|ini|part|swp|tmp))$", re.IGNORECASE)
RUN = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")  # what new_run() makes; no other folder is a run's


def new_run() -> str:
    """A name for this run that sorts by time."""
    return f"{utc_now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def is_run(name: str) -> bool:
    """Whether a folder of _etl carries the name of a run, so that it is this job's to delete."""
    return RUN.fullmatch(name) is not None


def staged_path(run: str, name: str) -> str:
    """Where a run stages a table or a source."""
    return f"{ETL}/{run}/{name}"


def plan_path(run: str) -> str:
    """Where a run's commit record is."""
    return f"{ETL}/{run}/plan.json"


def inputs_path(run: str) -> str:
    """Where the state of the input is that a run has left."""
    return f"{INPUTS}/{run}.json"


def parsed_path(source: str, run: str) -> str:
    """Where a run keeps the records of a source that it has parsed: as a partition of them all."""
    return f"{PARSED}/{source}/run={run}"


def partition_of(file: str) -> str:
    """The partition that a file of a table is in, such as year=2018/month=11; '' if in none."""
    return file.rpartition("/")[0]


def folders_above(path: str) -> list[str]:
    """The folders that a relative path is in, the outermost first; without the root."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def is_hidden(path: str) -> bool:
    """Whether readers pass over a file: a name in its relative path begins with _ or a dot.

    Spark, Athena and Redshift Spectrum all follow this rule of Hadoop's.
    """
    return any(name.startswith(("_", ".")) for name in path.split("/"))


def is_no_input(file: str, root: str) -> bool:
    """Whether a file found below a source's root is passed over: no one means it as input."""
    below = file[len(root.rstrip("/")) + 1 :]
    return is_hidden(below) or NO_INPUT.search(file) is not None


def readable(path: str) -> str:
    """A path as a shell takes it: a local one without the scheme that Hadoop puts before it."""
    return re.sub("^file:(//)?(?=/)", "", path)
