"""The archive of Java's classes: made once, whole or not at all, used where it fits."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import etl

ROOT = Path(__file__).parent.parent
MADE = etl.CLASS_ARCHIVE  # the one that the set-up of the tests has made


@pytest.fixture(autouse=True)
def no_options_of_a_user(monkeypatch):
    """Java's options are the job's alone."""
    for name in etl.USERS_OPTIONS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Where the job looks for an archive; nothing is there yet."""
    path = tmp_path / "with a space" / "spark.jsa"
    path.parent.mkdir()
    monkeypatch.setattr(etl, "CLASS_ARCHIVE", path)
    return path


def test_the_archive_is_used_where_there_is_one(archive):
    assert etl.java_options(None) == etl.COLLECTOR
    archive.touch()
    options = shlex.split(etl.java_options(None))
    assert options[:2] == [etl.COLLECTOR, f"-XX:SharedArchiveFile={archive}"]


@pytest.mark.parametrize("name", etl.USERS_OPTIONS)
def test_a_user_who_sets_javas_options_may_start_an_agent_and_gets_no_archive(
    archive, monkeypatch, name
):
    archive.touch()
    monkeypatch.setenv(name, "-javaagent:agent.jar")
    assert etl.java_options(None) == etl.COLLECTOR


def test_one_that_does_not_fit_is_passed_over_in_silence(archive):
    told = java_version()
    for content in (b"", b"no archive", MADE.read_bytes()):  # the last is one of other classes
        archive.write_bytes(content)
        assert java_version(*shlex.split(etl.java_options(None))) == told


def java_version(*options):
    """What Java says with these options, which is its version and nothing else."""
    java = f"{os.environ['JAVA_HOME']}/bin/java" if os.environ.get("JAVA_HOME") else "java"
    shown = subprocess.run(
        [java, *options, "-version"], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    return (shown.stdout + shown.stderr).replace(", sharing", "")


def test_spark_starts_from_the_archive_that_the_tests_set_up_has_made(tmp_path):
    assert MADE.is_file(), f"make it: sh setup-archive.sh {sys.prefix}"
    loaded = tmp_path / "loaded"
    options = f"{etl.java_options(None)} -Xlog:class+load:file={loaded}"
    subprocess.run(
        [Path(sys.executable).parent / "spark-submit", "--version"],
        env={**os.environ, "SPARK_SUBMIT_OPTS": options},
        capture_output=True,
        check=True,
    )
    sources = dict(line.split("] ")[-1].split(" source: ") for line in _lines(loaded))
    source = sources["org.apache.spark.deploy.SparkSubmit"]
    assert source == "shared objects file (top)", f"Java is new: sh setup-archive.sh {sys.prefix}"


def _lines(path):
    return [line for line in path.read_text().splitlines() if " source: " in line]


@pytest.fixture
def environment(tmp_path):
    """A virtual environment with this Python, and a spark-submit that the test writes."""
    programs = tmp_path / "an environment" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    return programs.parent


def set_up(environment, spark_submit):
    """Run setup-archive.sh with a spark-submit that is these lines of Python; what it says."""
    program = environment / "bin" / "spark-submit"
    program.write_text(f"#!{sys.executable}\nimport pathlib, re, sys\n{spark_submit}\n")
    program.chmod(0o755)
    finished = subprocess.run(
        ["sh", ROOT / "setup-archive.sh", environment],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return finished.stderr


def test_an_archive_is_put_in_place_when_it_is_whole(environment):
    (environment / "spark.jsa").write_text("the old one")
    set_up(
        environment,
        """archive = pathlib.Path(re.search('ArchiveClassesAtExit=([^"]+)', str(sys.argv))[1])
log = pathlib.Path(sys.argv[sys.argv.index("--log-data") + 1])
assert log.is_dir() and (archive.parents[1] / "spark.jsa").read_text() == "the old one"
archive.write_text("the new one")""",
    )
    assert (environment / "spark.jsa").read_text() == "the new one"
    assert {path.name for path in environment.iterdir()} == {"bin", "spark.jsa"}


def test_without_an_archive_runs_start_as_before(environment):
    said = set_up(environment, "sys.exit('Unrecognized VM option')")
    assert "runs start without one: Unrecognized VM option" in said
    assert {path.name for path in environment.iterdir()} == {"bin"}
