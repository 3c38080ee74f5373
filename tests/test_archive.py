"""The archive of Java's classes for the tests: made whole or not at all, used where it fits."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MADE = Path(sys.prefix, "spark.jsa")  # by `make test`


@pytest.fixture
def made():
    """The archive of this environment."""
    if not MADE.is_file():
        pytest.skip(f"no archive was made: sh setup/archive.sh {sys.prefix} says why")
    return MADE


def test_sparks_classes_come_from_the_archive(made, tmp_path):
    loaded = tmp_path / "loaded"
    options = f"{os.environ['SPARK_SUBMIT_OPTS']} -Xlog:class+load:file={loaded}"
    subprocess.run(
        [Path(sys.executable).parent / "spark-submit", "--version"],
        env={**os.environ, "SPARK_SUBMIT_OPTS": options},
        capture_output=True,
        check=True,
    )
    lines = [line for line in loaded.read_text().splitlines() if " source: " in line]
    sources = dict(line.split("] ")[-1].split(" source: ") for line in lines)
    source = sources["org.apache.spark.deploy.SparkSubmit"]
    assert source == "shared objects file (top)", f"Java is new: sh setup/archive.sh {sys.prefix}"


def test_one_that_does_not_fit_is_passed_over_in_silence(made, tmp_path):
    unfit = tmp_path / "unfit.jsa"
    options = os.environ["SPARK_SUBMIT_OPTS"].replace(str(made), str(unfit))
    told = java_version("-XX:TieredStopAtLevel=1")
    for content in (b"", b"no archive", made.read_bytes()):  # the last is one of other classes
        unfit.write_bytes(content)
        assert java_version(*shlex.split(options)) == told


def java_version(*options):
    """What Java says with these options, which is its version and nothing else."""
    java = f"{os.environ['JAVA_HOME']}/bin/java" if os.environ.get("JAVA_HOME") else "java"
    shown = subprocess.run(
        [java, *options, "-version"], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    return (shown.stdout + shown.stderr).replace(", sharing", "")


@pytest.fixture
def environment(tmp_path):
    """A virtual environment with this Python and an old archive, but no spark-submit yet."""
    programs = tmp_path / "an environment" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    (programs.parent / "spark.jsa").write_text("the old one")
    return programs.parent


def make_archive(environment, spark_submit):
    """Run setup/archive.sh with a spark-submit of these lines of Python; what it says."""
    program = environment / "bin" / "spark-submit"
    program.write_text(f"#!{sys.executable}\nimport pathlib, re, sys\n{spark_submit}\n")
    program.chmod(0o755)
    finished = subprocess.run(
        ["sh", ROOT / "setup" / "archive.sh", environment],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return finished.stderr


def test_an_archive_is_put_in_place_when_it_is_whole(environment):
    make_archive(
        environment,
        """archive = pathlib.Path(re.search('ArchiveClassesAtExit=([^"]+)', str(sys.argv))[1])
log = pathlib.Path(sys.argv[sys.argv.index("--log-data") + 1])
assert log.is_dir() and (archive.parents[1] / "spark.jsa").read_text() == "the old one"
archive.write_text("the new one")""",
    )
    assert (environment / "spark.jsa").read_text() == "the new one"
    assert {path.name for path in environment.iterdir()} == {"bin", "spark.jsa", "setup.log"}


def test_where_none_can_be_made_the_tests_run_without_and_the_next_time_it_is_tried_again(
    environment,
):
    said = make_archive(environment, "sys.exit('Unrecognized VM option')")
    assert "the tests run without one: Unrecognized VM option" in said
    # make's target is the archive itself, so that without it the target is out of date.
    assert {path.name for path in environment.iterdir()} == {"bin", "setup.log"}
