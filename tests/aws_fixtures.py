"""Fixtures of the laptop scripts' tests: an emulated account, a configuration for it, a runner."""

from __future__ import annotations

import dataclasses
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import botocore.loaders
import pytest

import iac_terminate
from aws.account import written_buckets
from aws.locations import locate
from aws.session import make_session
from aws.set_up import create_buckets, create_roles, tag_network
from configs import DL_CFG, load_emr_config, load_etl_config
from tests.emr_emulator import EmrEmulator

if TYPE_CHECKING:
    import boto3

REGION = "us-west-2"
LOADER = botocore.loaders.create_loader()
BUCKET = "my-sparkify-bucket"
SECRET = "canary-secret-that-must-stay-home"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a script left behind: exit code, result and narration."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        """The last line of the narration: the error, if there was one."""
        return self.err.rstrip("\n").rpartition("\n")[2]


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich decides by the stream alone what is a terminal and how it looks."""
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmrEmulator]:
    """An empty account: no role, no bucket, no cluster."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    # Every script makes a session of its own; reading AWS's models anew is most of its work.
    monkeypatch.setattr("botocore.session.create_loader", lambda *_: LOADER)
    with EmrEmulator() as emulator:
        monkeypatch.setenv("AWS_ENDPOINT_URL", emulator.url)
        yield emulator


@pytest.fixture
def session(emulator: EmrEmulator) -> boto3.Session:
    """A session with the emulated account, as the scripts make it."""
    return make_session(None, REGION)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The shipped dl.cfg with region and bucket filled in."""
    text = DL_CFG.read_text()
    for key, value in (("region", REGION), ("bucket", BUCKET)):
        text = text.replace(f"\n{key} = ", f"\n{key} = {value} ")
    path = tmp_path / "dl.cfg"
    path.write_text(text)
    return path


@pytest.fixture
def run(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Outcome]:
    """Run a script's main in this process, without pauses, on the configuration above."""
    keys = tmp_path / "keys.cfg"
    keys.write_text("[aws]\naccess_key_id =\nsecret_access_key =\nsession_token =\n")

    def run_main(main: Callable[[list[str]], int], *arguments: str) -> Outcome:
        files = ["--config", str(config), "--keys", str(keys), "--poll-seconds", "0"]
        capsys.readouterr()
        try:
            code = main([*files, *arguments])
        except SystemExit as error:  # argparse's own way out
            code = error.code if isinstance(error.code, int) else 1
        return Outcome(code, *capsys.readouterr())

    return run_main


@pytest.fixture
def account(emulator: EmrEmulator, session: boto3.Session, config: Path) -> EmrEmulator:
    """An account that is ready for a cluster: bucket, roles and network."""
    emr_config, etl_config = locate(session, load_emr_config(config), load_etl_config(config))
    buckets = written_buckets(emr_config, etl_config)
    create_buckets(session.client("s3"), buckets, REGION)
    create_roles(session, emr_config, etl_config)
    tag_network(session.client("ec2"), emr_config)
    emulator.requests.clear()
    return emulator


@pytest.fixture
def terminate(
    run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """Run iac_terminate.py, with what the user types when asked."""

    def run_terminate(*arguments: str, answer: str | None = None) -> Outcome:
        monkeypatch.setattr("sys.stdin", io.StringIO("" if answer is None else f"{answer}\n"))
        return run(iac_terminate.main, *arguments)

    return run_terminate
