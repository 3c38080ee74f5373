"""--sample and --upload: which files go where, which are uploaded again, and what is said."""

from __future__ import annotations

import zipfile

import pytest

import iac_submit_etl
from aws.session import AwsError
from aws.upload import SAMPLE, build_etag, find_data, find_sample, is_stored, upload_data
from configs import DL_CFG, ConfigError, load_etl_config
from tests.aws_fixtures import *  # noqa: F403 (fixtures)
from tests.aws_fixtures import BUCKET, REGION

SONG = f"{BUCKET}/song_data/A/one.json"
SONGS, LOGS = f"s3://{BUCKET}/song_data", f"s3://{BUCKET}/log_data"
PATHS = {("etl", "song_data"): SONGS, ("etl", "log_data"): LOGS, ("etl", "output"): "s3://b/lake"}


@pytest.fixture
def etl():
    return load_etl_config(DL_CFG, PATHS, environ={})


@pytest.fixture
def s3(session):
    client = session.client("s3")
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    return client


@pytest.fixture
def folder(tmp_path):
    """A user's own files, nested and compressed, and what every computer leaves beside them."""
    files = {
        "song_data/A/one.json": b"{}",
        "song_data/.DS_Store": b"x",
        "log_data/2018/day.json.gz": b"gzip",
        "log_data/_old/day.json": b"old",
        "log_data/day.json~": b"a copy of an editor",
        "song_data/Thumbs.db": b"x",
        "notes.txt": b"not data",
    }
    for name, content in files.items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_bytes(content)
    return tmp_path / "mine"


def stored(s3):
    listed = s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return {
        entry["Key"]: s3.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
        for entry in listed
    }


def test_the_sample_goes_from_its_archives_to_the_sources_whole(s3, etl):
    upload_data(s3, find_sample(etl))
    expected = {}
    for name in ("song-data.zip", "log-data.zip"):
        with zipfile.ZipFile(SAMPLE / name) as archive:
            paths = [path for path in archive.namelist() if not path.endswith("/")]
            expected |= {path: archive.read(path) for path in paths}
    assert stored(s3) == expected
    assert len(expected) == 128


def test_a_folder_goes_to_the_sources_without_what_the_job_passes_over(s3, etl, folder):
    upload_data(s3, find_data(folder, etl))
    assert stored(s3) == {"song_data/A/one.json": b"{}", "log_data/2018/day.json.gz": b"gzip"}


def test_one_of_the_two_sources_is_enough(etl, folder):
    (folder / "song_data").rename(folder / "other")
    assert [file.uri for file in find_data(folder, etl)] == [f"{LOGS}/2018/day.json.gz"]


def test_a_folder_with_neither_source_is_refused(etl, tmp_path):
    with pytest.raises(ConfigError, match="expected a folder with song_data and log_data in it"):
        find_data(tmp_path, etl)


def test_a_pattern_cannot_be_uploaded_to():
    paths = {**PATHS, ("etl", "log_data"): f"{LOGS}/2018/*"}
    with pytest.raises(ConfigError, match=r"\[etl\] log_data = .* is a pattern"):
        find_sample(load_etl_config(DL_CFG, paths, environ={}))


def test_only_what_is_new_or_changed_is_uploaded_again(s3, etl, folder, capsys):
    assert upload_data(s3, find_data(folder, etl)) == 2
    assert upload_data(s3, find_data(folder, etl)) == 0
    (folder / "song_data/A/one.json").write_bytes(b"[]")  # of the same size
    (folder / "song_data/A/two.json").write_bytes(b"{}")
    capsys.readouterr()
    assert upload_data(s3, find_data(folder, etl)) == 2
    assert stored(s3)["song_data/A/one.json"] == b"[]"
    told = capsys.readouterr().err
    assert told.endswith("uploaded 2 of 3 data files, 4 B; the rest is there already\n")
    assert "uploading 2 data files (1 done)\n" in told


@pytest.mark.parametrize("size", [0, 1, 6 * 2**20 - 1, 6 * 2**20, 13 * 2**20])
def test_the_etag_is_the_one_that_s3_gives_a_file_in_parts(s3, etl, folder, monkeypatch, size):
    monkeypatch.setattr("aws.upload.PART_BYTES", 6 * 2**20)
    monkeypatch.setattr("aws.upload.TRANSFER.multipart_threshold", 6 * 2**20)
    monkeypatch.setattr("aws.upload.TRANSFER.multipart_chunksize", 6 * 2**20)
    path = folder / "log_data" / "large.json"
    path.write_bytes(b"x" * size)
    (large,) = [file for file in find_data(folder, etl) if file.path == path]
    upload_data(s3, [large])
    found = s3.head_object(Bucket=BUCKET, Key="log_data/large.json")
    assert found["ETag"].strip('"') == build_etag(large)
    assert found["ETag"].endswith('-3"') == (size == 13 * 2**20)


def test_a_file_of_another_size_is_not_read_to_tell(etl, folder):
    (file, *_) = find_data(folder, etl)
    file.path.unlink()
    assert not is_stored(file, {file.uri: (file.size + 1, "etag")})


def test_a_file_that_is_gone_meanwhile_is_named(s3, etl, folder):
    files = find_data(folder, etl)
    files[0].path.unlink()
    with pytest.raises(AwsError, match=r"one\.json: cannot be read: No such file or directory"):
        upload_data(s3, files)


def test_a_refused_upload_is_one_line_and_adds_no_step(emulator, s3, run, folder):
    emulator.refuse("s3", "AccessDenied", "no", operation=f"PUT /{SONG}", status=403)
    outcome = run(iac_submit_etl.main, "--create", "--upload", str(folder))
    assert outcome.code == 1
    assert outcome.last_line.startswith("iac_submit_etl.py: error: not allowed to PutObject: no;")
    assert "RunJobFlow" not in emulator.operations()
