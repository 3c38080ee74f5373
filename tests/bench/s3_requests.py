"""Count what the job asks of S3, by kind: python tests/bench/s3_requests.py.

The real job runs through the real S3A connector against an S3 on this machine: twice, with few and
with many files, and the difference tells what one more file costs. --delay makes every request
take as long as one over a network does.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import parse_qs, unquote

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

from moto.server import DomainDispatcherApplication, create_backend_app  # noqa: E402

from tests.factories import event, song  # noqa: E402
from tests.s3 import s3_settings  # noqa: E402
from tests.s3_faults import BUCKET, client, served  # noqa: E402

Counts = collections.Counter[tuple[str, str]]  # (area, kind) -> requests


class CountingS3:
    """An S3 that counts each request by what it is about and what it asks, and may be slow."""

    def __init__(self, delay: float) -> None:
        self.app = DomainDispatcherApplication(create_backend_app)
        self.delay = delay
        self.counts: Counts = collections.Counter()

    def __call__(self, environ, start_response):
        """Count a request, wait, and let moto answer it; the test's own requests are free."""
        if "Boto3" not in environ.get("HTTP_USER_AGENT", ""):
            self.counts[area_of(environ), kind_of(environ)] += 1
            time.sleep(self.delay)
        return self.app(environ, start_response)


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
    """What a request is about: song_data, log_data, or the lake."""
    prefix = parse_qs(environ.get("QUERY_STRING", "")).get("prefix", [""])[0]
    key = unquote(environ["PATH_INFO"]).removeprefix(f"/{BUCKET}").strip("/") or prefix
    return re.match(r"[^/]*", key)[0]


def put_input(endpoint: str, songs: int, years: int) -> None:
    """Song files, each in a folder of its own, and one file of the log."""
    s3 = client(endpoint)
    for n in range(songs):
        record = song(song_id=f"SO{n:05}", artist_id=f"AR{n:05}", year=1950 + n % years)
        key = f"song_data/{n // 100}/{n % 100}/TR{n}.json"
        s3.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(record).encode())
    lines = "\n".join(json.dumps(event(itemInSession=n)) for n in range(100))
    s3.put_object(Bucket=BUCKET, Key="log_data/2018/11/events.json", Body=lines.encode())


def run_job(endpoint: str, settings: dict[str, str]) -> dict[str, object]:
    """Run etl.py on the bucket; returns its report."""
    conf = {**s3_settings(endpoint), **settings}
    flags = " ".join(f"--conf {name}={value}" for name, value in conf.items())
    command = [sys.executable, str(PROJECT / "etl.py")]
    command += [f"--song-data=s3a://{BUCKET}/song_data", f"--log-data=s3a://{BUCKET}/log_data"]
    with tempfile.TemporaryFile() as log:
        done = subprocess.run(
            [*command, f"--output=s3a://{BUCKET}/lake"],
            env={**os.environ, "PYSPARK_SUBMIT_ARGS": f"{flags} pyspark-shell"},
            cwd=PROJECT,
            stdout=log,
            stderr=log,
        )
        if done.returncode:
            log.seek(0)
            raise SystemExit(log.read().decode()[-2000:])
    s3 = client(endpoint)
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix="lake/_etl/reports/")["Contents"]
    return json.loads(s3.get_object(Bucket=BUCKET, Key=listed[-1]["Key"])["Body"].read())


def measure(songs: int, years: int, delay: float, settings: dict[str, str]) -> dict[str, object]:
    """What one whole run on a fresh bucket asked and wrote, and its seconds by stage."""
    s3 = CountingS3(delay)
    with served(s3) as endpoint:
        put_input(endpoint, songs, years)
        report = run_job(endpoint, settings)
        files = sum(table["files"] for table in report["tables"].values())
        counts = {f"{area} {kind}": n for (area, kind), n in sorted(s3.counts.items())}
        return {"songs": songs, "files": files, "requests": counts, "seconds": report["seconds"]}


def main() -> None:
    """Print what a run with few files and one with many ask, and what one more file costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--songs", nargs=2, type=int, default=(40, 400))
    parser.add_argument("--years", nargs=2, type=int, default=(10, 60))
    parser.add_argument("--delay", type=float, default=0.0, help="seconds for each request")
    parser.add_argument("--conf", nargs="*", default=[], help="Spark settings, as name=value")
    arguments = parser.parse_args()
    settings = dict(pair.split("=", 1) for pair in arguments.conf)
    few, many = (
        measure(songs, years, arguments.delay, settings)
        for songs, years in zip(arguments.songs, arguments.years, strict=True)
    )
    print(json.dumps([few, many], indent=1))
    for area, unit in (("song_data", "songs"), ("lake", "files")):
        totals = [
            sum(n for name, n in run["requests"].items() if name.split()[0] == area)
            for run in (few, many)
        ]
        slope = (totals[1] - totals[0]) / (many[unit] - few[unit])
        print(f"{area}: {slope:.2f} requests a file, {totals[0] - slope * few[unit]:.0f} besides")


if __name__ == "__main__":
    main()
