"""The real job killed, interrupted, paused, short of space: nothing that was published is lost."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import etl
from tests.factories import TS, event, read_lake, song, write_input
from tests.fault_summary import tried
from tests.faults import LEFT

ROOT = Path(etl.__file__).parent
DAY = 86_400_000
MONTH = 30 * DAY


def write_version(folder, version):
    """Input that gives other rows in every table, one partition less and one more."""
    songs = [
        song(song_id=f"SO{number}", artist_id=f"AR{number}", title=f"{version} {number}", year=year)
        for number, year in enumerate((1999, 2001 + version))
    ]
    events = [
        event(ts=TS + month * MONTH, userId=str(version), sessionId=version, song=f"{version} 0")
        for month in (0, version)
    ]
    return write_input(folder / f"version{version}", songs, events)[:2]


@pytest.fixture(scope="module")
def lake_of(spark, tmp_path_factory):
    """A function that gives the tables of a fresh run over a version of the input."""
    known = {}

    def tables(version):
        if version not in known:
            folder = tmp_path_factory.mktemp("fresh")
            flags = write_version(folder, version)
            assert etl.main([*flags, f"--output={folder}/lake"]) == 0
            known[version] = read_lake(spark, folder / "lake")
        return known[version]

    return tables


@contextlib.contextmanager
def started(*command, **environment):
    """A child process, ended at the end whatever happens."""
    child = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.communicate()


def signalled_run(name, moment, *arguments, **environment):
    """A real run that gets a signal right before a moment; its exit code and what it said."""
    with started("-m", "tests.signalled_run", name, moment, *arguments, **environment) as child:
        _, said = child.communicate(timeout=300)
    assert "Traceback" not in said
    return child.returncode, said


def leftovers(lake):
    """What is in _etl beside what a run leaves there."""
    return {path.name for path in lake.glob("_etl/[!.]*")} - LEFT


def test_a_run_killed_at_any_stage_is_mended_by_the_next(spark, lake_of, tmp_path, capsys):
    lake, output = tmp_path / "lake", f"--output={tmp_path}/lake"
    assert etl.main([*write_version(tmp_path, 1), output]) == 0
    new = [*write_version(tmp_path, 2), output]

    code, _ = signalled_run("SIGKILL", "stage .*/users", *new)
    assert (code, read_lake(spark, lake)) == (-signal.SIGKILL, lake_of(1))

    code, said = signalled_run("SIGKILL", "rename .*/plan.draft", *new)
    assert (code, read_lake(spark, lake)) == (-signal.SIGKILL, lake_of(1))
    assert "took over the lock of run" in said
    assert len(leftovers(lake)) == 2  # its own staging area and the lock, no longer the dead run's

    code, _ = signalled_run("SIGKILL", "exchange _etl/.*/time/", *new)
    (plan,) = lake.glob("_etl/*/plan.json")
    assert code == -signal.SIGKILL
    assert (plan.parent / "time").exists()
    found = read_lake(spark, lake)
    assert (found["users"], found["time"]) == (lake_of(2)["users"], lake_of(1)["time"])

    code, said = signalled_run("SIGTERM", "exchange _etl/.*/time/", "--recover", output)
    assert "the swap of an earlier run may not be complete: the next run finishes it" in said
    assert (code, said.splitlines()[-1]) == (130, "etl.py: error: interrupted")

    assert etl.main(["--recover", output]) == 0
    assert "finished the swap of run" in capsys.readouterr().err
    assert (read_lake(spark, lake), leftovers(lake)) == (lake_of(2), set())
    tried("with the real job, on disk", 4)


def wait_for(what, process, *, seconds=300):
    """Wait until a function gives something, and return it; the process has to live until then."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    raise TimeoutError(what)


def is_stopped(process):
    """Whether a process was paused by SIGSTOP."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_of_two_runs_one_publishes_and_a_paused_one_gives_way(
    spark, lake_of, tmp_path, capsys, monkeypatch
):
    output = f"--output={tmp_path}/lake"
    one, two = write_version(tmp_path, 1), write_version(tmp_path, 2)
    arguments = ["-m", "tests.signalled_run", "SIGSTOP", "stage .*/users", *one, output]
    with started(*arguments) as paused:
        wait_for(lambda: is_stopped(paused), paused)
        assert etl.main([*two, output]) == 3
        refusal = capsys.readouterr().err.splitlines()[-1]
        assert re.match(
            rf"etl.py: error: run \S+ \(process {paused.pid} on \S+, since 20\S+ \S+ UTC\) is at "
            r"work on \S+/lake, last heard of \d+ s ago. Wait for it; if it is dead, its lock "
            r"lapses 10 minutes after that, or delete \S+/_etl/LOCK",
            refusal,
        )
        monkeypatch.setenv("SPARKIFY_ETL_LOCK_MINUTES", "0.05")
        time.sleep(3)
        assert etl.main([*two, output]) == 0
        assert "took over the lock of run" in capsys.readouterr().err
        paused.send_signal(signal.SIGCONT)
        _, said = paused.communicate(timeout=300)
    assert paused.returncode == 3
    assert "was taken from this run" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert "has lost its lock, so it deletes nothing" in said
    assert "nothing was changed" not in said
    assert read_lake(spark, tmp_path / "lake") == lake_of(2)
    assert etl.main(["--recover", output]) == 0
    assert not leftovers(tmp_path / "lake")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_of_a_running_job_cleans_up_and_says_that_nothing_changed(tmp_path, name):
    lake = tmp_path / "lake"
    with started("etl.py", *write_version(tmp_path, 1), f"--output={lake}") as run:
        wait_for(lambda: list(lake.glob("_etl/parsed/song_data/run=2*/_temporary")), run)
        run.send_signal(signal.Signals[name])
        _, said = run.communicate(timeout=300)
    assert run.returncode == 130
    assert "the published tables are as they were: nothing was changed" in said
    assert said.splitlines()[-1] == "etl.py: error: interrupted"
    assert " ERROR " not in said, "what Spark says of tasks cut short is no news"
    assert "Traceback" not in said
    assert not leftovers(lake)


def test_a_full_disk_leaves_the_published_tables(spark, lake_of, tmp_path):
    lake = tmp_path / "lake"
    assert etl.main([*write_version(tmp_path, 1), f"--output={lake}"]) == 0
    chance = random.Random(1)
    agents = (f"{chance.getrandbits(512):x}" for _ in range(20_000))
    large = [event(itemInSession=number, userAgent=agent) for number, agent in enumerate(agents)]
    flags = write_input(tmp_path / "large", [song()], large)[:2]
    # No file beyond 300 kB: as on a full disk, a write fails somewhere in Spark's tasks.
    start = (
        "import resource, sys, etl; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000,) * 2); "
        "sys.exit(etl.main(sys.argv[1:]))"
    )
    with started("-c", start, *flags, f"--output={lake}") as run:
        _, said = run.communicate(timeout=300)
    assert run.returncode == 1
    assert "File too large" in said.splitlines()[-1]
    assert not re.search(r"^\s+at ", said, re.MULTILINE), "Java's stacks bury the one line"
    assert "nothing was changed" in said
    assert read_lake(spark, lake) == lake_of(1)
    assert not leftovers(lake)
    tried("with the real job, on disk")


def executors_of(process):
    """The numbers of the executors among a process's descendants."""
    parents, commands = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(stat[1])
            commands[int(folder.name)] = (folder / "cmdline").read_text()

    def is_below(number):
        return number == process.pid or (number in parents and is_below(parents[number]))

    found = [number for number, text in commands.items() if "CoarseGrainedExecutor" in text]
    return [number for number in found if is_below(number)]


def test_a_lost_executor_changes_no_row(spark, lake_of, tmp_path):
    lake = tmp_path / "lake"
    flags = [*write_version(tmp_path, 2), f"--output={lake}"]
    options = (
        "--master local-cluster[2,1,512] --conf spark.executor.memory=512m "
        "--conf spark.executor.extraJavaOptions=-XX:TieredStopAtLevel=1 pyspark-shell"
    )
    with started("etl.py", *flags, PYSPARK_SUBMIT_ARGS=options) as run:
        wait_for(lambda: list(lake.glob("_etl/parsed/log_data/run=2*/**/part*")), run)
        executor = wait_for(lambda: executors_of(run), run)[0]
        os.kill(executor, signal.SIGKILL)
        _, said = run.communicate(timeout=400)
    assert run.returncode == 0, said
    assert read_lake(spark, lake) == lake_of(2)
    tried("with the real job, on disk")


def test_runs_over_changing_input_and_layouts_end_as_a_single_one(spark, lake_of, tmp_path):
    lake = tmp_path / "lake"
    for version, layout in ((1, "year"), (2, "year,artist_id"), (1, "year")):
        flags = [*write_version(tmp_path, version), f"--output={lake}"]
        assert etl.main([*flags, f"--partition-songs={layout}"]) == 0
        depth = {
            len(path.relative_to(lake / "songs").parts) for path in lake.glob("songs/**/*.parquet")
        }
        assert depth == {1 + len(layout.split(","))}
        assert read_lake(spark, lake) == lake_of(version)
        assert not leftovers(lake)
