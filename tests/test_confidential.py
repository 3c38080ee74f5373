"""No script takes a secret from dl.cfg, the environment or a flag, and none shows one."""

from __future__ import annotations

import pytest

import configs
import etl
from configs import DL_CFG, ConfigError, load_emr_config, load_etl_config
from lake.confidential import holds_secret, is_secret

VALUE = "hunter2/Xy+z"


@pytest.mark.parametrize(
    "name",
    [
        "fs.s3a.secret.key",
        "fs.s3a.access.key",
        "fs.s3a.session.token",
        "fs.s3a.bucket.mine.access.key",
        "fs.azure.account.key",
        "fs.azure.account.key.mine.blob.core.windows.net.account.key",
        "fs.s3a.server-side-encryption.key",
        "fs.s3a.encryption.key",
        "spark.hadoop.fs.s3a.secret.key",
        "spark.ssl.keyPassword",
        "spark.ssl.keyStorePassword",
        "spark.authenticate.secret",
        "db_pass",
        "passphrase",
        "aws_secret_access_key",
        "AWS_ACCESS_KEY_ID",
        "apiKey",
        "credentials",
        "PASSWORD",
    ],
)
def test_a_name_tells_a_secret(name):
    assert is_secret(name, VALUE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fs.s3a.aws.credentials.provider", "org.apache.Provider"),
        ("spark.shuffle.sort.bypassMergeThreshold", "200"),
        ("key_pair", "mine"),
        ("compass", "north"),
        ("monkey", "see"),
        ("spark.security.credentials.hive.enabled", "false"),
        ("fs.s3a.encryption.key", "arn:aws:kms:us-west-2:1:key/2"),
        ("fs.s3a.encryption.algorithm", "SSE-KMS"),
        ("fs.s3a.connection.maximum", "100"),
        ("secret", ""),
    ],
)
def test_other_names_do_not(name, value):
    assert not is_secret(name, value)


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        ("s3a://ID:hunter2@bucket/x", True),
        ("s3a://ID:hun/ter2@bucket/x", True),
        ("https://:hunter2@host", True),
        ("-Dx=1 -Djavax.net.ssl.trustStorePassword=hunter2", True),
        ("200\nfs.s3a.secret.key = hunter2", True),
        ("200\npassword: hunter2", True),
        ("AKIAIOSFODNN7EXAMPLE", True),
        ("s3://bucket/a@b/2018:11@x", False),
        ("hdfs://namenode:8020/a@b", False),
        ("hdfs://namenode:8020", False),
        ("abfss://container@account.dfs.core.windows.net/lake", False),
        ("-Dx=1 -XX:+UseG1GC", False),
    ],
)
def test_a_value_tells_one(value, is_one):
    assert holds_secret(value) == is_one


def cfg(tmp_path, section, line):
    path = tmp_path / "dl.cfg"
    text = DL_CFG.read_text(encoding="utf-8")
    path.write_text(text.replace(f"[{section}]\n", f"[{section}]\n{line}\n"), encoding="utf-8")
    return path


@pytest.mark.parametrize("load", [load_etl_config, load_emr_config])
@pytest.mark.parametrize(
    ("section", "line", "where"),
    [
        ("s3", f"fs.s3a.secret.key = {VALUE}", "[s3] fs.s3a.secret.key is or holds a secret"),
        ("spark", f"spark.x = 1\n  fs.s3a.secret.key = {VALUE}", "[spark] spark.x is or holds"),
        ("spark", f"# spark.password = {VALUE}", "a comment holds a secret"),
        ("tags", f"; note: AKIAIOSFODNN7EXAMPLE {VALUE}", "a comment holds a secret"),
        ("tags", f"home = https://me:{VALUE}@host/", "[tags] home is or holds a secret"),
    ],
)
def test_every_script_refuses_a_secret_in_dl_cfg_and_does_not_show_it(
    tmp_path, load, section, line, where
):
    with pytest.raises(ConfigError) as refusal:
        load(cfg(tmp_path, section, line))
    assert where in str(refusal.value)
    assert "keys belong in keys.cfg" in str(refusal.value)
    assert VALUE not in str(refusal.value)


def test_what_ships_is_accepted():
    configs.refuse_secrets(DL_CFG.read_text(encoding="utf-8"), "dl.cfg")


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_a_path_with_a_password_is_refused_and_not_shown(tmp_path, monkeypatch, capsys, how):
    uri = f"s3a://ID:{VALUE}@bucket/x"
    monkeypatch.setenv("SPARKIFY_ETL_LOG_DATA", uri if how == "variable" else "")
    flags = [f"--log-data={uri}"] if how == "flag" else []
    assert etl.main([*flags, f"--output={tmp_path}/lake"]) == 2
    told = "".join(capsys.readouterr())
    assert "holds a key or a password: keys belong in keys.cfg" in told
    assert VALUE not in told
    assert not (tmp_path / "lake").exists()
