"""iac_submit_etl.py against the emulated account: what it uploads, adds, follows and tells."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import zipfile

import boto3
import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import ReadTimeoutError
from botocore.validate import ParamValidator

import iac_submit_etl
from aws.cluster import ACTIVE
from aws.code import (
    ROOT,
    Code,
    build_zip,
    check_paths,
    load_job_config,
    read_code,
    refuse_secrets,
)
from aws.locations import locate_without_aws
from aws.logs import find_cause
from aws.requests import build_cluster_request
from aws.s3 import list_keys
from aws.session import poll
from aws.steps import (
    JobArguments,
    add_step,
    build_command_step,
    build_step,
    build_stop_step,
    explain_end,
    look,
)
from configs import ConfigError, load_emr_config, load_etl_config
from lake.exit_codes import ExitCode
from lake.tables import TABLES
from tests.aws_fixtures import *  # noqa: F403 (fixtures)
from tests.aws_fixtures import BUCKET, REGION
from tests.emr_emulator import Cluster, ClusterPlan, StepPlan

SECRET = "canary/secret+that/must+stay/home+123456"
LAKE = f"s3://{BUCKET}/lake"
PATHS = ("--song-data", f"{LAKE}/song_data", "--log-data", f"{LAKE}/log_data", "--output", LAKE)
CODE = Code({}, "s3://b/code/0a1", {})


@pytest.fixture
def submit(emulator, run):
    """Run the script with paths that a cluster can see; flags come first."""

    def run_submit(*flags, job=PATHS):
        return run(iac_submit_etl.main, *flags, "--", *job)

    return run_submit


@pytest.fixture
def cluster(emulator, session, config):
    """The id of a cluster that waits for steps, in an account that has the bucket."""
    location = {"LocationConstraint": REGION}
    session.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=location)
    emr_config, _ = locate_without_aws(load_emr_config(config), load_etl_config(config))
    request = build_cluster_request(emr_config)
    waiting = Cluster("j-0000000000000", REGION, request, ClusterPlan())
    waiting.enter("WAITING")
    emulator.clusters[waiting.id] = waiting
    return waiting.id


def steps_of(emulator, cluster_id):
    return emulator.clusters[cluster_id].steps


# What is uploaded.


def test_the_job_ships_with_its_package_and_its_settings(config):
    code = read_code(ROOT, config, "s3://b/code")
    assert set(code.files) == {"etl.py", "configs.py", "lake.zip", "dl.cfg"}
    with zipfile.ZipFile(io.BytesIO(code.files["lake.zip"])) as archive:
        packed = {name: archive.read(name) for name in archive.namelist()}
    assert packed == {f"lake/{path.name}": path.read_bytes() for path in ROOT.glob("lake/*.py")}
    assert packed.keys() < code.sources.keys()


def test_a_zip_of_equal_files_has_equal_bytes():
    files = {"lake/b.py": b"2", "lake/a.py": b"1"}
    assert build_zip(files) == build_zip(dict(sorted(files.items())))
    assert build_zip(files) != build_zip({**files, "lake/a.py": b"3"})


@pytest.fixture
def job(tmp_path):
    """A folder with a small job in it."""
    (tmp_path / "lake").mkdir()
    for name in ("etl.py", "configs.py", "lake/other.py"):
        (tmp_path / name).write_text("1")
    return tmp_path


def test_the_folder_is_named_by_names_and_contents(job, config):
    first = read_code(job, config, "s3://b/code").uri
    assert re.fullmatch("s3://b/code/[0-9a-f]{16}", first)
    assert read_code(job, config, "s3://b/code").uri == first
    (job / "lake" / "other.py").write_text("2")
    second = read_code(job, config, "s3://b/code").uri
    config.write_text(config.read_text() + "\n")
    third = read_code(job, config, "s3://b/code").uri
    assert len({first, second, third}) == 3


def test_a_key_in_the_package_is_seen_before_it_is_zipped(job, config):
    (job / "lake" / "other.py").write_text("KEY = 'AKIAIOSFODNN7EXAMPLE'")
    with pytest.raises(ConfigError, match=r"lake/other.py seems to hold a key"):
        refuse_secrets(read_code(job, config, "s3://b/code"), boto3.Session())


@pytest.mark.parametrize(
    "line",
    [
        "fs.s3a.secret.key = abc",
        "aws_secret_access_key=abc",
        "password: x",
        "note = AKIAIOSFODNN7EXAMPLE",
    ],
)
def test_a_setting_that_is_a_secret_is_not_uploaded(line):
    code = Code({}, "s3://b/code/1", {"dl.cfg": f"[s3]\n{line}\n".encode()})
    with pytest.raises(ConfigError, match=r"dl.cfg: \[s3\] \S+ is or holds a secret: keys belong"):
        refuse_secrets(code, boto3.Session())


@pytest.mark.parametrize("line", [f"note = {SECRET}", f"# {SECRET}"])
def test_a_file_that_holds_a_key_is_not_uploaded(line):
    session = boto3.Session(aws_access_key_id="A", aws_secret_access_key=SECRET)
    code = Code({}, "s3://b/code/1", {"dl.cfg": f"[s3]\n{line}\n".encode()})
    with pytest.raises(ConfigError, match=r"dl.cfg seems to hold a key"):
        refuse_secrets(code, session)


def test_a_configuration_that_holds_a_key_stops_the_script(submit, emulator, cluster, config):
    config.write_text(config.read_text().replace("[tags]", "[tags]\nnote = AKIAIOSFODNN7EXAMPLE"))
    outcome = submit()
    assert outcome.code == ExitCode.USAGE
    assert "[tags] note is or holds a secret: keys belong in keys.cfg" in outcome.last_line
    assert "AKIA" not in outcome.out + outcome.err
    assert not steps_of(emulator, cluster)


def test_what_ships_holds_no_key(config):
    refuse_secrets(read_code(ROOT, config, "s3://b/code"), boto3.Session())


def test_nothing_is_uploaded_twice(submit, emulator, cluster):
    submit()
    puts = [request for request in emulator.requests if request.method == "PUT"]
    code = [request.path for request in puts if "/code/" in request.path]
    assert len(code) == len(set(code)) >= 4
    emulator.requests.clear()
    outcome = submit()
    assert f"uploaded 0 of {len(code)} files to s3://{BUCKET}/code/" in outcome.err
    assert not [request for request in emulator.requests if request.method == "PUT"]


def test_only_what_is_missing_is_uploaded_again(submit, session, cluster):
    submit()
    s3 = session.client("s3")
    (key,) = [key for key in list_keys(s3, BUCKET, "code/") if key.endswith("/etl.py")]
    s3.delete_object(Bucket=BUCKET, Key=key)
    assert "uploaded 1 of " in submit().err


# The step.


def test_the_step_is_the_whole_request(config):
    step = build_step(CODE, load_emr_config(config), JobArguments(job=["--output", "s3://b/o"]))
    command = step["HadoopJarStep"]["Args"]
    (tag,) = [part for part in command if part.startswith("spark.yarn.tags=")]
    assert re.fullmatch("spark.yarn.tags=etl-[0-9a-f]{16}", tag)
    assert step == {
        "Name": "sparkify etl 0a1",
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {
            "Jar": "command-runner.jar",
            "Args": [
                "spark-submit",
                "--deploy-mode",
                "cluster",
                "--name",
                "sparkify etl 0a1",
                "--py-files",
                "s3://b/code/0a1/configs.py,s3://b/code/0a1/lake.zip",
                "--files",
                "s3://b/code/0a1/dl.cfg",
                "--conf",
                "spark.yarn.maxAppAttempts=1",
                "--conf",
                tag,
                "s3://b/code/0a1/etl.py",
                "--config",
                "dl.cfg",
                "--output",
                "s3://b/o",
            ],
        },
    }


def test_botocore_accepts_the_requests(config):
    step = build_step(CODE, load_emr_config(config), JobArguments())
    stop = build_stop_step({"Name": "x", "Config": step["HadoopJarStep"]})
    model = botocore.session.get_session().get_service_model("emr")
    shape = model.operation_model("AddJobFlowSteps").input_shape
    report = ParamValidator().validate({"JobFlowId": "j-1", "Steps": [step, stop]}, shape)
    assert not report.has_errors(), report.generate_report()
    assert step["ActionOnFailure"] in shape.members["Steps"].member.members["ActionOnFailure"].enum


def test_every_argument_arrives_as_it_was_written(submit, emulator, cluster):
    odd = ["--output", "s3://my-sparkify-bucket/a b/$HOME;'\"*", *PATHS[:4]]
    spark = "--conf 'spark.app.note=two words; $(date)' --num-executors 3"
    assert submit("--spark-args", spark, job=odd).code == ExitCode.DONE
    command = steps_of(emulator, cluster)[0].jar["Args"]
    assert command[-len(odd) :] == odd
    start = command.index("--num-executors")
    assert command[start - 2 : start + 2] == [
        "--conf",
        "spark.app.note=two words; $(date)",
        "--num-executors",
        "3",
    ]


def test_the_job_settings_of_this_environment_reach_the_job(submit, emulator, cluster, monkeypatch):
    monkeypatch.setenv("SPARKIFY_ETL_MAX_REJECTED_PERCENT", "7")
    monkeypatch.setenv("SPARKIFY_EMR_CORE_COUNT", "9")
    submit()
    command = steps_of(emulator, cluster)[0].jar["Args"]
    assert "spark.yarn.appMasterEnv.SPARKIFY_ETL_MAX_REJECTED_PERCENT=7" in command
    assert "CORE_COUNT" not in " ".join(command)


def test_dry_run_prints_the_step_and_asks_aws_nothing(submit, emulator, monkeypatch):
    emulator.requests.clear()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    outcome = submit("--dry-run")
    printed = json.loads(outcome.out)
    assert outcome.code == ExitCode.DONE
    assert printed["step"]["HadoopJarStep"]["Args"][:3] == [
        "spark-submit",
        "--deploy-mode",
        "cluster",
    ]
    assert any(uri.endswith("/etl.py") for uri in printed["upload"])
    assert not emulator.requests


# Mistakes of the user.


@pytest.mark.parametrize(
    ("flags", "job", "told"),
    [
        ((), ("--song-data", "my/songs"), r"\[etl\] song_data = my/songs: the cluster cannot see"),
        ((), ("--output", "out"), r"\[etl\] output = out: .* or -- --output s3://"),
        (("--spark-args", "'open"), PATHS, r"--spark-args \"'open\": No closing quotation"),
        (("--code-uri", "gs://x"), PATHS, r"code_uri = 'gs://x': expected a folder such as s3://"),
    ],
)
def test_usage_errors_are_one_line(submit, flags, job, told):
    outcome = submit(*flags, job=job)
    assert outcome.code == ExitCode.USAGE
    assert re.search(told, outcome.err)
    assert outcome.err.count("\n") == 1


def test_an_argument_of_the_job_before_the_dashes_is_told_where_it_belongs(submit):
    outcome = submit("--full")
    assert outcome.code == ExitCode.USAGE
    assert outcome.last_line.endswith(
        "error: unrecognized arguments: --full; write -- before arguments of etl.py"
    )


@pytest.mark.parametrize(
    "flags",
    [
        ("--no-wait", "--terminate-after"),
        ("--no-wait", "--catalog"),
        ("--create", "--cluster-id", "j-1"),
        ("--set-up",),
        ("--create", "--sample", "--upload", "folder"),
        ("stray",),
    ],
)
def test_flags_that_contradict_each_other_are_refused(submit, flags):
    assert submit(*flags).code == ExitCode.USAGE


def test_catalog_registers_what_the_step_has_published(submit, cluster, session):
    s3 = session.client("s3")
    for table in TABLES:
        folder = "".join(f"{name}=2018/" for name in table.partition_choices)
        s3.put_object(Bucket=BUCKET, Key=f"lake/{table.name}/{folder}part-0.parquet", Body=b"x")
    outcome = submit("--catalog")
    assert outcome.code == ExitCode.DONE
    assert "songplays: new table; partitions: 1 added" in outcome.err
    found = session.client("glue").get_tables(DatabaseName="sparkify")["TableList"]
    assert {table["Name"] for table in found} == {table.name for table in TABLES}


def test_without_catalog_nothing_is_registered(submit, cluster, session):
    submit()
    assert session.client("glue").get_databases()["DatabaseList"] == []


def test_a_failed_step_registers_nothing(submit, emulator, cluster, session):
    emulator.next_step = StepPlan(outcome="FAILED")
    assert submit("--catalog", "--log-wait", "0").code == ExitCode.FAILED
    assert session.client("glue").get_databases()["DatabaseList"] == []


def test_paths_may_come_from_the_environment(config, monkeypatch):
    for key in ("SONG_DATA", "LOG_DATA", "OUTPUT"):
        monkeypatch.setenv(f"SPARKIFY_ETL_{key}", f"s3://b/{key}")
    check_paths(load_job_config(config, []))


def test_no_cluster_is_an_error_that_names_the_cure(submit):
    outcome = submit()
    assert outcome.code == ExitCode.FAILED
    assert (
        "no cluster named sparkify in us-west-2: run iac_create.py, or add --create" in outcome.err
    )


def test_a_cluster_that_has_ended_takes_no_step(submit, emulator, cluster):
    emulator.end_cluster(cluster, "USER_REQUEST", "gone")
    outcome = submit("--cluster-id", cluster)
    assert outcome.code == ExitCode.FAILED
    assert f"cluster {cluster} accepts no steps any more, it is TERMINATED" in outcome.err


def test_a_missing_bucket_is_told_with_the_cure(submit, cluster):
    outcome = submit("--code-uri", "s3://no-such-bucket-of-mine/code")
    assert outcome.code == ExitCode.FAILED
    assert "there is no bucket" in outcome.last_line


# Every end of a step.


def test_a_completed_step_is_followed_to_its_end(submit, emulator, cluster):
    outcome = submit()
    (step,) = steps_of(emulator, cluster)
    assert outcome.code == ExitCode.DONE
    assert outcome.out == f"{cluster} {step.id} COMPLETED\n"
    lines = outcome.err.splitlines()
    assert lines[1] == f"added step {step.id} to {cluster}: {step.name}"
    assert [line.partition(" after")[0] for line in lines[2:]] == [
        "step PENDING, cluster RUNNING (Running step)",
        "step RUNNING",
        "step COMPLETED",
    ]


@pytest.mark.parametrize(
    ("state", "end"),
    [
        ("COMPLETED", ExitCode.DONE),
        ("FAILED", ExitCode.FAILED),
        ("CANCELLED", ExitCode.CANCELLED),
        ("INTERRUPTED", ExitCode.INTERRUPTED),
    ],
)
def test_each_end_has_its_exit_code(submit, emulator, cluster, state, end):
    emulator.next_step = StepPlan(outcome=state)
    outcome = submit("--log-wait", "0", "--json")
    told = json.loads(outcome.out)
    assert outcome.code == end
    assert (told["state"], told["outcome"]) == (state, end.name)
    assert told["cluster_id"] == cluster


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "CANCEL_PENDING"])
def test_an_unfinished_step_is_waited_for_only_so_long(submit, emulator, cluster, state):
    emulator.ticking = False
    submit("--no-wait")
    steps_of(emulator, cluster)[0].state = state
    outcome = submit("--timeout", "0")
    assert outcome.code == ExitCode.STILL_RUNNING
    assert "gave up waiting after" in outcome.last_line
    assert outcome.last_line.endswith("goes on: run the same command again to follow it")
    assert f"step {state}" in outcome.err


def test_minutes_are_minutes(submit, emulator, cluster, monkeypatch):
    timeouts = []

    def poll_and_note(fetch, every, timeout=None, **options):
        timeouts.append(timeout)
        return poll(fetch, every, timeout, **options)

    monkeypatch.setattr("aws.steps.poll", poll_and_note)
    monkeypatch.setattr("aws.logs.poll", poll_and_note)
    emulator.next_step = StepPlan(outcome="FAILED")
    submit("--timeout", "2", "--log-wait", "0.01")
    assert timeouts[-2:] == [120, 0.6]


def test_a_cluster_that_dies_in_mid_step_is_told_apart(submit, emulator, cluster, monkeypatch):
    emulator.next_step = StepPlan(running=10**6)

    def look_and_die(target):
        seen = look(target)
        if seen[0]["Status"]["State"] == "RUNNING":
            emulator.end_cluster(cluster, "INSTANCE_FAILURE", "the master node was lost")
        return seen

    monkeypatch.setattr("aws.steps.look", look_and_die)
    outcome = submit()
    assert outcome.code == ExitCode.CLUSTER_DIED
    assert outcome.last_line == (
        f"cluster {cluster} is TERMINATED_WITH_ERRORS: INSTANCE_FAILURE: the master node was lost"
    )


def test_a_cluster_that_dies_is_enough_where_the_step_is_never_told_to_have_ended(
    submit, emulator, cluster, monkeypatch
):
    emulator.next_step = StepPlan(running=10**6)

    def look_after_the_end(target):
        step, _ = look(target)
        emulator.end_cluster(cluster, "INTERNAL_ERROR", "gone")
        return {**step, "Status": {"State": "RUNNING"}}, look(target)[1]

    monkeypatch.setattr("aws.steps.look", look_after_the_end)
    assert submit("--timeout", "1").code == ExitCode.CLUSTER_DIED


def test_a_throttled_look_is_repeated_more_slowly(submit, emulator, cluster, monkeypatch):
    monkeypatch.setattr("aws.session.CLIENT_CONFIG", Config(retries={"total_max_attempts": 1}))

    def throttle_after(*given, **more):
        added = add_step(*given, **more)
        emulator.throttle("ListSteps", 2)
        return added

    monkeypatch.setattr(iac_submit_etl, "add_step", throttle_after)
    outcome = submit()
    assert outcome.code == ExitCode.DONE
    assert outcome.err.count("AWS throttles requests (ListSteps: ThrottlingException)") == 2
    assert "asking again in 1 s" in outcome.err
    assert "asking again in 2 s" in outcome.err


def test_when_following_fails_the_step_is_said_to_go_on(submit, emulator, cluster, monkeypatch):

    def expire_after(*given, **more):
        added = add_step(*given, **more)
        emulator.refuse("elasticmapreduce", "ExpiredTokenException", operation="ListSteps")
        return added

    monkeypatch.setattr(iac_submit_etl, "add_step", expire_after)
    outcome = submit("--terminate-after")
    assert outcome.code == ExitCode.STILL_RUNNING
    assert (
        f"{cluster} is not ended after the step, it ends itself 1 h 0 min after its last step:"
        " iac_terminate.py ends it now\n"
    ) in outcome.err
    assert "the session token has expired" in outcome.last_line
    assert "goes on: run the same command again to follow it" in outcome.last_line
    assert emulator.clusters[cluster].state in ACTIVE


# The same step.


def test_the_same_step_is_followed_and_not_added_again(submit, emulator, cluster):
    first = submit("--no-wait")
    outcome = submit()
    (step,) = steps_of(emulator, cluster)
    assert first.out == f"{cluster} {step.id} PENDING\n"
    assert outcome.code == ExitCode.DONE
    assert f"the same step exists already: following {step.id} on {cluster}" in outcome.err


def test_the_same_step_is_an_error_where_it_is_not_to_be_followed(submit, emulator, cluster):
    submit("--no-wait")
    outcome = submit("--no-attach", "--terminate-after")
    (step,) = steps_of(emulator, cluster)
    assert outcome.code == ExitCode.FAILED
    assert f"on {cluster}: {step.id}; leave out --no-attach" in outcome.last_line
    assert emulator.clusters[cluster].state in ACTIVE


def test_other_arguments_are_another_step(submit, emulator, cluster):
    submit("--no-wait")
    submit("--no-wait", job=[*PATHS[:4], "--output", f"{LAKE}2"])
    first, second = steps_of(emulator, cluster)
    assert first.name == second.name
    assert tag_of(first) != tag_of(second)


def tag_of(step):
    """What YARN knows the step's job by."""
    (tag,) = [part for part in step.jar["Args"] if part.startswith("spark.yarn.tags=")]
    return tag.partition("=")[2]


def test_a_step_that_has_ended_can_be_run_again(submit, emulator, cluster):
    assert submit().code == submit().code == ExitCode.DONE
    assert len(steps_of(emulator, cluster)) == 2


def test_a_step_is_not_sent_twice_when_no_answer_comes(submit, emulator, cluster, monkeypatch):
    monkeypatch.setattr("aws.steps.make_once_client", make_lossy_client)
    lost = submit()
    assert lost.code == ExitCode.FAILED
    assert "may have been carried out or not: run the same command again" in lost.last_line
    assert submit().code == ExitCode.DONE
    assert len(steps_of(emulator, cluster)) == 1


def make_lossy_client(session):
    """A client whose requests are carried out, but whose answers get lost."""
    emr = session.client("emr", config=Config(retries={"total_max_attempts": 1}))

    def lose(**_):
        raise ReadTimeoutError(endpoint_url="https://emr")

    emr.meta.events.register("after-call.emr.AddJobFlowSteps", lose)
    return emr


# From nothing to nothing.


def test_create_and_terminate_after_leave_nothing_behind(submit, account):
    account.next_cluster = ClusterPlan(starting=5, bootstrapping=5)
    outcome = submit("--create", "--terminate-after")
    ((cluster_id, cluster),) = account.clusters.items()
    assert outcome.code == ExitCode.DONE
    assert cluster.state == "TERMINATED"
    assert "step PENDING, cluster STARTING" in outcome.err
    assert "step PENDING, cluster BOOTSTRAPPING" in outcome.err
    assert outcome.out == f"{cluster_id} {cluster.steps[0].id} COMPLETED\n"


def test_create_takes_the_cluster_that_is_there(submit, emulator, cluster):
    assert submit("--create").code == ExitCode.DONE
    assert list(emulator.clusters) == [cluster]


def test_a_created_cluster_is_ended_where_the_step_is_refused(submit, account):
    account.refuse("elasticmapreduce", "ValidationException", "no", operation="AddJobFlowSteps")
    outcome = submit("--create", "--terminate-after")
    assert outcome.code == ExitCode.FAILED
    assert outcome.last_line.endswith("AWS refused AddJobFlowSteps: no (ValidationException)")
    assert [cluster.state for cluster in account.clusters.values()] == ["TERMINATED"]


def test_a_created_cluster_that_does_not_start_shows_its_nodes_log(submit, account):
    account.next_cluster = ClusterPlan(
        failure="BOOTSTRAP_FAILURE",
        message="On the master instance (i-0a), bootstrap action 1 returned 1",
        logs={"node/i-0a/bootstrap-actions/1/stderr.gz": "pip: no such package\n"},
    )
    outcome = submit("--create", "--terminate-after")
    assert outcome.code == ExitCode.CLUSTER_DIED
    assert ": BOOTSTRAP_FAILURE: On the master" in outcome.err
    assert "pip: no such package" in outcome.err


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", "CANCELLED", "INTERRUPTED"])
def test_terminate_after_ends_the_cluster_however_the_step_ends(submit, emulator, cluster, state):
    emulator.next_step = StepPlan(outcome=state)
    submit("--terminate-after", "--log-wait", "0")
    assert emulator.clusters[cluster].state == "TERMINATED"


def test_without_terminate_after_the_cluster_stays(submit, emulator, cluster):
    submit()
    assert emulator.clusters[cluster].state == "WAITING"


def test_terminate_after_does_not_end_a_step_that_goes_on(submit, emulator, cluster):
    emulator.next_step = StepPlan(running=10**6)
    assert submit("--terminate-after", "--timeout", "0").code == ExitCode.STILL_RUNNING
    assert emulator.clusters[cluster].state in ACTIVE


def test_terminate_after_does_not_end_the_work_of_others(submit, emulator, cluster, session):
    emulator.clusters[cluster].request["StepConcurrencyLevel"] = 2
    emulator.next_step = StepPlan(running=10**6)
    other = build_command_step("other", "sleep", "600")
    (other_id,) = session.client("emr").add_job_flow_steps(JobFlowId=cluster, Steps=[other])[
        "StepIds"
    ]
    emulator.next_step = StepPlan()
    outcome = submit("--terminate-after")
    assert outcome.code == ExitCode.DONE
    assert f"{cluster} is not ended, it has other steps: {other_id}" in outcome.err
    assert emulator.clusters[cluster].state == "RUNNING"


def test_a_cluster_that_is_made_for_the_step_ends_whatever_happens_to_the_laptop(submit, account):
    account.next_step = StepPlan(running=10**6)
    outcome = submit("--create", "--terminate-after", "--timeout", "0")
    ((cluster_id, cluster),) = account.clusters.items()
    assert outcome.code == ExitCode.STILL_RUNNING
    assert "after its step the cluster ends itself\n" in outcome.err
    assert f"{cluster_id} ends itself after its step\n" in outcome.err
    assert cluster.request["Instances"]["KeepJobFlowAliveWhenNoSteps"] is False
    assert "AutoTerminationPolicy" not in cluster.request
    cluster.steps[0].plan = StepPlan(running=0)
    account.advance(9)
    assert cluster.state == "TERMINATED"


@pytest.mark.usefixtures("account")
def test_what_becomes_of_the_cluster_may_be_unknown(submit, emulator, monkeypatch):
    emulator.next_step = StepPlan(running=10**6)

    def expire(added, waiting):
        emulator.refuse("elasticmapreduce", "ExpiredTokenException", times=9)
        return look(added)

    monkeypatch.setattr(iac_submit_etl, "follow", expire)
    outcome = submit("--create", "--terminate-after")
    (cluster_id,) = emulator.clusters
    assert f"{cluster_id} may go on after the step: see get_cluster_status.py later" in outcome.err


def test_without_terminate_after_a_made_cluster_waits_for_more(submit, account):
    submit("--create")
    (cluster,) = account.clusters.values()
    assert cluster.request["Instances"]["KeepJobFlowAliveWhenNoSteps"] is True
    assert cluster.state == "WAITING"


@pytest.mark.parametrize(
    ("state", "end"), [("COMPLETED", ExitCode.DONE), ("FAILED", ExitCode.FAILED)]
)
def test_a_step_is_judged_by_its_own_end_where_the_cluster_ends_after_it(
    submit, account, session, state, end
):
    logs = {"steps/{step}/stderr.gz": STEP_LOG, f"{DRIVER}/stdout.gz": "etl.py: error: no rows\n"}
    account.next_step = StepPlan(outcome=state, logs=logs)
    account.next_cluster = ClusterPlan(terminating=0)
    outcome = submit("--create", "--terminate-after")
    assert outcome.code == end
    assert ("  etl.py: error: no rows" in outcome.err) == (end == ExitCode.FAILED)


def test_the_bucket_of_the_jobs_own_arguments_is_checked_before_a_cluster_is_made(submit, account):
    outcome = submit("--create", job=[*PATHS[:4], "--output", "s3://other-bucket/lake"])
    assert outcome.code == ExitCode.FAILED
    assert "there is no bucket other-bucket: add --set-up" in outcome.last_line
    assert not account.clusters


def test_a_made_cluster_that_emr_refuses_is_told_with_the_cure(submit, account):
    reason = "Amazon EC2 has insufficient capacity for instance type m5.xlarge"
    account.next_cluster = ClusterPlan(failure="VALIDATION_ERROR", message=reason)
    outcome = submit("--create")
    assert outcome.code == ExitCode.CLUSTER_DIED
    assert f"VALIDATION_ERROR: {reason}; AWS has none of these nodes to give now" in outcome.err


# Ctrl-C.


@pytest.fixture
def interrupted(monkeypatch):
    """The first look at a running step is cut off by Ctrl-C."""
    pressed = []

    def look_or_stop(target):
        seen = look(target)
        if seen[0]["Status"]["State"] == "RUNNING" and not pressed:
            pressed.append(True)
            raise KeyboardInterrupt
        return seen

    monkeypatch.setattr("aws.steps.look", look_or_stop)


@pytest.fixture
def keyboard(monkeypatch):
    """Make this process interactive, with what the user will type."""

    def type_in(answer):
        def answer_once():
            if isinstance(answer, str):
                return answer
            raise answer

        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", answer_once)

    return type_in


@pytest.mark.parametrize("answer", ["", "no", EOFError(), KeyboardInterrupt()])
@pytest.mark.usefixtures("interrupted")
def test_ctrl_c_can_leave_the_step_running(submit, emulator, cluster, keyboard, answer):
    emulator.next_step = StepPlan(running=10**6)
    keyboard(answer)
    outcome = submit("--terminate-after")
    (step,) = steps_of(emulator, cluster)
    assert outcome.code == ExitCode.CTRL_C
    assert "type c to cancel the step, or press Enter" in outcome.err
    assert (
        outcome.last_line
        == f"stopped; step {step.id} goes on: run the same command again to follow it"
    )
    assert step.state == "RUNNING"
    assert emulator.clusters[cluster].state == "RUNNING"


@pytest.mark.usefixtures("interrupted")
def test_ctrl_c_can_cancel_the_step_and_what_it_started(submit, emulator, cluster, keyboard):
    emulator.next_step = StepPlan(running=10**6)
    keyboard(" C ")
    outcome = submit()
    step, stop = steps_of(emulator, cluster)
    assert outcome.code == ExitCode.CANCELLED
    assert outcome.out == f"{cluster} {step.id} CANCELLED\n"
    assert f"cancelling {step.id}: SUBMITTED" in outcome.err
    assert stop.jar["Args"][:2] == ["bash", "-c"]
    assert f"-appTags {tag_of(step)} |" in stop.jar["Args"][2]


@pytest.mark.usefixtures("interrupted")
def test_cancelling_with_terminate_after_ends_the_cluster(submit, emulator, cluster, keyboard):
    emulator.next_step = StepPlan(running=10**6)
    keyboard("c")
    assert submit("--terminate-after").code == ExitCode.CANCELLED
    assert len(steps_of(emulator, cluster)) == 1
    assert emulator.clusters[cluster].state == "TERMINATED"


@pytest.mark.usefixtures("interrupted")
def test_without_a_terminal_ctrl_c_leaves_the_step_running(submit, emulator, cluster):
    emulator.next_step = StepPlan(running=10**6)
    outcome = submit()
    assert outcome.code == ExitCode.CTRL_C
    assert "type c" not in outcome.err
    assert "CancelSteps" not in emulator.operations()


def test_a_real_ctrl_c_leaves_the_step_running(emulator, cluster, config):
    emulator.next_step = StepPlan(running=10**6)
    command = [sys.executable, str(ROOT / "iac_submit_etl.py"), "--config", str(config)]
    command += ["--poll-seconds", "0.2", "--", *PATHS]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as script:
        told = [script.stderr.readline()]
        while "step RUNNING" not in told[-1]:
            assert script.poll() is None, told
            told.append(script.stderr.readline())
        script.send_signal(signal.SIGINT)
        rest = script.stderr.read()
    assert script.returncode == ExitCode.CTRL_C
    assert rest.endswith("goes on: run the same command again to follow it\n")
    assert "Traceback" not in rest


# Why a step failed.

TRACE = """26/11/20 13:00:00 INFO Client: started
Traceback (most recent call last):
  File "etl.py", line 3, in <module>
    main()
ValueError: no such table
26/11/20 13:00:01 INFO ShutdownHookManager: bye
"""
APPLICATION = "application_1700000000000_0001"
STEP_LOG = f"26/11/20 13:00:00 INFO YarnClientImpl: Submitted application {APPLICATION}\n"
DRIVER = f"containers/{APPLICATION}/container_1700000000000_0001_01_000001"


def test_a_failed_step_is_explained_by_its_drivers_log(submit, emulator, cluster):
    logs = {"steps/{step}/stderr.gz": STEP_LOG, f"{DRIVER}/stdout.gz": TRACE}
    emulator.next_step = StepPlan(outcome="FAILED", logs=logs, log_delay=6)
    outcome = submit()
    assert outcome.code == ExitCode.FAILED
    assert outcome.err.splitlines()[-7:] == [
        "waiting for the logs (EMR copies them within minutes; Ctrl-C skips this)",
        "  Traceback (most recent call last):",
        '    File "etl.py", line 3, in <module>',
        "      main()",
        "  ValueError: no such table",
        f"log: s3://{BUCKET}/logs/{cluster}/{DRIVER}/stdout.gz",
        "next: fix the cause, then run the same command again",
    ]


def test_the_cause_is_part_of_the_json(submit, emulator, cluster):
    logs = {"steps/{step}/stderr.gz": STEP_LOG, f"{DRIVER}/stdout.gz": "etl.py: error: no rows\n"}
    emulator.next_step = StepPlan(outcome="FAILED", logs=logs)
    told = json.loads(submit("--json").out)
    assert told["cause"] == ["etl.py: error: no rows"]
    assert told["next"] == "fix the cause, then run the same command again"
    assert told["log"] == f"s3://{BUCKET}/logs/{cluster}/{DRIVER}/stdout.gz"


def test_a_driver_without_memory_is_told_with_the_size_to_try(submit, emulator, cluster):
    line = (
        "Current usage: 2.4 GB of 2.4 GB physical memory used, beyond the 'PHYSICAL' memory limit"
    )
    log = f"{STEP_LOG} exited with  exitCode: -104\n{line}\n"
    emulator.next_step = StepPlan(outcome="FAILED", logs={"steps/{step}/stderr.gz": log})
    outcome = submit()
    assert outcome.err.splitlines()[-3] == f"  {line}"
    assert outcome.last_line == (
        'next: the driver had too little memory: add --spark-args "--conf spark.driver.memory=5g",'
        " or name larger core_types in [emr], such as m5.2xlarge"
    )


def test_a_path_that_the_nodes_role_does_not_name_is_told_with_the_command(
    submit, emulator, cluster
):
    line = (
        "etl.py: error: cannot look up s3://other/lake/_etl/LOCK: java.nio.file.AccessDenied"
        "Exception: s3://other/lake/_etl/LOCK: Forbidden (Service: S3, Status Code: 403, ...)"
    )
    logs = {"steps/{step}/stderr.gz": STEP_LOG, f"{DRIVER}/stdout.gz": f"{line}\n"}
    emulator.next_step = StepPlan(outcome="FAILED", logs=logs)
    outcome = submit()
    assert outcome.err.splitlines()[-3] == f"  {line}"
    assert outcome.last_line == (
        "next: the nodes' role may use only the paths that dl.cfg named when it was made: run"
        " iac_create.py --create-roles with the paths of now, then the same command again"
    )


def test_emrs_own_reason_and_log_are_told_first(submit, emulator, cluster):
    details = {"Reason": "Unknown Error.", "Message": "it broke", "LogFile": "s3://b/stderr.gz"}
    emulator.next_step = StepPlan(outcome="FAILED", details=details)
    outcome = submit("--log-wait", "0")
    (step,) = steps_of(emulator, cluster)
    told = f"step {step.id} is FAILED: Unknown Error.: it broke (s3://b/stderr.gz)"
    assert told in outcome.err.splitlines()


def test_logs_that_never_come_are_not_waited_for_endlessly(submit, emulator, cluster):
    emulator.next_step = StepPlan(outcome="FAILED")
    outcome = submit("--log-wait", "0.005")
    assert outcome.code == ExitCode.FAILED
    assert outcome.last_line == (
        "the logs do not name the cause yet; look again in some minutes:"
        f" s3://{BUCKET}/logs/{cluster}/"
    )


def test_without_the_drivers_log_the_steps_own_is_told_as_second_best(submit, emulator, cluster):
    log = STEP_LOG + "Error: the application was lost\n"
    emulator.next_step = StepPlan(outcome="FAILED", logs={"steps/{step}/stderr.gz": log})
    outcome = submit("--log-wait", "0.005")
    assert "  Error: the application was lost" in outcome.err
    assert "the driver's log does not exist yet" in outcome.err


def test_the_second_best_is_not_taken_while_the_drivers_log_may_still_come(
    submit, emulator, cluster, monkeypatch
):
    log = STEP_LOG + "Error: the application was lost\n"
    emulator.next_step = StepPlan(outcome="FAILED", logs={"steps/{step}/stderr.gz": log})

    def find_and_bring(*given):
        found = find_cause(*given)
        if found:
            emulator.put_logs(cluster, {f"{DRIVER}/stdout.gz": "etl.py: error: no rows\n"})
        return found

    monkeypatch.setattr("aws.logs.find_cause", find_and_bring)
    outcome = submit()
    assert "  etl.py: error: no rows" in outcome.err
    assert "the application was lost" not in outcome.err


def test_ctrl_c_skips_the_wait_for_the_logs(submit, emulator, cluster, monkeypatch):
    emulator.next_step = StepPlan(outcome="FAILED")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("aws.logs.find_cause", interrupt)
    outcome = submit("--terminate-after")
    assert outcome.code == ExitCode.FAILED
    assert "the logs do not name the cause yet" in outcome.err
    assert emulator.clusters[cluster].state == "TERMINATED"


def test_logs_that_may_not_be_read_are_said_to_be_so(submit, emulator, cluster, monkeypatch):
    emulator.next_step = StepPlan(outcome="FAILED")

    def deny(*given):
        emulator.refuse("s3", "AccessDenied", "no", status=403, times=5)
        return explain_end(*given)

    monkeypatch.setattr(iac_submit_etl, "explain_end", deny)
    outcome = submit()
    assert outcome.code == ExitCode.FAILED
    assert "the logs cannot be read: not allowed to ListObjectsV2: no" in outcome.err


def test_a_cluster_without_logs_is_said_to_have_none(submit, emulator, cluster, monkeypatch):
    emulator.next_step = StepPlan(outcome="FAILED")

    def look_without_logs(target):
        step, seen = look(target)
        return step, {key: value for key, value in seen.items() if key != "LogUri"}

    monkeypatch.setattr("aws.steps.look", look_without_logs)
    assert submit().last_line.startswith("the cluster keeps no logs: set log_uri in dl.cfg")


# Secrets.


KEYS = f"[aws]\naccess_key_id = AKIACANARY\nsecret_access_key = {SECRET}\nsession_token =\n"


def test_no_key_leaves_the_process_but_as_a_signature(
    submit, emulator, cluster, config, monkeypatch
):
    keys = config.with_name("keys.cfg")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{SECRET}-environment")
    for held in ("", KEYS):
        keys.write_text(held)
        keys.chmod(0o600)
        outcome = submit("--keys", str(keys), job=[*PATHS[:4], "--output", f"{LAKE}{len(held)}"])
        assert outcome.code == ExitCode.DONE
        assert SECRET not in outcome.out + outcome.err
    sent = [repr((request.path, request.headers, request.body)) for request in emulator.requests]
    assert any("AKIACANARY" in text for text in sent)  # else the keys were not even used
    assert not [text for text in sent if SECRET in text]
