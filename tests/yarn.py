"""A YARN for the tests: Hadoop's mini cluster with one node, on which spark-submit runs as on EMR.

As on EMR, what a step does not say stands in the cluster's own configuration: where YARN and S3
are in Hadoop's XML files, where Spark's and the S3 connector's jars are in spark-defaults.conf.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import pyspark
from pyspark import SparkConf
from pyspark.java_gateway import launch_gateway

from tests.emr_emulator import StepResult, StepRun
from tests.s3 import hadoop_version, s3_settings

if TYPE_CHECKING:
    from py4j.java_gateway import JavaGateway

# What Hadoop's mini cluster needs besides, it does not bring; Spark 3.5 has the last one itself.
PACKAGES = (
    "org.apache.hadoop:hadoop-client-minicluster:{}",
    "org.bouncycastle:bcpkix-jdk15on:1.70",
    "javax.xml.bind:jaxb-api:2.3.1",
)
SCHEDULER = {
    "yarn.scheduler.capacity.root.queues": "default",
    "yarn.scheduler.capacity.root.default.capacity": "100",
    "yarn.scheduler.capacity.maximum-am-resource-percent": "1.0",
}
NODE = {
    "fs.defaultFS": "file:///",
    "yarn.nodemanager.disk-health-checker.enable": "false",  # a laptop's disk may be nearly full
    "yarn.nodemanager.vmem-check-enabled": "false",
    "yarn.nodemanager.delete.debug-delay-sec": "0",
}
ADDRESSES = ("yarn.resourcemanager.address", "yarn.resourcemanager.scheduler.address")
YARN_COMMAND = """#!/bin/sh
exec {java} -cp '{conf}:{jars}/*' org.apache.hadoop.yarn.client.cli.ApplicationCLI "$@"
"""
SPARK_PLACE = {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}


class Yarn:
    """A running mini cluster: a client's environment for it and its containers' logs."""

    def __init__(self, client: Mapping[str, str], work: Path) -> None:
        self.client = client
        self.work = work

    def start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        """Start a step's arguments word for word, as EMR's command-runner.jar does."""
        return subprocess.Popen(
            command,
            cwd=self.work,
            env=dict(self.client),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a step's arguments to their end."""
        client = self.start(command)
        stdout, stderr = client.communicate(timeout=300)
        return subprocess.CompletedProcess(command, client.returncode, stdout, stderr)

    def run_step(self, step: StepRun) -> StepResult:
        """Run a step for the EMR emulator; cancelling ends only the command itself, as EMR does."""
        client = self.start(step.args)
        watch = threading.Thread(target=end_when_cancelled, args=(client, step), daemon=True)
        watch.start()
        stdout, stderr = client.communicate()
        logs = {"steps/{step}/stdout.gz": stdout, "steps/{step}/stderr.gz": stderr}
        for name in set(re.findall(r"application_\d+_\d+", stderr)):
            for path, content in self.container_logs(name).items():
                logs[f"containers/{path}.gz"] = content.decode()
        return StepResult(client.returncode, logs, log_delay=6)

    def container_logs(self, application: str = "application_*") -> dict[str, bytes]:
        """What each container wrote, by <application>/<container>/<file> as EMR has it in S3."""
        return {
            "/".join(path.parts[-3:]): path.read_bytes()
            for path in sorted(self.work.glob(f"target/**/{application}/container_*/std*"))
            if "logDir" in str(path)
        }


def end_when_cancelled(client: subprocess.Popen[str], step: StepRun) -> None:
    """Watch a step's command, and send it SIGTERM when EMR is told to cancel it."""
    while client.poll() is None:
        if step.cancelled.wait(timeout=0.2):
            client.terminate()
            return


@contextlib.contextmanager
def mini_yarn(work: Path, s3_endpoint: str) -> Iterator[Yarn]:
    """Start YARN under a folder, with S3 at the endpoint as the nodes' s3://."""
    settings = s3_settings(s3_endpoint)
    connector = resolve(work, settings.pop("spark.jars.packages"))
    hadoop = resolve(work, *(name.format(hadoop_version()) for name in PACKAGES))
    with java(work, {"spark.driver.extraClassPath": ":".join(hadoop)}) as gateway:
        cluster = _start(gateway)
        yield Yarn(_client(work, cluster.getConfig(), settings, connector), work)
        cluster.stop()


def resolve(work: Path, *packages: str) -> list[str]:
    """The jars of Maven packages, fetched as spark.jars.packages fetches them."""
    with java(work, {"spark.jars.packages": ",".join(packages)}) as gateway:
        jars: str = gateway.jvm.System.getProperty("spark.jars")
    return [jar.replace("file://", "") for jar in jars.split(",")]


@contextlib.contextmanager
def java(work: Path, settings: Mapping[str, str]) -> Iterator[JavaGateway]:
    """A Java with Spark's classes; what it says goes to java.log, and here if it does not start."""
    conf = SparkConf(False).setAll(list(settings.items()))
    log = work / "java.log"
    with log.open("w") as output:
        try:
            # The mini cluster writes to ./target.
            gateway = launch_gateway(conf, {"cwd": work, "stdout": output, "stderr": output})
        except Exception:
            print(log.read_text(), file=sys.stderr)
            raise
    try:
        yield gateway
    finally:
        gateway.shutdown()
        gateway.proc.stdin.close()  # the gateway's Java ends with its input
        gateway.proc.wait(timeout=60)


def _start(gateway: JavaGateway):
    conf = gateway.jvm.org.apache.hadoop.yarn.conf.YarnConfiguration()
    for key, value in {**SCHEDULER, **NODE}.items():
        conf.set(key, value)
    cluster = gateway.jvm.org.apache.hadoop.yarn.server.MiniYARNCluster("emr", 1, 1, 1)
    cluster.init(conf)
    cluster.start()
    assert cluster.waitForNodeManagersToConnect(30_000)
    return cluster


def _client(work: Path, conf, s3: Mapping[str, str], connector: Sequence[str]) -> dict[str, str]:
    home = Path(pyspark.__file__).parent
    folder = work / "conf"
    folder.mkdir()
    hadoop = {key: conf.get(key) for key in ADDRESSES} | NODE
    hadoop |= {key.replace("spark.hadoop.", ""): value for key, value in s3.items()}
    (folder / "core-site.xml").write_text(_xml(hadoop))
    (folder / "yarn-site.xml").write_text(_xml(hadoop))  # over yarn-default.xml
    java_home = Path(shutil.which("java") or "java").resolve().parents[1]
    defaults = {
        "spark.master": "yarn",
        "spark.yarn.jars": f"local:{home}/jars/*",
        "spark.yarn.stagingDir": f"file://{work}/staging",
        "spark.driver.extraClassPath": ":".join(connector),
        "spark.executor.extraClassPath": ":".join(connector),
        "spark.executor.instances": "1",
        "spark.executor.cores": "2",
        # As in conftest.py: with a few rows, an optimizing compiler costs more than it gives.
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
        "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1",
    }
    for name, value in {**SPARK_PLACE, "JAVA_HOME": str(java_home)}.items():
        defaults[f"spark.yarn.appMasterEnv.{name}"] = value
        defaults[f"spark.executorEnv.{name}"] = value
    lines = [f"{key} {value}\n" for key, value in defaults.items()]
    (folder / "spark-defaults.conf").write_text("".join(lines))
    (work / "bin").mkdir()
    yarn = work / "bin" / "yarn"
    yarn.write_text(
        YARN_COMMAND.format(java=java_home / "bin/java", conf=folder, jars=home / "jars")
    )
    yarn.chmod(0o755)
    # Nothing of this computer's own environment, least of all keys, is on a cluster's node.
    return {
        "HADOOP_CONF_DIR": str(folder),
        "SPARK_CONF_DIR": str(folder),
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": SPARK_PLACE["SPARK_LOCAL_IP"],
        "SPARK_DIST_CLASSPATH": ":".join(connector),
        "JAVA_HOME": str(java_home),
        "HOME": str(work),
        "PATH": f"{home}/bin:{yarn.parent}:{Path(sys.executable).parent}:/usr/bin:/bin",
    }


def _xml(settings: Mapping[str, str]) -> str:
    properties = "".join(
        f"<property><name>{escape(key)}</name><value>{escape(value)}</value></property>\n"
        for key, value in settings.items()
    )
    return f"<configuration>\n{properties}</configuration>\n"
