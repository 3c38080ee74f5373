"""What spark-submit --deploy-mode cluster really does on YARN, where the scripts rely on it."""

from __future__ import annotations

import re
import shlex
import time

import boto3
import pytest

from aws.logs import driver_log_keys, explain_log, find_application
from aws.steps import TAG, build_run_tag, build_stop_step
from tests.s3 import moto_server
from tests.yarn import mini_yarn

JOB = """
import sys

if sys.argv[1] == "fail":
    raise ValueError("it failed as asked")
if sys.argv[1] == "refuse":
    sys.exit("job.py: error: it refused as asked")

import beside
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
assert spark.sparkContext.master == "yarn"
print("deployed as", spark.conf.get("spark.submit.deployMode"), beside.NAME, open("dl.cfg").read())
print("arguments", sys.argv[1:])
spark.range(int(sys.argv[1])).write.parquet(sys.argv[2])
"""
SLOW = """
import time
from pyspark.sql import SparkSession

SparkSession.builder.getOrCreate()
time.sleep(600)
"""


@pytest.fixture(scope="module")
def s3():
    with moto_server() as endpoint:
        keys = {"aws_access_key_id": "dummy", "aws_secret_access_key": "dummy"}
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
        client.create_bucket(Bucket="my-bucket")
        files = {"job.py": JOB, "slow.py": SLOW, "beside.py": "NAME = 'beside'", "dl.cfg": "[etl]"}
        for name, content in files.items():
            client.put_object(Bucket="my-bucket", Key=f"code/{name}", Body=content.encode())
        yield client


@pytest.fixture(scope="module")
def yarn(s3, tmp_path_factory):
    with mini_yarn(tmp_path_factory.mktemp("yarn"), s3.meta.endpoint_url) as yarn:
        yield yarn


def submit(yarn, *arguments, conf=()):
    code = "s3://my-bucket/code"
    shipped = ("--py-files", f"{code}/beside.py", "--files", f"{code}/dl.cfg")
    settings = ("--conf", "spark.yarn.maxAppAttempts=1", *conf)
    command = ["spark-submit", "--deploy-mode", "cluster", *shipped, *settings]
    return [*command, *arguments]


def run_until_heard(yarn, *arguments):
    """A failed run and its driver's logs; on a busy machine Spark can end before it copied them."""
    for _ in range(3):
        done = yarn.run(submit(yarn, *arguments))
        logs = driver_logs(yarn, done.stderr)
        if logs["stdout"]:
            break
    return done, logs


def driver_logs(yarn, stderr):
    application = find_application([stderr])
    logs = {f"logs/j-1/containers/{path}": text for path, text in yarn.container_logs().items()}
    keys = driver_log_keys(key for key in logs if f"/{application}/" in key)
    return {key.rpartition("/")[2]: logs[key].decode() for key in keys}


def test_a_job_from_s3_runs_on_the_cluster_with_all_that_ships_with_it(yarn, s3):
    odd = "two words; $HOME \"quoted\" 'single' *"
    done = yarn.run(submit(yarn, "s3://my-bucket/code/job.py", "3", "s3://my-bucket/out", odd))
    assert done.returncode == 0, done.stderr
    stdout = driver_logs(yarn, done.stderr)["stdout"]
    assert "deployed as cluster beside [etl]" in stdout
    assert f"arguments {['3', 's3://my-bucket/out', odd]!r}" in stdout
    found = s3.list_objects_v2(Bucket="my-bucket", Prefix="out/")["Contents"]
    assert "out/_SUCCESS" in [entry["Key"] for entry in found]


def test_a_traceback_is_in_the_drivers_stdout_and_nowhere_in_the_steps_log(yarn):
    done, logs = run_until_heard(yarn, "s3://my-bucket/code/job.py", "fail")
    assert done.returncode != 0
    assert "it failed as asked" not in done.stdout + done.stderr
    lines = explain_log(logs["stdout"])
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: it failed as asked"


def test_the_jobs_own_error_line_is_found(yarn):
    done, logs = run_until_heard(yarn, "s3://my-bucket/code/job.py", "refuse")
    assert done.returncode != 0
    assert explain_log(logs["stdout"]) == ["job.py: error: it refused as asked"]


def test_cancelling_a_step_does_not_stop_its_job_but_our_step_does(yarn):
    tag = build_run_tag("this test")
    conf = ("--conf", f"{TAG}={tag}")
    command = submit(yarn, "s3://my-bucket/code/slow.py", conf=conf)
    client = yarn.start(command)
    running = ["yarn", "application", "-list", "-appStates", "RUNNING", "-appTags", tag]
    for _ in range(60):
        found = re.search(r"application_\d+_\d+", yarn.run(running).stdout)
        if found:
            break
        time.sleep(1)
    assert found
    client.terminate()  # what EMR's CancelSteps does
    client.communicate(timeout=60)
    time.sleep(3)
    assert found[0] in yarn.run(running).stdout
    stop = build_stop_step({"Name": "slow", "Config": {"Args": command}})
    stopped = yarn.run(stop["HadoopJarStep"]["Args"])
    assert stopped.returncode == 0, stopped.stderr
    assert f"Killing application {found[0]}" in stopped.stdout
    state = yarn.run(["yarn", "application", "-status", found[0]]).stdout
    assert re.search(r"State : KILLED", state)
    again = yarn.run(stop["HadoopJarStep"]["Args"])
    assert again.returncode == 0, shlex.join(stop["HadoopJarStep"]["Args"]) + again.stderr
