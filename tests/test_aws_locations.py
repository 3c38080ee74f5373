"""The S3 paths that follow from one bucket: the rule, and what the scripts say and send of it."""

from __future__ import annotations

import dataclasses
import json

import pytest

import get_cluster_status
import iac_create
import iac_submit_etl
from aws.code import load_job_config
from aws.locations import ON_THE_LAPTOP, build_job_flags, build_locations
from configs import DL_CFG, load_emr_config, load_etl_config
from tests.aws_fixtures import *  # noqa: F403 (fixtures)

OWN = "sparkify-123456789012-eu-central-1"


def shipped(**changes):
    emr, etl = load_emr_config(DL_CFG, environ={}), load_etl_config(DL_CFG, environ={})
    in_emr = {key: value for key, value in changes.items() if hasattr(emr, key)}
    in_etl = {key: value for key, value in changes.items() if hasattr(etl, key)}
    return dataclasses.replace(emr, **in_emr), dataclasses.replace(etl, **in_etl)


def paths(emr, etl):
    return emr.code_uri, emr.log_uri, etl.song_data, etl.log_data, etl.output


def test_all_five_paths_of_the_shipped_dl_cfg_follow_from_the_bucket():
    assert paths(*build_locations(*shipped(), "b")) == (
        "s3://b/code",
        "s3://b/logs",
        "s3://b/song_data",
        "s3://b/log_data",
        "s3://b/lake",
    )


@pytest.mark.parametrize("key", ["code_uri", "log_uri", "song_data", "log_data", "output"])
def test_a_path_that_is_set_stays_and_the_others_follow(key):
    rest = dict(
        zip(["code_uri", "log_uri", *ON_THE_LAPTOP], paths(*build_locations(*shipped(), "b")))
    )
    located = paths(*build_locations(*shipped(**{key: "s3://mine/x"}), "b"))
    assert located == tuple({**rest, key: "s3://mine/x"}.values())


def test_a_local_path_that_is_not_the_shipped_one_stays():
    _, etl = build_locations(*shipped(song_data="data/songs"), "b")
    assert etl.song_data == "data/songs"


def test_the_paths_that_the_bucket_stands_for_are_those_of_the_shipped_dl_cfg():
    etl = load_etl_config(DL_CFG, environ={})
    assert {key: getattr(etl, key) for key in ON_THE_LAPTOP} == ON_THE_LAPTOP


def test_the_job_gets_only_the_paths_that_follow_from_the_bucket():
    emr, etl = shipped(output="s3://mine/lake")
    _, located = build_locations(emr, etl, "b")
    assert build_job_flags(etl, located) == [
        *("--song-data", "s3://b/song_data"),
        *("--log-data", "s3://b/log_data"),
    ]


# What the scripts make of it.


@pytest.fixture
def zero_edits(run, monkeypatch):
    """Run a script on the shipped dl.cfg, in the region of the user's AWS settings."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")

    def run_shipped(main, *arguments):
        return run(main, "--config", str(DL_CFG), *arguments)

    return run_shipped


def test_region_and_bucket_are_said_before_anything_is_made(emulator, zero_edits):
    outcome = zero_edits(iac_create.main, "--set-up")
    assert outcome.code == 0
    assert outcome.err.splitlines()[:3] == [
        "region eu-central-1, from your AWS settings; [emr] region names another",
        f"bucket {OWN}, named for your account and region; [emr] bucket names another",
        f"created bucket {OWN}",
    ]
    (cluster,) = emulator.clusters.values()
    assert (cluster.region, cluster.request["LogUri"]) == ("eu-central-1", f"s3://{OWN}/logs/")


def test_without_set_up_no_bucket_is_made(emulator, zero_edits, session):
    outcome = zero_edits(iac_create.main)
    assert outcome.code == 1
    assert f"there is no bucket {OWN}" in outcome.last_line
    assert session.client("s3").list_buckets()["Buckets"] == []


def test_a_bucket_and_a_region_that_are_set_are_not_said(emulator, run):
    outcome = run(iac_create.main, "--set-up")
    assert outcome.code == 0
    assert "AWS settings" not in outcome.err
    assert "account and region" not in outcome.err


def test_the_step_reads_and_writes_the_bucket_unless_its_arguments_say_otherwise(
    emulator, zero_edits
):
    outcome = zero_edits(iac_submit_etl.main, "--dry-run", "--", "--output", "s3://mine/lake")
    args = json.loads(outcome.out)["step"]["HadoopJarStep"]["Args"]
    job = args[args.index("--song-data") :]
    bucket = "sparkify-123456789012-us-west-2"  # a dry run asks AWS nothing
    assert job == [
        *("--song-data", f"s3://{bucket}/song_data"),
        *("--log-data", f"s3://{bucket}/log_data"),
        *("--output", "s3://mine/lake"),
    ]
    assert not emulator.requests


def test_a_path_of_the_environment_is_not_overridden(emulator, zero_edits, monkeypatch):
    monkeypatch.setenv("SPARKIFY_ETL_OUTPUT", "s3://mine/lake")
    outcome = zero_edits(iac_submit_etl.main, "--dry-run")
    assert "--output" not in json.loads(outcome.out)["step"]["HadoopJarStep"]["Args"]
    assert load_job_config(DL_CFG, []).output == "s3://mine/lake"


def test_a_region_of_the_environment_is_taken_by_either_name(emulator, zero_edits, monkeypatch):
    monkeypatch.setenv("AWS_REGION", "eu-west-1")  # as other SDKs and the AWS CLI call it
    assert "region eu-west-1, from your" in zero_edits(get_cluster_status.main).err


def test_no_region_at_all_is_one_line_with_its_cure(emulator, zero_edits, monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    outcome = zero_edits(get_cluster_status.main)
    assert (outcome.code, outcome.err) == (
        2,
        "get_cluster_status.py: error: no region: your AWS profile names none;"
        " add --region, or set it in [emr]\n",
    )


# Profiles.


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    """A profile of the user's, as aws configure writes it."""
    (tmp_path / "aws").write_text(
        "[profile work]\nregion = eu-west-3\n"
        "aws_access_key_id = AKIAWORK\naws_secret_access_key = of-work\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))


@pytest.mark.parametrize("script", [get_cluster_status, iac_create, iac_submit_etl])
@pytest.mark.usefixtures("profiles")
def test_each_script_takes_a_profile_with_its_keys_and_its_region(
    emulator, run, tmp_path, monkeypatch, script
):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    keys = tmp_path / "mine.cfg"
    keys.write_text("[aws]\naccess_key_id = AKIAFILE\nsecret_access_key = x\nsession_token =\n")
    files = ("--config", str(DL_CFG), "--keys", str(keys))
    run(script.main, *files, "--profile", "work")
    assert emulator.requests
    signed = {request.headers["Authorization"] for request in emulator.requests}
    assert all("Credential=AKIAWORK/" in text for text in signed)
    assert all("/eu-west-3/" in text for text in signed if "/elasticmapreduce/" in text)


def test_a_profile_that_does_not_exist_is_one_line(emulator, run, profiles):
    outcome = run(get_cluster_status.main, "--profile", "home")
    assert outcome.code == 1
    assert "profile (home) could not be found" in outcome.err
    assert outcome.err.count("\n") == 1
