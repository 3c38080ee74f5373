"""A real PostgreSQL for the tests: the pgserver package brings its programs, no root needed.

It listens on a socket in its own folder only, and is gone with it. Its encoding is SQL_ASCII: then
VARCHAR counts bytes, as Redshift's does.
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
        """What a script answers, as CSV; it has to succeed."""
        done = self.psql(script)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextlib.contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Start a server with an empty database."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        package = find_package()
        user = None
        if os.geteuid() == 0:
            user, package = UNPRIVILEGED, lend(package, folder)
        server = Postgres(package / "pginstall" / "bin", folder)
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


def find_package() -> Path:
    """Where pgserver is installed; importing it would start more than is needed."""
    found = importlib.util.find_spec("pgserver")
    assert found, "pgserver is not installed: pip install -r requirements-dev.txt"
    return Path(str(found.origin)).parent


def lend(package: Path, folder: Path) -> Path:
    """A copy of the programs for a user who may not be able to read ours."""
    for source in (package, package.with_name("pgserver.libs")):
        if source.exists():
            shutil.copytree(source, folder / source.name)
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, UNPRIVILEGED)
    return folder / package.name
