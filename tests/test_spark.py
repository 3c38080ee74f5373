"""How a session starts on a laptop, and what is said where this machine's Spark does not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyspark
import pytest

from configs import ConfigError
from etl import load_config, parse_args
from lake import spark, work
from lake.accounting import FileFacts
from lake.inputs import KnownFile, SourceState, State, describe_settings, write_state
from lake.published import Note, write_note
from lake.storage import Disk
from tests.factories import event, song, write_input

ROOT = Path(spark.__file__).parents[1]
SONGS, EVENTS = [song()], [event()]
HERE = pyspark.__version__


def test_little_to_read_on_disk_is_spared_javas_optimizing_compiler(tmp_path, monkeypatch):
    flags = write_input(tmp_path, SONGS, EVENTS)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.json"))
    config = load_config(parse_args(flags))
    monkeypatch.setattr(work, "LITTLE", size)
    assert work.will_read_little(config, "rules")
    monkeypatch.setattr(work, "LITTLE", size - 1)
    assert not work.will_read_little(config, "rules")
    for elsewhere in ("s3://bucket/song_data", str(tmp_path / "missing")):
        assert not work.will_read_little(replace(config, song_data=elsewhere), "rules")


def test_what_the_last_run_has_read_does_not_count_as_much_to_read(tmp_path, monkeypatch):
    config = load_config(parse_args(write_input(tmp_path, SONGS, EVENTS)))
    monkeypatch.setattr(work, "LITTLE", 0)
    note_as_read(config, "rules")
    assert work.will_read_little(config, "rules")
    for other in (replace(config, full=True), replace(config, max_rows_per_file=1)):
        assert not work.will_read_little(other, "rules")
    assert not work.will_read_little(config, "other rules")
    next((tmp_path / "log_data").rglob("*.json")).write_text("{}")
    assert not work.will_read_little(config, "rules")


def note_as_read(config, rules):
    """Leave the state of a run that has read all there is."""
    files = {
        name: {
            file: KnownFile(version, "a run", FileFacts([], {}))
            for file, version in Disk(f"file:{getattr(config, name)}").versions().items()
        }
        for name in ("song_data", "log_data")
    }
    sources = {name: SourceState(of_source) for name, of_source in files.items()}
    output = Disk(f"file:{config.output}")
    write_state(output, State("a run", rules, describe_settings(config), "", sources))
    write_note(output, Note({}, "a run"))


def test_a_process_without_spark_submit_has_what_suits_a_laptop(tmp_path):
    script = """if True:
        import sys, etl
        from pyspark.sql import SparkSession
        code = etl.main(sys.argv[1:])
        print(SparkSession.active().conf.get("spark.driver.extraJavaOptions"))
        sys.exit(code)"""
    finished = subprocess.run(
        [sys.executable, "-c", script, *write_input(tmp_path, SONGS, EVENTS)],
        env={name: value for name, value in os.environ.items() if not name.startswith("PYSPARK_G")},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    told = finished.stdout.splitlines()[-1].split()
    assert told[:2] == ["-XX:+UseParallelGC", "-XX:TieredStopAtLevel=1"]
    assert told[2].startswith("-Dlog4j2.configurationFile=file:")


def spark_home(folder, version):
    """A folder that looks like an installed Spark of this version."""
    (folder / "jars").mkdir(parents=True)
    (folder / "jars" / f"spark-core_2.12-{version}.jar").touch()
    return str(folder)


def test_a_spark_home_of_the_same_version_is_fine(tmp_path):
    spark.check_spark_home("")
    spark.check_spark_home(spark_home(tmp_path / "spark", HERE))


def test_a_spark_home_of_another_version_is_told_with_both(tmp_path):
    home = spark_home(tmp_path / "spark", "2.4.8")
    told = f"SPARK_HOME is {home}, Spark 2.4.8, but this job's pyspark is {HERE}: unset SPARK_HOME"
    with pytest.raises(ConfigError, match=told):
        spark.check_spark_home(home)


def test_a_pyspark_that_pythonpath_brings_is_told_with_both_versions(monkeypatch):
    spark.check_python_path("/opt/spark/python")
    monkeypatch.setattr(spark, "version", lambda _: "2.4.8")
    spark.check_python_path("")
    told = f"PYTHONPATH is /opt/spark/python and brings pyspark {HERE}, but 2.4.8 is installed"
    with pytest.raises(ConfigError, match=told):
        spark.check_python_path("/opt/spark/python")


def fake_java(folder, *lines):
    """A JAVA_HOME whose java prints these lines to stderr and fails."""
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\n" + "".join(f"echo '{line}' >&2\n" for line in lines) + "exit 1\n")
    java.chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"SPARK_HOME": "/opt/nospark"}, "SPARK_HOME is /opt/nospark, a folder without Spark"),
        ({"JAVA_HOME": "/opt/nojava"}, "JAVA_HOME is /opt/nojava, which has no bin/java"),
        ({"JAVA_HOME": "java8"}, "java8/bin/java is Java 1.8.0_402. It needs Java 17 to 22"),
    ],
    ids=["no Spark", "no Java", "Java 8"],
)
def test_what_this_machine_lacks_is_one_line_and_a_usage_error(tmp_path, changes, told):
    java = fake_java(tmp_path / "java8", 'openjdk version "1.8.0_402"', "bad option")
    changes = {name: java if value == "java8" else value for name, value in changes.items()}
    environ = {name: value for name, value in os.environ.items() if "PYSPARK_G" not in name}
    finished = subprocess.run(
        [sys.executable, str(ROOT / "etl.py"), *write_input(tmp_path, SONGS, EVENTS)],
        env={**environ, **changes},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 2, finished.stderr
    assert "Traceback" not in finished.stderr
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith("etl.py: error: ")
    assert told in last
