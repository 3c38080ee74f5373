"""Publishing on S3 through the real S3A connector, while S3 refuses, loses answers and hangs."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pyspark import SparkContext

import etl
from lake import lock, paths
from lake.lock import LockedError
from lake.published import ForeignFilesError
from lake.storage import HadoopStorage, StorageError
from tests.factories import TS, event, read_lake, song, write_input
from tests.fault_summary import tried
from tests.faults import assert_nothing_lost, lake_rows
from tests.s3 import s3_settings
from tests.s3_faults import BUCKET, S3Lake, client, faulty_s3, hadoop_with_s3, keys_of

OLD = lake_rows("old", songs={"year=1999": 1, "year=2001": 1}, songplays={"year=2018/month=11": 2})
NEW = lake_rows(
    "new", songs={"year=2001": 1}, time={"year=2018": 1}, songplays={"year=2018/month=11": 3}
)
ROOT = Path(etl.__file__).parent


@pytest.fixture(scope="module")
def s3():
    """An S3 with faults, and its endpoint."""
    with faulty_s3() as server_and_endpoint:
        yield server_and_endpoint


@pytest.fixture(scope="module")
def server(s3):
    """The S3 to inject faults into."""
    return s3[0]


@pytest.fixture(scope="module")
def boto(s3):
    """The test's own way to the bucket."""
    return client(s3[1])


@pytest.fixture(scope="module")
def hadoop(s3):
    """As much of a session as publishing needs."""
    with hadoop_with_s3(s3[1]) as session:
        yield session


@pytest.fixture
def new_lake(hadoop, boto, monkeypatch):
    """A function that makes a small lake with the old tables in it."""
    # Once a session has started in this process, PySpark asks the JVM named here about any error of
    # Java, where an object of another JVM is another object or none.
    for name in ("_gateway", "_jvm"):
        monkeypatch.setattr(SparkContext, name, getattr(hadoop, name))

    def make():
        lake = S3Lake(hadoop, boto)
        lake.put("", OLD, "old")
        lake.note_contents()
        return lake

    return make


def test_a_lake_is_replaced_partition_by_partition(new_lake):
    lake = new_lake()
    lake.publish(NEW)
    assert lake.tables() == NEW
    assert not lake.leftovers()


# How many changes lie between two that are tried: a run has about 55.
@pytest.mark.parametrize(
    ("kind", "step"), [("cut off", 5), ("lost", 8), ("503", 12), ("500", 12), ("timeout", 24)]
)
def test_no_fault_of_s3_loses_a_row_and_the_next_run_mends_it(new_lake, server, kind, step):
    for at in itertools.count(1, step):
        lake = new_lake()
        server.inject(at, kind)
        try:
            lake.publish(NEW)
        except StorageError:
            assert kind == "cut off"  # all else passes, and the connector tries again
        else:
            assert lake.tables() == NEW
        if not server.lift():
            assert at > 30
            break
        assert_nothing_lost(lake, OLD, NEW, inside=True)
        lake.drop_lock()
        lake.publish(NEW)
        assert lake.tables() == NEW
        assert not lake.leftovers()
        tried(f"on S3, {kind}")


def test_the_lock_of_a_dead_run_lapses_by_the_clock_of_s3(new_lake, capsys):
    lake = new_lake()
    lock.Lock(lake.storage(), "dead", 60)._write()
    with pytest.raises(LockedError, match=r"run dead \(process \d+ on .*, since 20.* UTC\)"):
        lake.publish(NEW)
    time.sleep(3)  # S3 tells the time in whole seconds
    lake.publish(NEW, lock_minutes=0.02)
    assert "took over the lock of run dead, last heard of" in capsys.readouterr().err
    assert lake.tables() == NEW


def test_a_bucket_without_a_folder_is_a_lake(hadoop):
    for root in (f"s3a://{BUCKET}", f"s3a://{BUCKET}/"):
        assert HadoopStorage(hadoop, root).path("songs") == f"s3a://{BUCKET}/songs"


def run_on_s3(endpoint, *arguments):
    """A real run in a process of its own, on a cluster that knows S3A but not what s3:// is."""
    settings = s3_settings(endpoint)
    del settings["spark.hadoop.fs.s3.impl"]
    options = " ".join(f"--conf {key}={value}" for key, value in settings.items())
    environment = {
        "PYSPARK_SUBMIT_ARGS": f"{options} pyspark-shell",
        "PYTHONPATH": str(ROOT),
        "SPARKIFY_ETL_LOCK_MINUTES": "0.05",
    }
    return subprocess.run(
        [sys.executable, "-m", *arguments, f"--output=s3://{BUCKET}/real"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_real_job_killed_in_mid_swap_is_mended_by_the_next_run(spark, s3, boto, tmp_path):
    flags, published = {}, {}
    for version, year in (("old", 1999), ("new", 2001)):
        songs = [song(title=version), song(song_id="SO2", artist_id="AR2", year=year)]
        events = [event(userId=version), event(ts=TS + 1, song=version)]
        flags[version] = write_input(tmp_path / version, songs, events)
        assert etl.main(flags[version]) == 0
        published[version] = read_lake(spark, tmp_path / version / "lake")
    upload(boto, tmp_path / "old" / "lake", "real")

    moment = "rename _etl/.*/songplays/year=2018/month=11 to"
    killed = run_on_s3(s3[1], "tests.signalled_run", "SIGKILL", moment, *flags["new"][:2])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    files = keys_of(boto, "real")
    assert not any(file.startswith("songplays/") for file in files)
    assert any(re.match("_etl/[^/]+/songplays/.*parquet", file) for file in files)
    assert any(re.match("_etl/[^/]+/plan.json", file) for file in files)

    time.sleep(4)  # the lease is 3 seconds, and S3 tells the time in whole ones
    mended = run_on_s3(s3[1], "etl", *flags["new"][:2])
    assert mended.returncode == 0, mended.stderr
    assert re.search("took over the lock of run .*last heard of", mended.stderr)
    assert "finished the swap of run" in mended.stderr
    assert read_lake(spark, download(boto, "real", tmp_path / "mended")) == published["new"]
    tried("on S3, with the real job")


def upload(boto, folder, prefix):
    """A published lake as objects, with the note of what is published."""
    for path in (*folder.glob("[!_.]*/**/[!_.]*.parquet"), folder / paths.PUBLISHED):
        boto.upload_file(str(path), BUCKET, f"{prefix}/{path.relative_to(folder).as_posix()}")


def download(boto, prefix, folder):
    """The objects of a lake as files."""
    for key in keys_of(boto, prefix):
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        boto.download_file(BUCKET, f"{prefix}/{key}", str(path))
    return folder


def test_hidden_and_other_objects_stay_and_rows_that_no_run_wrote_stop_a_run(new_lake, boto):
    lake = new_lake()
    mine = ["songs/.hidden/x", "songs/year=1999/_note", "artists/_SUCCESS", "_etl/myfolder/q"]
    for key in mine:
        boto.put_object(Bucket=BUCKET, Key=f"{lake.folder}/{key}", Body=b"mine")
    lake.publish(NEW)
    assert lake.tables() == NEW
    assert set(mine) <= set(lake.keys())
    boto.put_object(Bucket=BUCKET, Key=f"{lake.folder}/songs/year=1900/mine.parquet", Body=b"mine")
    with pytest.raises(ForeignFilesError, match=r"songs holds .*, year=1900/mine.parquet and 0"):
        lake.publish(OLD)
    assert lake.text("songs/year=1900/mine.parquet") == "mine"
