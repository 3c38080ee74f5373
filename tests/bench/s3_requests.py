"""Count what the job asks of S3, by kind: python tests/bench/s3_requests.py.

The real job runs through the real S3A connector against an S3 on this machine: twice, with few and
with many files, and the difference tells what one more file costs. --delay makes every request
take as long as one over a network does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, PIPE
from urllib.parse import parse_qs, unquote

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

from moto.server import DomainDispatcherApplication, create_backend_app  # noqa: E402

from tests.factories import event, song  # noqa: E402
from tests.s3 import s3_settings, with_magic_committer  # noqa: E402
from tests.s3_faults import BUCKET, client, served  # noqa: E402

Counts = Counter[tuple[str, str, str]]  # (stage, area, kind) -> requests
WRITING = ("songs", "artists", "users", "time", "songplays")
SWAPPING = ("commit", "swap", "end")
END_OF_STAGE = re.compile(r" *[\d.]+ s  (\w+)")  # as the job tells it on stderr


class CountingS3:
    """An S3 that counts each request by what it is about and what it asks, and may be slow."""

    def __init__(self, delay: float) -> None:
        self.app = DomainDispatcherApplication(create_backend_app)
        self.delay = delay
        self.current: Counter[tuple[str, str]] = Counter()
        self.counts: Counts = Counter()

    def __call__(self, environ, start_response):
        """Count a request, wait, and let moto answer it; the test's own requests are free."""
        if "Boto3" not in environ.get("HTTP_USER_AGENT", ""):
            self.current[area_of(environ), kind_of(environ)] += 1
            time.sleep(self.delay)
        return self.app(environ, start_response)

    def end_stage(self, stage: str) -> None:
        """Put what was counted since the last stage to the account of this one."""
        counted, self.current = self.current, Counter()
        self.counts.update({(stage, *what): count for what, count in counted.items()})


def kind_of(environ) -> str:
    """What a request asks: GET, HEAD, LIST, PUT, COPY or DELETE."""
    method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
    if method == "GET" and ("list-type" in query or "prefix=" in query):
        return "LIST"
    if method == "PUT" and "HTTP_X_AMZ_COPY_SOURCE" in environ:
        return "COPY"
    if method == "POST":
        return "DELETE" if "delete" in query else "POST"
    return method


def area_of(environ) -> str:
    """What a request is about: a source, what is parsed of it, the lock, or the lake."""
    prefix = parse_qs(environ.get("QUERY_STRING", "")).get("prefix", [""])[0]
    key = unquote(environ["PATH_INFO"]).removeprefix(f"/{BUCKET}").strip("/") or prefix
    if re.match(r"lake/_etl/(parsed|[^/]+)/(song_data|log_data)", key):
        return "parsed"
    if key.endswith("/_etl/LOCK"):  # written anew from time to time: more often in a slow run
        return "lock"
    return re.match(r"[^/]*", key)[0] or "lake"  # a bulk delete names its keys in its body alone


def empty_bucket(endpoint: str) -> None:
    """Delete all that is in the bucket."""
    s3 = client(endpoint)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for found in page.get("Contents", ()):
            s3.delete_object(Bucket=BUCKET, Key=found["Key"])


def put_input(endpoint: str, songs: int, years: int, title: str) -> None:
    """Song files, each in a folder of its own, and one file of the log."""
    s3 = client(endpoint)
    for n in range(songs):
        ids = {"song_id": f"SO{n:05}", "artist_id": f"AR{n:05}"}
        record = song(title=title, year=1950 + n % years, **ids)
        key = f"song_data/{n // 100}/{n % 100}/TR{n}.json"
        s3.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(record).encode())
    lines = "\n".join(json.dumps(event(itemInSession=n)) for n in range(100))
    s3.put_object(Bucket=BUCKET, Key="log_data/2018/11/events.json", Body=lines.encode())


# The job, once for each line of flags that it is given: one JVM for all, which is warm after a run.
JOBS = """
import sys, etl
for flags in sys.stdin:
    print("exit code", etl.main(flags.split()), file=sys.stderr, flush=True)
"""


@dataclass(frozen=True)
class Asked:
    """How to run the job: on how many files, few and many, and on what kind of S3.

    It runs once for each title that all songs have, on the lake that the run before has left.
    """

    songs: Sequence[int]
    years: Sequence[int]
    titles: Sequence[str] = ("First",)
    committer: str = "default"
    delay: float = 0.0
    settings: dict[str, str] = field(default_factory=dict)


def measure(asked: Asked) -> list[list[dict[str, object]]]:
    """What each run asked and wrote, on few files and on many, and its seconds by stage."""
    s3 = CountingS3(asked.delay)
    measured = [[] for _ in asked.titles]
    with served(s3) as endpoint, waiting_job(endpoint, asked) as job:
        for songs, years in zip(asked.songs, asked.years, strict=True):
            empty_bucket(endpoint)
            for runs, title in zip(measured, asked.titles, strict=True):
                put_input(endpoint, songs, years, title)
                report = run_job(job, s3, endpoint)
                files = sum(table["files"] for table in report["tables"].values())
                runs.append({"songs": songs, "files": files, "counts": s3.counts, "report": report})
    return measured


def measure_days(asked: Asked) -> dict[str, Counts]:
    """What runs ask one after the other: the first, one with nothing new, one with a day more."""
    s3, found = CountingS3(asked.delay), {}
    with served(s3) as endpoint, waiting_job(endpoint, asked) as job:
        put_input(endpoint, asked.songs[0], asked.years[0], "First")
        for name in ("first", "nothing new", "one more day"):
            if name == "one more day":
                put_day(endpoint)
            run_job(job, s3, endpoint)
            found[name] = s3.counts
    return found


def put_day(endpoint: str) -> None:
    """A file of the log with plays of a month that the lake has."""
    lines = "\n".join(json.dumps(event(itemInSession=n, sessionId=2)) for n in range(100))
    key = "log_data/2018/11/more-events.json"
    client(endpoint).put_object(Bucket=BUCKET, Key=key, Body=lines.encode())


@contextlib.contextmanager
def waiting_job(endpoint: str, asked: Asked) -> Iterator[subprocess.Popen]:
    """A process that runs etl.py on the bucket as often as it is told to."""
    conf = {**s3_settings(endpoint), **asked.settings}
    if asked.committer == "magic":
        conf = with_magic_committer(conf)
    flags = " ".join(f"--conf {name}={value}" for name, value in conf.items())
    environment = {**os.environ, "PYSPARK_SUBMIT_ARGS": f"{flags} pyspark-shell"}
    with subprocess.Popen(
        [sys.executable, "-c", JOBS],
        **{"env": environment, "cwd": PROJECT, "text": True, "bufsize": 1},
        **{"stdin": PIPE, "stdout": DEVNULL, "stderr": PIPE},
    ) as process:
        yield process
        process.stdin.close()
        process.stderr.read()


def run_job(job: subprocess.Popen, s3: CountingS3, endpoint: str) -> dict[str, object]:
    """Run etl.py on the bucket, counting by its stages; returns its report."""
    s3.counts = Counter()
    print(
        f"--output=s3a://{BUCKET}/lake",
        f"--song-data=s3a://{BUCKET}/song_data --log-data=s3a://{BUCKET}/log_data",
        file=job.stdin,
    )
    told = []
    for line in job.stderr:
        told.append(line)
        if ended := END_OF_STAGE.match(line):
            s3.end_stage(ended[1])
        if line.startswith("exit code"):
            break
    s3.end_stage("end")
    if told[-1:] != ["exit code 0\n"]:
        raise SystemExit("".join(told[-20:]))
    bucket = client(endpoint)
    listed = bucket.list_objects_v2(Bucket=BUCKET, Prefix="lake/_etl/reports/")["Contents"]
    latest = bucket.get_object(Bucket=BUCKET, Key=listed[-1]["Key"])
    return json.loads(latest["Body"].read())


def requests(run: dict[str, object], area: str, stages: Sequence[str]) -> Counter[str]:
    """The requests of some stages that are about one area, by kind."""
    found: Counter[str] = Counter()
    for (stage, about, kind), count in run["counts"].items():
        if about == area and stage in stages:
            found[kind] += count
    return found


# What is told: a name, the area and the stages that are counted, and what they are counted by.
ACCOUNTS = (
    ("reading the catalogue", "song_data", ("song_data",), "songs"),
    ("writing", "lake", WRITING, "files"),
    ("checking", "lake", ("checks",), "files"),
    ("swapping", "lake", SWAPPING, "files"),
)


def cost(few: dict[str, object], many: dict[str, object]) -> dict[str, tuple[Counter[str], float]]:
    """For each part of the job what one more file asks, by kind, and what is asked besides."""
    costs = {}
    for name, area, stages, unit in ACCOUNTS:
        before, after = (requests(run, area, stages) for run in (few, many))
        more = many[unit] - few[unit]
        kinds = Counter({kind: (after[kind] - before[kind]) / more for kind in sorted(after)})
        costs[name] = kinds, before.total() - kinds.total() * few[unit]
    return costs


def main() -> None:
    """Print what a run with few files and one with many ask, and what one more file costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--songs", nargs=2, type=int, default=(40, 400))
    parser.add_argument("--years", nargs=2, type=int, default=(10, 60))
    parser.add_argument(
        "--titles", nargs="+", default=["First"], help="of all songs, a run each; the last counts"
    )
    parser.add_argument("--committer", choices=("default", "magic"), default="default")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds for each request")
    parser.add_argument("--days", action="store_true", help="count runs with little to do instead")
    parser.add_argument("--conf", nargs="*", default=[], help="Spark settings, as name=value")
    given = parser.parse_args()
    settings = dict(pair.split("=", 1) for pair in given.conf)
    asked = Asked(given.songs, given.years, given.titles, given.committer, given.delay, settings)
    if given.days:
        for name, counts in measure_days(asked).items():
            by_stage = Counter()
            for (stage, _, _), count in counts.items():
                by_stage[stage] += count
            print(f"{name}: {counts.total():,} requests, by stage {dict(by_stage)}")
        return
    few, many = measure(asked)[-1]
    for run in (few, many):
        seconds = run["report"]["seconds"]
        print(f"{run['songs']} song files, {run['files']} output files: {seconds}")
    for name, (kinds, besides) in cost(few, many).items():
        by_kind = ", ".join(f"{kind} {count:.2f}" for kind, count in kinds.items() if count)
        print(f"{name}: {kinds.total():.2f} requests a file ({by_kind}), {besides:.0f} besides")


if __name__ == "__main__":
    main()
