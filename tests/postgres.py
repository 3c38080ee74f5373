"""A real PostgreSQL for the tests: from the package pgserver, or else the machine's own.

It listens only on a socket in a temporary folder. Its encoding is SQL_ASCII, because VARCHAR then
counts bytes, as Redshift's VARCHAR does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UNPRIVILEGED = "nobody"  # PostgreSQL refuses to run as root


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    programs: Path
    folder: Path

    def psql(self, script: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a script up to its first error."""
        command = [self.programs / "psql", "-h", self.folder, "-U", "postgres", "-X", "-q"]
        stop = ["-v", "ON_ERROR_STOP=1", "--csv", "--tuples-only"]
        return subprocess.run(
            [*command, *stop, *options], input=script, capture_output=True, text=True, check=False
        )

    def ask(self, script: str) -> str:
        """The output of a script as CSV; the script has to succeed."""
        done = self.psql(script)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextlib.contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A server with an empty database, stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        user, programs = None, find_programs()
        if os.geteuid() == 0:
            user, programs = UNPRIVILEGED, copy_programs(programs, folder)
        server = Postgres(programs, folder)
        data = ["-D", folder / "data"]

        def run(program, *options):
            command = [server.programs / program, *data, *options]
            with (folder / "log").open("a") as log:
                subprocess.run(command, user=user, cwd=folder, check=True, stdout=log, stderr=log)

        run("initdb", "-U", "postgres", "-A", "trust", "-E", "SQL_ASCII", "--locale=C", "--no-sync")
        settings = f"-c listen_addresses='' -k {folder} -c fsync=off"
        run("pg_ctl", "start", "-w", "-o", settings)
        try:
            yield server
        finally:
            run("pg_ctl", "stop", "-m", "immediate")


def find_programs() -> Path:
    """The folder of initdb and psql; pgserver is not imported, only its files are needed."""
    found = importlib.util.find_spec("pgserver")
    if found:
        return Path(str(found.origin)).parent / "pginstall" / "bin"
    debians = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    programs = [Path(program).parent for program in (shutil.which("initdb"), *debians) if program]
    assert programs, "there is no PostgreSQL: pip install -r requirements-dev.txt, or install one"
    return programs[-1]


def copy_programs(programs: Path, folder: Path) -> Path:
    """A copy of pgserver's programs that the unprivileged user can read."""
    shutil.chown(folder, UNPRIVILEGED)
    package = programs.parents[1]
    if package.name != "pgserver":
        return programs
    for source in (package, package.with_name("pgserver.libs")):
        if source.exists():
            shutil.copytree(source, folder / source.name)
    for path in folder.rglob("*"):
        shutil.chown(path, UNPRIVILEGED)
    return folder / programs.relative_to(package.parent)
