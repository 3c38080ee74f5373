"""Why a step or a cluster failed, from the logs that EMR copies to S3 some minutes later.

With --deploy-mode cluster the step's own log holds only what YARN's client saw. The job's output is
in the log of the driver's container, and there in stdout: Spark writes Python's stderr to it too.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from aws.cluster import failure_reason
from aws.console import Progress, say
from aws.s3 import list_keys, read_text, split_uri
from aws.session import StillGoingError, Waiting, explain_error, poll

if TYPE_CHECKING:
    from mypy_boto3_emr.type_defs import ClusterTypeDef
    from mypy_boto3_s3 import S3Client

LOG_LINES = 20
BOOTSTRAP_SECONDS = 300  # EMR copies the logs of a failed node to S3 within minutes

APPLICATION = re.compile(
    r"\b(?:Submitted application|Application report for) (application_\d+_\d+)"
)
# container_<time>_<application>_<attempt>_<number>; after a restart of YARN's resource manager
# an epoch such as e17 comes first.
CONTAINER = re.compile(r"/container_(?:e\d+_)?\d+_\d+_(?P<attempt>\d+)_(?P<number>\d+)/[^/]+$")
BOOTSTRAP_LOG = re.compile(r"/(bootstrap-actions/\d+|provision-node/.*)/stderr(\.gz)?$")
LOG_FILE = re.compile(r"/(?P<name>stdout|stderr)(?:\.(?P<hour>\d{4}-\d\d-\d\d-\d\d))?(?:\.gz)?$")

OWN_ERROR = re.compile(r"^\w+\.py: error: ")
TRACEBACK = "Traceback (most recent call last):"
JAVA_FRAME = re.compile(r"^\s+(at \S|\.\.\. \d+ more)")
LOG_RECORD = re.compile(r"^\d\d/\d\d/\d\d \d\d:\d\d:\d\d (?P<level>[A-Z]+) (?P<logger>\S+): ")
EXCEPTION = re.compile(r'^(Exception in thread "|Caused by: |Error: |\S*(Exception|Error): )')
# Errors that are in the log of every failed job and do not name the cause.
UNINFORMATIVE = re.compile(
    r"exited with (status )?\d+|SparkUserAppException|finished with failed status|RECEIVED SIGNAL"
)

# What YARN and Java say of a process that needs more memory than it has. YARN kills a container
# with -103 or -104, the kernel with 137 (128 + 9, the number of SIGKILL).
OUT_OF_MEMORY = re.compile(
    r"beyond the '\w+' memory limit|exceeding (physical )?memory limits|OutOfMemoryError"
    r"|(exitCode|Exit status): +(137|-103|-104)\b"
)
MEMORY_LIMIT = re.compile(r"of (?P<gigabytes>[\d.]+) GB( of)? physical memory used")
OF_EXECUTOR = re.compile(r"ExecutorLostFailure|\bexecutor \d+", re.IGNORECASE)
DRIVER_GIGABYTES = 4  # to try where the log does not say what was too little: EMR gives it half
# An m5.xlarge has 12 GB for Spark, and a part of a container is for what Java needs besides.
LARGEST_GIGABYTES = 10

# What S3 says to a node whose role does not name the path.
REFUSED_BY_S3 = re.compile(r"AccessDenied|Access Denied|Status Code: 403")
ROLE_CURE = (
    "the nodes' role may use only the paths that dl.cfg named when it was made: run"
    " iac_create.py --create-roles with the paths of now, then the same command again"
)


@dataclasses.dataclass(frozen=True)
class Cause:
    """The lines that name the cause, and the log that holds them."""

    lines: Sequence[str]
    log: str
    certain: bool  # False while the driver's log, which says more, is missing
    cure: str = "fix the cause, then run the same command again"


# The cause of a failed step.


def await_cause(
    s3: S3Client, cluster: ClusterTypeDef, step_id: str, waiting: Waiting
) -> Cause | None:
    """Wait until the driver's log names the cause; after the timeout, use the logs that exist."""
    cause = None
    looks = poll(
        lambda: find_cause(s3, cluster["LogUri"], cluster["Id"], step_id),
        waiting.poll_seconds,
        waiting.timeout,
    )
    try:
        with Progress() as progress:
            for cause in looks:
                if cause and cause.certain:
                    break
                progress.show(
                    "waiting for the logs", "(EMR copies them within minutes; Ctrl-C skips this)"
                )
    except (StillGoingError, KeyboardInterrupt):
        pass
    except ClientError as error:
        say(f"the logs cannot be read: {explain_error(error)}")
    return cause


def show_cause(cause: Cause | None, cluster: ClusterTypeDef) -> None:
    """Print what the log says, where it is, and what to do next."""
    folder = cluster["LogUri"].replace("s3n://", "s3://") + cluster["Id"]
    if not cause:
        say(f"the logs do not name the cause yet; look again in some minutes: {folder}/")
        return
    for line in cause.lines:
        say(f"  {line}")
    say(f"log: {cause.log}")
    if not cause.certain:
        say(f"the driver's log does not exist yet; it will be in {folder}/containers/")
    say(f"next: {cause.cure}")


def find_cause(s3: S3Client, log_uri: str, cluster_id: str, step_id: str) -> Cause | None:
    """The cause of a failed step, from the logs that are in S3 by now."""
    bucket, prefix = split_uri(f"{log_uri.rstrip('/')}/{cluster_id}")

    def read(keys: Iterable[str]) -> Iterator[tuple[str, str]]:
        for key in keys:
            yield f"s3://{bucket}/{key}", read_text(s3, bucket, key)

    step_logs = list(read(log_keys(list_keys(s3, bucket, f"{prefix}/steps/{step_id}/"))))
    application = find_application(text for _, text in step_logs)
    containers = f"{prefix}/containers/{application}/"
    keys = driver_log_keys(list_keys(s3, bucket, containers)) if application else []
    return (
        choose_cause(step_logs, find_driver_kill, certain=True)
        or choose_cause(read(keys), explain_log, certain=True)
        or choose_cause(step_logs, explain_log, certain=not application)
    )


def choose_cause(
    logs: Iterable[tuple[str, str]], explain: Callable[[str], Sequence[str]], *, certain: bool
) -> Cause | None:
    """The cause from the first log in which it is explained, with a cure where one is known."""
    for name, text in logs:
        lines = explain(text)
        if lines:
            cure = build_memory_cure(lines) or build_role_cure(lines)
            return Cause(lines, name, certain, cure) if cure else Cause(lines, name, certain)
    return None


def find_application(texts: Iterable[str]) -> str | None:
    """The last YARN application that a step's logs name."""
    found = [name for text in texts for name in APPLICATION.findall(text)]
    return found[-1] if found else None


def driver_log_keys(keys: Iterable[str]) -> list[str]:
    """The driver's logs: container 1 of the last attempt, because YARN may retry a job."""
    containers = [(match, key) for key in keys for match in CONTAINER.finditer(key)]
    drivers = [(match, key) for match, key in containers if int(match["number"]) == 1]
    last = max((int(match["attempt"]) for match, _ in drivers), default=0)
    return log_keys(key for match, key in drivers if int(match["attempt"]) == last)


def log_keys(keys: Iterable[str]) -> list[str]:
    """The keys of stdout, then of stderr, each newest first; rotated logs carry their hour."""
    logs = [(match, key) for key in keys for match in LOG_FILE.finditer(key)]
    newest_first = sorted(logs, key=lambda log: log[0]["hour"] or "now", reverse=True)
    return [key for _, key in sorted(newest_first, key=lambda log: log[0]["name"] == "stderr")]


# What a log says.


def explain_log(text: str) -> list[str]:
    """The job's own error line, else the last traceback, else the last error that names a cause."""
    lines = text.splitlines()
    own_errors = [line for line in lines if OWN_ERROR.match(line)]
    return own_errors[-1:] or last_traceback(lines) or last_error(lines)


def last_traceback(lines: Sequence[str]) -> list[str]:
    """Python's last traceback without Java's stack frames, shortened."""
    starts = [number for number, line in enumerate(lines) if line.strip() == TRACEBACK]
    if not starts:
        return []
    block = [lines[starts[-1]]]
    for line in lines[starts[-1] + 1 :]:
        if LOG_RECORD.match(line):
            break
        if line.strip() and not JAVA_FRAME.match(line):
            block.append(line.rstrip())
    return shorten(block)


def last_error(lines: Sequence[str]) -> list[str]:
    """The last exception or ERROR record, except those that name no cause."""
    found = [
        line.strip()
        for line in lines
        if (EXCEPTION.match(line.strip()) or is_error(line)) and not UNINFORMATIVE.search(line)
    ]
    return found[-1:]


def find_driver_kill(text: str) -> list[str]:
    """The line of a step's log in which YARN says that the driver was killed for its memory.

    The driver's own log then ends in the middle, or with a signal.
    """
    found = [
        line.strip()
        for line in text.splitlines()
        if OUT_OF_MEMORY.search(line) and not OF_EXECUTOR.search(line)
    ]
    with_limit = [line for line in found if MEMORY_LIMIT.search(line)]
    return (with_limit or found)[-1:]


def build_memory_cure(lines: Sequence[str]) -> str:
    """The setting and the size to try where a process had too little memory; else empty."""
    short = [line for line in lines if OUT_OF_MEMORY.search(line)]
    if not short:
        return ""
    limit = MEMORY_LIMIT.search(short[-1])
    size = math.ceil(2 * float(limit["gigabytes"])) if limit else None
    if not OF_EXECUTOR.search(short[-1]):
        process, setting = "driver", f"spark.driver.memory={size or DRIVER_GIGABYTES}g"
    elif size and size <= LARGEST_GIGABYTES:
        process, setting = "executor", f"spark.executor.memory={size}g"
    else:  # it has nearly all of its node already: let fewer tasks share it
        process, setting = "executor", "spark.executor.cores=2"
    return (
        f'the {process} had too little memory: add --spark-args "--conf {setting}",'
        " or name larger core_types in [emr], such as m5.2xlarge"
    )


def build_role_cure(lines: Sequence[str]) -> str:
    """What to do where S3 refuses a node; else empty."""
    return ROLE_CURE if any(REFUSED_BY_S3.search(line) for line in lines) else ""


def is_error(line: str) -> bool:
    """Whether a line is a log record of level ERROR or FATAL."""
    record = LOG_RECORD.match(line)
    return record is not None and record["level"] in ("ERROR", "FATAL")


def shorten(block: Sequence[str]) -> list[str]:
    """The first line and the last ones: a traceback ends with its exception."""
    if len(block) <= LOG_LINES:
        return list(block)
    return [block[0], "  ...", *block[-(LOG_LINES - 2) :]]


# The log of a node that did not start.


def show_bootstrap_log(s3: S3Client, cluster: ClusterTypeDef, poll_seconds: float) -> None:
    """Print the end of the failed node's log, if EMR copies it to S3 in time."""
    bucket, folder = split_uri(cluster["LogUri"])
    prefix = f"{folder}{cluster['Id']}/node/"
    reason = failure_reason(cluster["Status"])
    try:
        for keys in poll(lambda: list_keys(s3, bucket, prefix), poll_seconds, BOOTSTRAP_SECONDS):
            key = choose_bootstrap_log(keys, reason)
            if key:
                say(f"end of s3://{bucket}/{key}:")
                say("\n".join(read_text(s3, bucket, key).splitlines()[-LOG_LINES:]))
                return
    except (StillGoingError, ClientError) as error:
        say(f"no log of the node under s3://{bucket}/{prefix}: {explain_error(error)}")


def choose_bootstrap_log(keys: Sequence[str], reason: str) -> str | None:
    """The stderr of a node's setup; of several nodes, the one that EMR's reason names."""
    logs = sorted(key for key in keys if BOOTSTRAP_LOG.search(key))
    named = [key for key in logs for node in re.findall(r"i-[0-9a-f]+", reason) if node in key]
    return next(iter(named or logs), None)
