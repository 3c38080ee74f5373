"""An S3 that fails at a chosen request, and a small lake on it behind the real S3A connector."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import boto3
from moto.moto_api._internal import moto_api_backend
from moto.server import DomainDispatcherApplication, create_backend_app
from pyspark import SparkConf
from pyspark.java_gateway import launch_gateway
from werkzeug.serving import make_server

from lake import paths
from lake.storage import HadoopStorage
from tests.faults import LEFT, SmallLake
from tests.s3 import DUMMY_KEY, s3_settings

BUCKET = "lake"
CHANGES = ("PUT", "POST", "DELETE")
ANSWERS = {
    "503": ("503 Slow Down", "SlowDown"),
    "500": ("500 Internal Server Error", "InternalError"),
}
KINDS = ("503", "500", "lost", "timeout", "cut off")

# So few and quick attempts that a fault which lasts is given up in a fraction of a second.
IMPATIENT = {
    "fs.s3a.attempts.maximum": "2",
    "fs.s3a.retry.limit": "2",
    "fs.s3a.retry.interval": "10ms",
    "fs.s3a.retry.throttle.limit": "2",
    "fs.s3a.retry.throttle.interval": "10ms",
    "fs.s3a.connection.timeout": "1500",
    "fs.s3a.change.detection.mode": "none",
}


@dataclass
class FaultyS3:
    """moto's S3 with a fault at the nth request that changes something.

    503, 500: refused once. lost: done, but answered 500. timeout: done, but never answered in time.
    cut off: from there on nothing is done or answered until the fault is lifted, as if the process
    had been killed inside of one of its file operations.
    """

    app: object
    at: int = -1
    kind: str = "503"
    changes: int = 0
    hit: bool = False
    retried: threading.Event = field(default_factory=threading.Event)

    def inject(self, at: int, kind: str) -> None:
        """Let the nth change from now on fail."""
        self.at, self.kind, self.changes, self.hit = at, kind, 0, False
        self.retried = threading.Event()

    def lift(self) -> bool:
        """Work again; tells whether the fault was met."""
        hit = self.hit
        self.inject(-1, "503")
        return hit

    def __call__(self, environ, start_response):
        """Answer a request; those of the test itself, by boto3, always."""
        if "Boto3" in environ.get("HTTP_USER_AGENT", ""):
            return self.app(environ, start_response)
        self.retried.set()
        if self.hit and self.kind == "cut off":
            return self._refuse("500", environ, start_response)
        if environ["REQUEST_METHOD"] in CHANGES:
            self.changes += 1
            if self.changes == self.at:
                self.hit = True
                return self._fail(environ, start_response)
        return self.app(environ, start_response)

    def _fail(self, environ, start_response):
        if self.kind in ("lost", "timeout"):
            list(self.app(environ, lambda *_: None))
        if self.kind == "timeout":
            self.retried = threading.Event()
            self.retried.wait(60)
        return self._refuse(self.kind if self.kind in ANSWERS else "500", environ, start_response)

    def _refuse(self, kind, environ, start_response):
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, code = ANSWERS[kind]
        body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        start_response(status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


@contextlib.contextmanager
def faulty_s3() -> Iterator[tuple[FaultyS3, str]]:
    """Serve S3 on a free port, with an empty bucket; yields it and its endpoint."""
    s3 = FaultyS3(DomainDispatcherApplication(create_backend_app))
    with served(s3) as endpoint:
        yield s3, endpoint


@contextlib.contextmanager
def served(s3: Callable) -> Iterator[str]:
    """Serve an S3 on a free port, with an empty bucket; yields its endpoint."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, s3, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    moto_api_backend.reset()  # what another server of this process was given is here as well
    try:
        client(endpoint).create_bucket(Bucket=BUCKET)
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def client(endpoint: str):
    """boto3's S3 for the tests' own look at the bucket."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=DUMMY_KEY,
        aws_secret_access_key=DUMMY_KEY,
    )


@contextlib.contextmanager
def hadoop_with_s3(endpoint: str) -> Iterator[SimpleNamespace]:
    """A JVM with Spark's jars and the S3 connector; as much of a session as Storage needs."""
    settings = s3_settings(endpoint)
    conf = SparkConf(False).set("spark.jars.packages", settings.pop("spark.jars.packages"))
    gateway = launch_gateway(conf)
    try:
        log4j = gateway.jvm.org.apache.logging.log4j
        log4j.core.config.Configurator.setRootLevel(log4j.Level.OFF)  # faults are expected here
        hadoop = gateway.jvm.org.apache.hadoop.conf.Configuration()
        plain = {key.replace("spark.hadoop.", ""): value for key, value in settings.items()}
        for key, value in {**plain, **IMPATIENT}.items():
            hadoop.set(key, value)
        context = SimpleNamespace(hadoopConfiguration=lambda: hadoop)
        yield SimpleNamespace(
            _gateway=gateway, _jvm=gateway.jvm, sparkContext=SimpleNamespace(_jsc=context)
        )
    finally:
        gateway.shutdown()
        gateway.proc.stdin.close()  # the gateway's Java ends with its input
        gateway.proc.wait(timeout=60)


class S3Lake(SmallLake):
    """A small lake in the bucket; publishing reaches it by S3A, the test by boto3."""

    numbers = itertools.count()

    def __init__(self, spark: SimpleNamespace, client) -> None:
        super().__init__(f"lake{next(self.numbers)}", atomic_rename=False)
        self.client = client
        self._storage = HadoopStorage(spark, f"s3a://{BUCKET}/{self.folder}")

    def storage(self):
        """The project's own storage of this lake."""
        return self._storage

    def put(self, below, lake, run):
        """Write tables as Spark does: file names carry the run; here each row is an object."""
        for table, folders in lake.items():
            for folder, rows in folders.items():
                for number, row in enumerate(rows):
                    path = f"{self.folder}/{below}/{table}/{folder}/part-{number:05}-{run}.parquet"
                    key = "/".join(part for part in path.split("/") if part)
                    self.client.put_object(Bucket=BUCKET, Key=key, Body=row.encode())

    def put_parsed(self, folder, text):
        """Write parsed records to an object, as Spark does."""
        key = f"{self.folder}/{folder}/part-0.parquet"
        self.client.put_object(Bucket=BUCKET, Key=key, Body=text.encode())

    def keys(self, below=""):
        """The objects below a folder of the lake."""
        return keys_of(self.client, f"{self.folder}/{below}")

    def texts(self, below):
        """All that a reader finds below a folder: key -> text; names with _ or . are hidden."""
        hidden = ("_", ".")
        return {
            key: self.text(f"{below}/{key}".lstrip("/"))
            for key in self.keys(below)
            if not any(part.startswith(hidden) for part in key.split("/"))
        }

    def text(self, key):
        """One object."""
        answer = self.client.get_object(Bucket=BUCKET, Key=f"{self.folder}/{key}")
        return answer["Body"].read().decode()

    def plans(self):
        """The plans that stand."""
        keys = [key for key in self.keys("_etl") if key.endswith("/plan.json")]
        return [json.loads(self.text(f"_etl/{key}")) for key in keys]

    def leftovers(self):
        """What is in _etl beside what a run leaves there."""
        return {key.split("/")[0] for key in self.keys("_etl")} - LEFT

    def drop_lock(self):
        """Delete LOCK, as one who knows that its run is dead."""
        self.client.delete_object(Bucket=BUCKET, Key=f"{self.folder}/{paths.LOCK}")


def keys_of(boto, folder: str) -> list[str]:
    """The objects below a folder, without the markers that stand for folders."""
    prefix = folder.rstrip("/") + "/"
    pages = boto.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    keys = pages.search("Contents[].Key")
    return [key[len(prefix) :] for key in keys if key and not key.endswith("/")]
