"""What a path may look like, and what is said of one that no store could be meant by."""

from __future__ import annotations

from pathlib import Path

import pytest

import etl
from configs import ConfigError, load_etl_config
from lake.listing import describe_missing
from lake.paths import readable
from lake.storage import HadoopStorage, StorageError
from tests.factories import event, song, write_input

WRONG = [
    "https://host/song_data",
    "http://host/song_data",
    "s3:/bucket/log",
    "s3://",
    "s3a:///log",
    "C:\\lake",
    "C:/lake",
    "a.json,b.json",
    "s3://bucket/a,s3://bucket/b",
]


@pytest.mark.parametrize("key", ["song_data", "log_data", "output"])
@pytest.mark.parametrize("path", WRONG)
def test_a_path_of_no_store_says_what_is_expected(key, path):
    with pytest.raises(ConfigError, match=rf"\[etl\] {key} = .*: expected .* URI such as s3://buc"):
        load_etl_config(flags={("etl", key): path}, environ={})


@pytest.mark.parametrize(
    "path",
    ["in", "/in/*/x", "/in/{a,b}", "s3://b", "s3a://b/a,b", "hdfs:///in", "file:/in", "2018:11/x"],
)
def test_other_paths_are_taken_as_they_are(path):
    assert load_etl_config(flags={("etl", "log_data"): path}, environ={}).log_data == path


def test_a_folder_with_a_comma_in_its_name_is_one(tmp_path):
    folder = tmp_path / "a,b"
    folder.mkdir()
    config = load_etl_config(flags={("etl", "log_data"): str(folder)}, environ={})
    assert config.log_data == str(folder)


def test_a_tilde_is_the_users_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = load_etl_config(flags={("etl", "log_data"): "~/x"}, environ={})
    assert config.log_data == "/home/me/x"


def test_an_output_that_is_a_file_is_a_usage_error(tmp_path, capsys):
    (tmp_path / "lake").write_text("mine")
    assert etl.main([f"--output={tmp_path}/lake"]) == 2
    assert (
        "/lake': expected a folder or a URI such as s3://bucket/lake, not a file"
        in capsys.readouterr().err
    )
    assert (tmp_path / "lake").read_text() == "mine"


def test_a_log_that_does_not_exist_is_told_before_songs_are_read(
    spark, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(etl, "read_source", lambda *_: pytest.fail("a source was read"))
    flags = write_input(tmp_path, [song()], [event()])
    assert etl.main([*flags, "--log-data=/nowhere/at/all"]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == "etl.py: error: log_data: cannot read /nowhere/at/all: it does not exist"


def test_a_bucket_that_does_not_exist_is_said_in_plain_words():
    error = StorageError("UnknownStoreException: `s3a://b/x': ... request id ... NoSuchBucket ...")
    assert describe_missing("s3://b/x", error) == (
        "bucket b does not exist: check the spelling of s3://b/x"
    )


def test_a_store_that_cannot_be_opened_is_named(spark):
    # PySpark makes an error of its own of some of Java's, such as this IllegalArgumentException.
    with pytest.raises(StorageError, match=r"^cannot open hdfs://nowhere\.invalid/x: .*nowhere"):
        HadoopStorage(spark, "hdfs://nowhere.invalid/x")


def test_paths_are_printed_as_a_shell_takes_them(spark, tmp_path, capsys):
    folder = tmp_path / "my data"
    flags = [*write_input(folder, [song()], [event(), "hello"]), "--max-rejected-percent=50"]
    assert etl.main([*flags, "--show=1"]) == 0
    told = "".join(capsys.readouterr())
    assert "file:" not in told
    assert "%20" not in told
    (rejects,) = [line for line in told.splitlines() if "rejected records are in" in line]
    assert Path(rejects.partition(" are in ")[2]).is_dir()


def test_a_local_uri_becomes_a_path_and_others_stay():
    assert readable("file:/a b/c") == readable("file:///a b/c") == "/a b/c"
    assert readable("s3://b/c") == "s3://b/c"
