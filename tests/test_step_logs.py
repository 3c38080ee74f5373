"""Finding a failed step's cause in logs that are late, rotated, doubled or missing."""

from __future__ import annotations

import gzip

import boto3
import pytest
from moto import mock_aws

from aws.logs import (
    LOG_LINES,
    Cause,
    build_memory_cure,
    driver_log_keys,
    explain_log,
    find_application,
    find_cause,
    find_driver_kill,
    log_keys,
)

APPLICATION = "application_1700000000000_0007"
CONTAINERS = f"logs/j-1/containers/{APPLICATION}"
STEP = "logs/j-1/steps/s-1"
DRIVER = f"{CONTAINERS}/container_1700000000000_0007_01_000001"
SUBMITTED = f"26/11/20 13:00:00 INFO YarnClientImpl: Submitted application {APPLICATION}\n"
RECORD = "26/11/20 13:00:01 {} ApplicationMaster: {}\n"


# Which logs.


def test_the_application_is_the_one_that_was_submitted_last():
    first = SUBMITTED.replace("_0007", "_0006")
    assert find_application([first + SUBMITTED]) == APPLICATION
    assert find_application(["no application_1_1 here"]) is None
    assert find_application([]) is None


def test_a_log_that_begins_late_names_the_application_in_its_reports():
    report = f"26/11/20 13:00:00 INFO Client: Application report for {APPLICATION} (state: FAILED)"
    assert find_application(["", report]) == APPLICATION


def test_only_the_driver_is_read_and_only_its_last_attempt():
    keys = [
        f"{CONTAINERS}/container_1700000000000_0007_01_000001/stderr.gz",
        f"{CONTAINERS}/container_1700000000000_0007_02_000001/stderr.gz",
        f"{CONTAINERS}/container_1700000000000_0007_02_000002/stderr.gz",
        f"{CONTAINERS}/container_1700000000000_0007_10_000001/stdout.gz",
        f"{CONTAINERS}/container_1700000000000_0007_10_000011/stdout.gz",
    ]
    assert driver_log_keys(keys) == [keys[3]]
    assert driver_log_keys(keys[:3]) == [keys[1]]
    assert driver_log_keys([]) == []


def test_a_restarted_resource_manager_puts_its_epoch_in_the_name():
    key = f"{CONTAINERS}/container_e17_1700000000000_0007_01_000001/stdout.gz"
    assert driver_log_keys([key]) == [key]


def test_stdout_comes_first_and_the_newest_of_the_rotated_ones():
    newest_first = [
        "stdout.gz",
        "stdout.2026-11-20-13.gz",
        "stdout.2026-11-20-09.gz",
        "stderr",
        "stderr.2026-11-20-13",
    ]
    keys = [f"{DRIVER}/{name}" for name in newest_first]
    others = [f"{DRIVER}/{name}" for name in ("prelaunch.out", "launch_container.sh", "syslog.gz")]
    assert log_keys([*others, *sorted(keys)]) == keys


# What they say.

TRACEBACK = """Traceback (most recent call last):
  File "etl.py", line 9, in <module>
    main()
py4j.protocol.Py4JJavaError: An error occurred while calling o1.parquet.
: org.apache.spark.SparkException: Job aborted.
\tat org.apache.spark.sql.Dataset.write(Dataset.scala:1)
\tat java.base/java.lang.Thread.run(Thread.java:840)
Caused by: java.io.IOException: No space left on device
\t... 12 more

"""


def test_the_jobs_own_line_is_the_whole_cause():
    log = TRACEBACK + "etl.py: error: first\nnoise\netl.py: error: [time] 3 rows\n" + TRACEBACK
    assert explain_log(log) == ["etl.py: error: [time] 3 rows"]


def test_an_error_line_that_is_quoted_elsewhere_is_not_the_jobs_own():
    assert explain_log('  print("etl.py: error: no")\n') == []


def test_of_tracebacks_the_last_counts_without_javas_frames():
    log = TRACEBACK.replace("main", "other") + "between\n" + TRACEBACK
    log += RECORD.format("INFO", "Final app status: FAILED") + "after\n"
    assert explain_log(log) == [
        "Traceback (most recent call last):",
        '  File "etl.py", line 9, in <module>',
        "    main()",
        "py4j.protocol.Py4JJavaError: An error occurred while calling o1.parquet.",
        ": org.apache.spark.SparkException: Job aborted.",
        "Caused by: java.io.IOException: No space left on device",
    ]


def test_a_long_traceback_keeps_its_end():
    frames = "".join(f'  File "etl.py", line {number}\n' for number in range(100))
    lines = explain_log(f"Traceback (most recent call last):\n{frames}ValueError: no\n")
    assert len(lines) == LOG_LINES
    assert lines[:2] == ["Traceback (most recent call last):", "  ..."]
    assert lines[-2:] == ['  File "etl.py", line 99', "ValueError: no"]


@pytest.mark.parametrize(
    "line",
    [
        'Exception in thread "main" java.io.FileNotFoundException: s3://b/etl.py',
        "Caused by: java.net.UnknownHostException: b.s3",
        "Error: Missing application resource.",
        "org.apache.spark.SparkException: no route",
        RECORD.format("ERROR", "Uncaught exception: out of memory").strip(),
        RECORD.format("FATAL", "disk is gone").strip(),
    ],
)
def test_without_a_traceback_the_last_error_that_names_a_cause_counts(line):
    uninformative = RECORD.format("ERROR", "User application exited with status 1")
    noise = RECORD.format("INFO", "Error: not really") + RECORD.format("WARN", "slow")
    failed = (
        f"org.apache.spark.SparkException: Application {APPLICATION} finished with failed status\n"
    )
    log = RECORD.format("ERROR", "an earlier one")
    log += f"{line}\n\tat x.Y\n{uninformative}{noise}{failed}"
    assert explain_log(log) == [line]


def test_a_log_without_any_error_names_no_cause():
    assert explain_log(SUBMITTED + RECORD.format("INFO", "all is well")) == []
    assert explain_log(RECORD.format("ERROR", "User application exited with status 1")) == []
    assert explain_log("") == []


# Memory.

KILLED = (
    "Failing this attempt.Diagnostics: [2026-11-25 04:03:20.1]Container [pid=1] is running 1024B"
    " beyond the 'PHYSICAL' memory limit. Current usage: 2.4 GB of 2.4 GB physical memory used;"
    " 4.4 GB of 11.9 GB virtual memory used. Killing container."
)
AM_EXIT = "\t diagnostics: AM Container for appattempt_1 exited with  exitCode: {}"
LOST = (
    "etl.py: error: Job aborted due to stage failure: Task 3 in stage 9.0 failed 4 times, most"
    " recent failure: ExecutorLostFailure (executor 4 exited caused by one of the running tasks)"
    " Reason: {}"
)

LIMITS = (
    "Container killed by YARN for exceeding physical memory limits. {0} GB of {0} GB physical"
    " memory used."
)


@pytest.mark.parametrize("code", ["-104", "-103", "137"])
def test_a_driver_that_is_killed_for_its_memory_is_seen_in_the_steps_log(code):
    line = AM_EXIT.format(code)
    assert find_driver_kill(f"{SUBMITTED}{line}\nException: failed\n") == [line.strip()]
    assert find_driver_kill(f"{SUBMITTED}{KILLED}\n{line}\n") == [KILLED]


@pytest.mark.parametrize(
    "text", [AM_EXIT.format("13"), LOST.format("Exit status: 137"), SUBMITTED, ""]
)
def test_other_ends_are_not_taken_for_a_driver_without_memory(text):
    assert find_driver_kill(text) == []


@pytest.mark.parametrize(
    ("line", "setting"),
    [
        (KILLED, "spark.driver.memory=5g"),
        (AM_EXIT.format("-104"), "spark.driver.memory=4g"),
        ("java.lang.OutOfMemoryError: Java heap space", "spark.driver.memory=4g"),
        (LOST.format("Container from a bad node. Exit status: 137."), "spark.executor.cores=2"),
        (LOST.format(LIMITS.format(5.5)), "spark.executor.cores=2"),
        (LOST.format(LIMITS.format(4.8)), "spark.executor.memory=10g"),
        ("Lost task 0.3 (executor 2): java.lang.OutOfMemoryError", "spark.executor.cores=2"),
    ],
)
def test_too_little_memory_has_the_setting_and_the_size_to_try(line, setting):
    assert f'--spark-args "--conf {setting}"' in build_memory_cure([line])


@pytest.mark.parametrize("line", ["Exit status: 1", "Exit status: 1370", "memory is fine", "137"])
def test_other_errors_need_no_memory(line):
    assert build_memory_cure([line]) == ""


# In S3.


@pytest.fixture
def put():
    """Put logs where EMR does, and look for the cause."""
    with mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket="my-bucket")

        def put_and_look(logs, log_uri="s3n://my-bucket/logs/"):
            for key, text in logs.items():
                body = gzip.compress(text.encode()) if key.endswith(".gz") else text.encode()
                s3.put_object(Bucket="my-bucket", Key=key, Body=body)
            return find_cause(s3, log_uri, "j-1", "s-1")

        yield put_and_look


def test_without_logs_there_is_no_cause(put):
    assert put({}) is None
    assert put({f"{STEP}/controller.gz": "INFO startExec\n", f"{STEP}/stderr.gz": ""}) is None


def test_logs_that_come_one_after_the_other_make_the_cause_certain(put):
    assert put({f"{STEP}/stderr.gz": SUBMITTED}) is None
    failed = SUBMITTED + "Error: the client saw this\n"
    own = Cause(["Error: the client saw this"], f"s3://my-bucket/{STEP}/stderr.gz", certain=False)
    assert put({f"{STEP}/stderr.gz": failed}) == own
    stderr = RECORD.format("ERROR", "User application exited with status 1")
    assert put({f"{DRIVER}/stderr.gz": stderr}) == own
    driver = Cause(["etl.py: error: no"], f"s3://my-bucket/{DRIVER}/stdout.gz", certain=True)
    assert put({f"{DRIVER}/stdout.gz": "etl.py: error: no\n"}) == driver


def test_a_step_that_never_reached_yarn_is_explained_by_its_own_log(put):
    line = 'Exception in thread "main" java.io.FileNotFoundException: s3://b/etl.py'
    expected = Cause([line], f"s3://my-bucket/{STEP}/stderr.gz", certain=True)
    assert put({f"{STEP}/stderr.gz": line + "\n"}) == expected


def test_a_killed_driver_is_the_cause_whatever_its_own_log_says(put):
    signal = RECORD.format("ERROR", "RECEIVED SIGNAL TERM")
    logs = {
        f"{STEP}/stderr.gz": f"{SUBMITTED}{AM_EXIT.format('-104')}\n{KILLED}\n",
        f"{DRIVER}/stdout.gz": "etl.py: error: interrupted\n",
        f"{DRIVER}/stderr.gz": signal,
    }
    cause = put(logs)
    assert (cause.lines, cause.certain) == ([KILLED], True)
    assert cause.cure.startswith("the driver had too little memory: add --spark-args")


def test_a_signal_is_no_cause(put):
    signal = RECORD.format("ERROR", "RECEIVED SIGNAL TERM")
    assert put({f"{STEP}/stderr.gz": SUBMITTED, f"{DRIVER}/stderr.gz": signal}) is None


def test_rotated_logs_are_read_newest_first(put):
    logs = {
        f"{STEP}/stderr.2026-11-20-09.gz": SUBMITTED,
        f"{STEP}/stderr.gz": f"INFO Client: Application report for {APPLICATION}\n",
        f"{DRIVER}/stdout.2026-11-20-09.gz": "etl.py: error: old\n",
        f"{DRIVER}/stdout.2026-11-20-10.gz": "etl.py: error: newer\n",
        f"{DRIVER}/stdout.gz": "nothing to see\n",
    }
    assert put(logs).lines == ["etl.py: error: newer"]


def test_logs_of_other_steps_and_applications_are_left_alone(put):
    other = CONTAINERS.replace("_0007", "_0008")
    logs = {
        f"{STEP}/stderr.gz": SUBMITTED,
        "logs/j-1/steps/s-10/stderr.gz": "Error: of another step\n",
        f"{other}/container_1700000000000_0008_01_000001/stdout.gz": "etl.py: error: other\n",
    }
    assert put(logs) is None


def test_logs_may_be_at_the_top_of_a_bucket(put):
    key = f"{STEP}/stderr.gz".replace("logs/", "", 1)
    assert put({key: "Error: here\n"}, "s3://my-bucket/").log == f"s3://my-bucket/{key}"
