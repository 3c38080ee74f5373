"""The cluster's settings and the AWS keys: dl.cfg's sections, keys.cfg, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest

from aws.catalog import load_catalog_config
from configs import (
    DL_CFG,
    KEYS_CFG,
    SECTIONS,
    AwsKeys,
    ConfigError,
    EmrConfig,
    Settings,
    load_aws_keys,
    load_emr_config,
    load_etl_config,
)


def write(tmp_path, text, name="dl.cfg"):
    path = tmp_path / name
    path.write_text(text)
    return path


def shipped(tmp_path, old="", new=""):
    text = DL_CFG.read_text()
    assert old in text
    return write(tmp_path, text.replace(old, new, 1))


def load(path, flags=None, environ=None):
    return load_emr_config(path, flags, environ or {})


def test_the_shipped_dl_cfg_loads_and_names_every_section():
    config = load(DL_CFG)

    assert (config.region, config.cluster_name) == ("", "sparkify")
    assert config.idle_minutes == 60
    assert config.spark == {"spark.yarn.maxAppAttempts": "1"}
    assert set(Settings(DL_CFG, {}).file.sections()) == set(SECTIONS)


def test_the_shipped_dl_cfg_names_nobodys_bucket():
    config = load(DL_CFG)

    assert (config.bucket, config.code_uri, config.log_uri) == (None, None, None)


def test_a_flag_beats_the_environment_and_that_beats_the_file():
    environ = {"SPARKIFY_EMR_CORE_COUNT": "3", "SPARKIFY_EMR_DISK_GB": "100"}

    config = load(DL_CFG, {("emr", "core_count"): "4"}, environ)

    assert (config.core_count, config.disk_gb, config.task_count) == (4, 100, 0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bucket", "s3://my-bucket"),
        ("bucket", "My_Bucket"),
        ("code_uri", "my-bucket/code"),
        ("code_uri", "s3://My_Bucket/code"),
        ("log_uri", "https://my-bucket"),
        ("applications", " , "),
        ("master_types", ""),
        ("core_count", "0"),
        ("task_count", "-1"),
        ("spot", "master"),
        ("spot_wait_minutes", "4"),
        ("scaling_minimum", "none"),
        ("disk_gb", "ten"),
        ("service_role", ""),
        ("idle_minutes", "0"),
        ("idle_minutes", "10081"),
        ("idle_minutes", ""),
        ("termination_protection", "maybe"),
        ("step_concurrency", "257"),
    ],
)
def test_a_value_that_emr_could_not_take_is_refused_with_its_place(key, value):
    with pytest.raises(ConfigError, match=rf"the flag for \[emr\] {key} = .*: expected \w+"):
        load(DL_CFG, {("emr", key): value})


@pytest.mark.parametrize(
    ("key", "value", "parsed"),
    [
        ("code_uri", "s3://my-bucket/code/", "s3://my-bucket/code"),
        ("log_uri", "s3://my-bucket", "s3://my-bucket"),
        ("core_types", "m5.xlarge, m5a.xlarge", ("m5.xlarge", "m5a.xlarge")),
        ("spot", "core, task", ("core", "task")),
        ("subnet_ids", "subnet-1,subnet-2", ("subnet-1", "subnet-2")),
        ("key_pair", "mine", "mine"),
        ("key_pair", "", None),
        ("termination_protection", "Yes", True),
        ("idle_minutes", "10080", 10080),
    ],
)
def test_values_are_parsed(key, value, parsed):
    assert getattr(load(DL_CFG, {("emr", key): value}), key) == parsed


@pytest.mark.parametrize("limits", [("2", ""), ("", "2"), ("3", "2")])
def test_half_a_scaling_policy_or_one_upside_down_is_refused(limits):
    flags = {("emr", "scaling_minimum"): limits[0], ("emr", "scaling_maximum"): limits[1]}

    with pytest.raises(ConfigError, match="scaling_minimum and scaling_maximum: expected both"):
        load(DL_CFG, flags)


def test_both_scaling_limits_are_taken():
    config = load(DL_CFG, {("emr", "scaling_minimum"): "2", ("emr", "scaling_maximum"): "2"})

    assert (config.scaling_minimum, config.scaling_maximum) == (2, 2)


def test_free_sections_are_taken_as_they_are(tmp_path):
    path = shipped(
        tmp_path,
        "[tags]",
        "fs.s3a.connection.maximum = 200\n[tags]\nOwner = data team\nblank =\n",
    )

    config = load(path)

    assert config.s3 == {"fs.s3a.connection.maximum": "200"}
    assert config.tags == {"Owner": "data team", "blank": ""}


@pytest.mark.parametrize(
    ("section", "key", "prefix"), [("spark", "executor.memory", "spark."), ("s3", "s3a.x", "fs.")]
)
def test_a_setting_that_spark_would_ignore_is_refused(tmp_path, section, key, prefix):
    path = shipped(tmp_path, f"[{section}]", f"[{section}]\n{key} = 1")

    with pytest.raises(ConfigError, match=rf"\[{section}\] {key} must begin with {prefix}"):
        load(path)


def test_prices_are_dollars_an_hour(tmp_path):
    assert load(shipped(tmp_path, "[prices]", "[prices]\nr5.xlarge = 0.5")).prices == {
        "r5.xlarge": 0.5,
        "m5.xlarge": 0.24,
    }
    path = shipped(tmp_path, "[prices]", "[prices]\nr5.xlarge = $1")
    with pytest.raises(ConfigError, match=r"\[prices\] r5.xlarge = '\$1': expected dollars"):
        load(path)


@pytest.mark.parametrize("loader", [load, load_etl_config, load_catalog_config])
@pytest.mark.parametrize(
    ("section", "hint"),
    [("tag", "did you mean tags?"), ("AWS", "AWS keys belong in keys.cfg, under [aws]")],
)
def test_an_unknown_section_is_refused_by_every_script(tmp_path, loader, section, hint):
    path = shipped(tmp_path, "[tags]", f"[{section}]\nKEY = hush")

    with pytest.raises(ConfigError) as caught:
        loader(path)

    assert str(caught.value) == f"{path}: section [{section}] is unknown; {hint}"


def test_an_unknown_key_is_refused(tmp_path):
    path = shipped(tmp_path, "idle_minutes =", "idle_minuts =")

    with pytest.raises(ConfigError, match=r"idle_minuts is unknown; did you mean idle_minutes\?"):
        load(path)


def test_every_setting_of_the_cluster_stands_in_the_shipped_file_with_its_reason_or_value():
    fields = [field.name for field in dataclasses.fields(EmrConfig) if field.metadata]

    assert Settings(DL_CFG, {}).keys("emr") == fields


def test_the_committed_keys_cfg_is_blank_and_means_boto3s_own_chain():
    assert load_aws_keys(KEYS_CFG) is None


def test_a_missing_keys_cfg_means_boto3s_own_chain_only_where_none_was_asked_for(
    tmp_path, monkeypatch
):
    missing = tmp_path / "keys.cfg"
    monkeypatch.setattr("configs.KEYS_CFG", missing)
    assert load_aws_keys(missing) is None

    with pytest.raises(ConfigError, match=r"other\.cfg: no such file"):
        load_aws_keys(tmp_path / "other.cfg")


KEYS = "[aws]\naccess_key_id = AKIA\nsecret_access_key = hush%hush\nsession_token =\n"


def test_filled_keys_are_read_and_their_secrets_never_shown(tmp_path):
    keys = load_aws_keys(write(tmp_path, KEYS))

    assert keys == AwsKeys("AKIA", "hush%hush", None)
    assert "hush" not in repr(keys)
    token = load_aws_keys(write(tmp_path, KEYS.replace("token =", "token = hush-token")))
    assert token.session_token == "hush-token"
    assert "hush" not in repr(token)


def test_half_filled_keys_name_the_missing_half_and_not_the_other(tmp_path):
    path = write(tmp_path, KEYS.replace("access_key_id = AKIA", "access_key_id ="))

    with pytest.raises(ConfigError, match=r"access_key_id = '': expected an access key") as caught:
        load_aws_keys(path)

    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["hush-secret\n", "[aws]\nhush-secret\n", "[aws]\naccess_key_id = x\nhush-secret\n"]
)
def test_a_secret_on_a_malformed_line_is_not_shown(tmp_path, text):
    line = text.count("\n")

    with pytest.raises(ConfigError, match=rf"line {line}: expected key = value") as caught:
        load_aws_keys(write(tmp_path, text))

    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_environment_cannot_stand_in_for_keys_cfg(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARKIFY_AWS_ACCESS_KEY_ID", "AKIA-OTHER")

    assert load_aws_keys(write(tmp_path, KEYS)).access_key_id == "AKIA"
