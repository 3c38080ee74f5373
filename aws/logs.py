"""Why a step failed, as the logs tell it that EMR copies to S3 some minutes after the event.

With --deploy-mode cluster the step's own log holds only what YARN's client saw. The job's words are
in the log of the driver's container, and there in stdout: Spark puts Python's stderr in it too.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from aws.s3 import list_keys, read_text, split_uri

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MOST_LINES = 20

APPLICATION = re.compile(
    r"\b(?:Submitted application|Application report for) (application_\d+_\d+)"
)
# The cluster's epoch is only in the name after YARN's resource manager has been restarted.
CONTAINER = re.compile(r"/container_(?:e\d+_)?\d+_\d+_(?P<attempt>\d+)_(?P<number>\d+)/[^/]+$")
LOG_FILE = re.compile(r"/(?P<name>stdout|stderr)(?:\.(?P<hour>\d{4}-\d\d-\d\d-\d\d))?(?:\.gz)?$")

OWN_ERROR = re.compile(r"^\w+\.py: error: ")
TRACEBACK = "Traceback (most recent call last):"
JAVA_FRAME = re.compile(r"^\s+(at \S|\.\.\. \d+ more)")
LOG_RECORD = re.compile(r"^\d\d/\d\d/\d\d \d\d:\d\d:\d\d (?P<level>[A-Z]+) (?P<logger>\S+): ")
EXCEPTION = re.compile(r'^(Exception in thread "|Caused by: |Error: |\S*(Exception|Error): )')
# Lines that only say that there was an error, in every failed job's log.
HOLLOW = re.compile(r"exited with (status )?\d+|SparkUserAppException|finished with failed status")


@dataclasses.dataclass(frozen=True)
class Cause:
    """The lines that tell why, and the log that they stand in."""

    lines: Sequence[str]
    log: str
    certain: bool  # False where the log of the driver, which knows better, is still to come


def find_cause(s3: S3Client, log_uri: str, cluster_id: str, step_id: str) -> Cause | None:
    """The cause as far as it can be told from the logs that are in S3 by now."""
    bucket, prefix = split_uri(f"{log_uri.rstrip('/')}/{cluster_id}")
    step_keys = log_keys(list_keys(s3, bucket, f"{prefix}/steps/{step_id}/"))
    step_texts = {key: read_text(s3, bucket, key) for key in step_keys}
    application = find_application(step_texts.values())
    if application:
        keys = list_keys(s3, bucket, f"{prefix}/containers/{application}/")
        for key in driver_log_keys(keys):
            lines = explain_log(read_text(s3, bucket, key))
            if lines:
                return Cause(lines, f"s3://{bucket}/{key}", certain=True)
    for key, text in step_texts.items():
        lines = explain_log(text)
        if lines:
            return Cause(lines, f"s3://{bucket}/{key}", certain=not application)
    return None


def find_application(texts: Iterable[str]) -> str | None:
    """The YARN application that a step's log names last."""
    found = [name for text in texts for name in APPLICATION.findall(text)]
    return found[-1] if found else None


def driver_log_keys(keys: Iterable[str]) -> list[str]:
    """The driver's logs: container 1 of the last attempt, for YARN may have tried again."""
    containers = [(match, key) for key in keys for match in CONTAINER.finditer(key)]
    drivers = [(match, key) for match, key in containers if int(match["number"]) == 1]
    last = max((int(match["attempt"]) for match, _ in drivers), default=0)
    return log_keys(key for match, key in drivers if int(match["attempt"]) == last)


def log_keys(keys: Iterable[str]) -> list[str]:
    """The keys of stdout, then of stderr, each newest first: an hour old is renamed to its hour."""
    logs = [(match, key) for key in keys for match in LOG_FILE.finditer(key)]
    newest_first = sorted(logs, key=lambda log: log[0]["hour"] or "now", reverse=True)
    return [key for _, key in sorted(newest_first, key=lambda log: log[0]["name"] == "stderr")]


def explain_log(text: str) -> list[str]:
    """The job's own error line, else the last traceback, else the last error that says anything."""
    lines = text.splitlines()
    own_errors = [line for line in lines if OWN_ERROR.match(line)]
    return own_errors[-1:] or last_traceback(lines) or last_error(lines)


def last_traceback(lines: Sequence[str]) -> list[str]:
    """The end of Python's last traceback, with its exception but without Java's frames."""
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
    """The last exception, or record of level ERROR, that names more than a failed exit."""
    told = [
        line.strip()
        for line in lines
        if (EXCEPTION.match(line.strip()) or is_error(line)) and not HOLLOW.search(line)
    ]
    return told[-1:]


def is_error(line: str) -> bool:
    """Whether a line is a log record of level ERROR or FATAL."""
    record = LOG_RECORD.match(line)
    return record is not None and record["level"] in ("ERROR", "FATAL")


def shorten(block: Sequence[str]) -> list[str]:
    """The first line and the last ones, for an exception stands at the end."""
    if len(block) <= MOST_LINES:
        return list(block)
    return [block[0], "  ...", *block[-(MOST_LINES - 2) :]]
