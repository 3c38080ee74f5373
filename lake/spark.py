"""The Spark session: how it starts on a laptop, what results depend on, and errors in one line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyspark
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkRuntimeError
from pyspark.sql import SparkSession

from configs import ConfigError, EtlConfig
from lake.laptop import hide_keys, s3_access

# On a laptop's few cores this garbage collector reads 7 % more lines a second than the default.
COLLECTOR = "-XX:+UseParallelGC"
# Without Java's optimizing compiler (C2), which makes parsing twice as fast. But its own work pays
# only from some 150 MB of JSON: without it the sample takes 20 s, with it 26 s.
QUICK_COMPILER = "-XX:TieredStopAtLevel=1"
# What an error says where Java did not start, or is one that Hadoop 3.3 does not run on.
SIGNS_OF_ANOTHER_JAVA = ("JAVA_GATEWAY_EXITED", "getSubject is not supported")
CANCEL_ROUNDS, CANCEL_PAUSE = 20, 0.05  # seconds


# ---- Start ---------------------------------------------------------------------------------------


def create_session(
    config: EtlConfig | None = None, is_quick: Callable[[], bool] = lambda: False
) -> SparkSession:
    """Start the session, or raise ConfigError where this machine's Spark or Java does not fit.

    The settings for a laptop are made only where no spark-submit has made them. Only then is_quick
    is asked: a run that has little to read gives up Java's optimizing compiler.
    """
    builder = SparkSession.builder.appName("sparkify-etl")
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        spark = start(builder)
    else:
        check_spark_home(os.environ.get("SPARK_HOME", ""))
        check_python_path(os.environ.get("PYTHONPATH", ""))
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        with s3_access(config) as s3_settings:
            for name, value in {**laptop_settings(quick=is_quick()), **s3_settings}.items():
                builder = builder.config(name, value)
            spark = start(builder)
        hide_keys(spark)
    set_tasks(spark, one_machine=str(spark.sparkContext.master).startswith("local"))
    return spark


def start(builder: SparkSession.Builder) -> SparkSession:
    """Start the session, or raise ConfigError where Java does not start or does not fit."""
    try:
        return builder.getOrCreate()
    except (PySparkRuntimeError, Py4JJavaError) as error:
        if not any(sign in str(error) for sign in SIGNS_OF_ANOTHER_JAVA):
            raise
        raise ConfigError(describe_java_failure()) from None


def laptop_settings(*, quick: bool) -> dict[str, Any]:
    """The settings of a session on one machine, which no other program may reach."""
    java = [COLLECTOR, QUICK_COMPILER] if quick else [COLLECTOR]
    log4j2 = Path(__file__).with_name("log4j2.properties").as_uri()
    return {
        "spark.driver.extraJavaOptions": f"{' '.join(java)} -Dlog4j2.configurationFile={log4j2}",
        "spark.ui.enabled": False,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.showConsoleProgress": sys.stderr.isatty(),
    }


def check_spark_home(home: str) -> None:
    """Raise ConfigError if SPARK_HOME is set to no Spark, or to one of another version."""
    if not home:
        return
    jars = sorted(Path(home, "jars").glob("spark-core_*.jar"))
    found = re.search(r"spark-core_[\d.]+-([\d.]+)", jars[0].name) if jars else None
    if found and found[1].rstrip(".") == pyspark.__version__:
        return
    what = f"Spark {found[1].rstrip('.')}" if found else "a folder without Spark"
    raise ConfigError(
        f"SPARK_HOME is {home}, {what}, but this job's pyspark is {pyspark.__version__}: "
        "unset SPARK_HOME and run again"
    )


def check_python_path(path: str) -> None:
    """Raise ConfigError if PYTHONPATH brings another pyspark than the one that is installed."""
    try:
        installed = version("pyspark")
    except PackageNotFoundError:
        return
    if path and installed != pyspark.__version__:
        raise ConfigError(
            f"PYTHONPATH is {path} and brings pyspark {pyspark.__version__}, but {installed} is "
            "installed: unset PYTHONPATH and run again"
        )


def describe_java_failure() -> str:
    """Which Java Spark has tried to run on, and which one it needs."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else "java"
    if not shutil.which(java):
        found = f"JAVA_HOME is {home}, which has no bin/java" if home else "no java is on the PATH"
    else:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)  # noqa: S603 (the user's own Java)
        number = re.search(r'version "([^"]+)"', told.stderr)
        found = f"{java} is Java {number[1]}" if number else f"{java} does not start"
    return (
        f"Spark does not run on this Java: {found}. It needs Java 17 to 22: install one and set "
        "JAVA_HOME to its folder, or run make demo, which brings one"
    )


# ---- Settings ------------------------------------------------------------------------------------


def set_what_results_depend_on(spark: SparkSession) -> None:
    """Set everything that could change a value, whatever the host or the cluster has set."""
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    spark.conf.set("spark.sql.ansi.enabled", True)
    spark.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
    spark.conf.set("spark.sql.files.ignoreCorruptFiles", False)
    spark.conf.set("spark.sql.files.ignoreMissingFiles", False)
    hadoop: Any = spark.sparkContext._jsc.hadoopConfiguration()
    hadoop.set("mapreduce.fileoutputcommitter.marksuccessfuljobs", "false")
    if hadoop.get("fs.s3.impl") is None:  # s3:// on a cluster that has no client of its own for it
        hadoop.set("fs.s3.impl", "org.apache.hadoop.fs.s3a.S3AFileSystem")


def set_tasks(spark: SparkSession, *, one_machine: bool) -> None:
    """Set how work is divided into tasks, unless the user has set it."""
    settings: dict[str, Any] = {
        # A task's time goes into its files, however few bytes they hold: do not merge small tasks.
        "spark.sql.adaptive.coalescePartitions.minPartitionSize": "16k"
    }
    if one_machine:  # few shuffle partitions and many small files a task: both would slow a cluster
        settings["spark.sql.shuffle.partitions"] = 4 * spark.sparkContext.defaultParallelism
        settings["spark.sql.files.openCostInBytes"] = 16_384
    for name, value in settings.items():
        if not spark.sparkContext.getConf().contains(name):
            spark.conf.set(name, value)


# ---- End -----------------------------------------------------------------------------------------


def cancel_jobs(spark: SparkSession, *, interrupted: bool) -> None:
    """Cancel all running jobs, so that no task writes into the folder that is deleted next.

    After Ctrl-C a query can start its next job when one is cancelled: cancel for a whole second.
    """
    if interrupted:
        spark.sparkContext.setLogLevel("OFF")  # Spark logs a stack trace for each cancelled task
    for _ in range(CANCEL_ROUNDS if interrupted else 1):
        spark.sparkContext.cancelAllJobs()
        time.sleep(CANCEL_PAUSE if interrupted else 0)


def one_line(error: BaseException) -> str:
    """What went wrong, from an error and its causes, without stack traces and Spark's wrappers."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    messages = [" ".join(message.split("\n")[0].split()) for message in list_causes(error)]
    specific = [m for m in messages if not m.startswith(("Job aborted", "[TASK_WRITE_FAILED]"))]
    return ": ".join(specific or messages[-1:])


def list_causes(error: BaseException) -> Iterator[str]:
    """The message of an error and of each of its causes, Java's included."""
    if isinstance(error, Py4JJavaError):
        cause = error.java_exception
        while cause is not None:
            yield str(cause.getMessage() or cause.toString())
            cause = cause.getCause()
        return
    python_cause: BaseException | None = error
    while python_cause is not None:
        yield str(python_cause)
        python_cause = getattr(python_cause, "cause", None)  # Spark's own chain of causes
