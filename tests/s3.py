"""An S3 for the tests: moto's server on this machine, and the Spark settings that lead to it."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyspark
from moto.server import ThreadedMotoServer

# Any value will do: moto checks no signature.
DUMMY_KEY = "dummy"

# S3A's magic committer: what a task writes appears where it belongs when the job commits, unmoved.
# EMR has one of its own, which is its default. Of Spark's patch releases not each is published.
MAGIC_COMMITTER = {
    "spark.jars.packages": "org.apache.spark:spark-hadoop-cloud_2.12:3.5.5",
    "spark.jars.excludes": ",".join(
        (
            *("org.apache.hadoop:hadoop-client-*", "org.apache.hadoop:hadoop-azure"),
            *("org.apache.hadoop:hadoop-cloud-storage", "com.google.cloud.bigdataoss:*"),
            *("com.fasterxml.jackson.*:*", "org.apache.httpcomponents:*", "org.eclipse.jetty:*"),
            "joda-time:*",
        )
    ),
    "spark.hadoop.fs.s3a.committer.name": "magic",
    "spark.hadoop.fs.s3a.committer.magic.enabled": "true",
    "spark.sql.sources.commitProtocolClass": (
        "org.apache.spark.internal.io.cloud.PathOutputCommitProtocol"
    ),
    "spark.sql.parquet.output.committer.class": (
        "org.apache.spark.internal.io.cloud.BindingParquetOutputCommitter"
    ),
}


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """Serve every AWS API that moto knows on a free port; yields the endpoint's URL."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else one line a request on stderr
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def s3_settings(endpoint: str) -> dict[str, str]:
    """The Spark settings that make s3:// and s3a:// paths reach the endpoint, as EMR's would S3."""
    return {
        "spark.jars.packages": f"org.apache.hadoop:hadoop-aws:{hadoop_version()}",
        "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "spark.hadoop.fs.s3a.endpoint": endpoint,
        "spark.hadoop.fs.s3a.endpoint.region": "us-east-1",
        "spark.hadoop.fs.s3a.path.style.access": "true",
        "spark.hadoop.fs.s3a.connection.ssl.enabled": "false",
        "spark.hadoop.fs.s3a.access.key": DUMMY_KEY,
        "spark.hadoop.fs.s3a.secret.key": DUMMY_KEY,
        "spark.hadoop.fs.s3a.directory.marker.retention": "keep",  # the default since Hadoop 3.4
    }


def with_magic_committer(settings: Mapping[str, str]) -> dict[str, str]:
    """The settings, with S3A's magic committer in place of the one that renames."""
    packages = "spark.jars.packages"
    return {
        **settings,
        **MAGIC_COMMITTER,
        packages: f"{settings[packages]},{MAGIC_COMMITTER[packages]}",
    }


def hadoop_version() -> str:
    """The Hadoop that this pyspark brings: its S3 connector has to be of the same version."""
    jars = Path(pyspark.__file__).parent / "jars"
    (client,) = jars.glob("hadoop-client-api-*.jar")
    return re.sub(r"^hadoop-client-api-", "", client.stem)
