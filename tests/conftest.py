"""What all tests share: one Spark session, UTC, and no AWS credentials that are real."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

# Without this the workers start whatever python3 is first on the PATH.
os.environ["PYSPARK_PYTHON"] = sys.executable
os.environ["TZ"] = "UTC"  # collect() turns timestamps into the local time of this process
time.tzset()
# Started in the background, a shell's child ignores Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402
from pyspark.sql import SparkSession  # noqa: E402

from tests.fault_summary import (  # noqa: E402, F401 (pytest calls them)
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)

# Java starts without its optimizing compiler, which would take a third of the tests' time, and with
# the classes that setup/archive.sh has archived, silently without where they do not fit this Java.
JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:+UseParallelGC"
ARCHIVE = Path(sys.prefix, "spark.jsa")
if ARCHIVE.is_file():
    JAVA_OPTIONS += f' "-XX:SharedArchiveFile={ARCHIVE}" -Xlog:cds=off -Xlog:cds+dynamic=off'
os.environ.setdefault("SPARK_SUBMIT_OPTS", JAVA_OPTIONS)


# The modules of make test-quick: what needs no JVM, or one session, and two minutes in all.
QUICK = {
    *("test_causes", "test_configs", "test_data", "test_emr_config", "test_loaded", "test_report"),
    *("test_formats", "test_iam_policy", "test_oracle", "test_repo", "test_report_page"),
    *("test_requests", "test_setup", "test_sources", "test_step_logs", "test_transforms"),
}


# The files that take longest: one that began last would leave the other process without work.
# pytest-xdist would begin with the files of most tests, were it not for --no-loadscope-reorder.
LONG = {
    *("test_against_duckdb", "test_bench", "test_end_to_end", "test_faults", "test_job"),
    *("test_s3", "test_sequences", "test_transforms", "test_yarn"),
}


def pytest_collection_modifyitems(items):
    """Mark the tests of the quick tier, and let the longest files begin first."""
    items.sort(key=lambda item: item.path.stem not in LONG)
    for item in items:
        if item.path.stem in QUICK:
            item.add_marker(pytest.mark.quick)


@pytest.fixture(scope="session")
def spark():
    """One local session with two cores for all tests that do not need one of their own."""
    session = (
        SparkSession.builder.master("local[2]")
        .appName("tests")
        .config("spark.ui.enabled", False)
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", 2)
        # Few rows: to compile a query takes longer than to run it. The tests that start processes
        # of their own, on disk, S3 and YARN, run the compiled queries.
        .config("spark.sql.codegen.wholeStage", False)
        .config("spark.sql.codegen.factoryMode", "NO_CODEGEN")
        .config("spark.driver.memory", "2g")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


@pytest.fixture(autouse=True)
def no_real_aws(monkeypatch, tmp_path_factory):
    """Credentials that are no one's, and none of the machine's own."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "SPARKIFY_"))]:
        if name != "AWS_CA_BUNDLE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
