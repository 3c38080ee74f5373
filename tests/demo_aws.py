"""A tour of the four scripts without an AWS account: prints what a user would see.

The account is emulated on this machine, but everything in it is real: the scripts run as processes
of their own, the code travels through S3, and the step is the very spark-submit that EMR would run,
in cluster mode on a YARN of its own and with Spark's S3 connector. It needs Java, and the first
time it fetches about 400 MB of Hadoop's and AWS's jars from Maven Central.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import boto3

from tests.emr_emulator import EmrEmulator
from tests.yarn import mini_yarn

ROOT = Path(__file__).parents[1]
BUCKET = "my-sparkify-bucket"
SETTINGS = {
    "code_uri": f"s3://{BUCKET}/code",
    "log_uri": f"s3://{BUCKET}/logs",
    "song_data": f"s3://{BUCKET}/song_data",
    "log_data": f"s3://{BUCKET}/log_data",
    "output": f"s3://{BUCKET}/lake",
}
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIADUMMY",
    "AWS_SECRET_ACCESS_KEY": "dummy",
    "AWS_DEFAULT_REGION": "us-west-2",
}
OWN_BUCKET = "sparkify-123456789012-us-west-2"  # that follows from the account and the region
FIRST_DAY = ("--set-up", "--sample", "--create", "--catalog", "--terminate-after")


@dataclasses.dataclass(frozen=True)
class Account:
    """An emulated account, and the folder from which the scripts are run."""

    emulator: EmrEmulator
    work: Path
    environ: Mapping[str, str]

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a script as a user does; its narration and its result come as one text."""
        return subprocess.run(
            [sys.executable, str(ROOT / script), *arguments],
            cwd=self.work,
            env={**self.environ, "AWS_ENDPOINT_URL": self.emulator.url},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )

    @property
    def s3(self):
        """The account's S3."""
        keys = {"aws_access_key_id": "dummy", "aws_secret_access_key": "dummy"}
        return boto3.client("s3", endpoint_url=self.emulator.url, region_name="us-west-2", **keys)


@contextlib.contextmanager
def emulated_account(work: Path, environ: Mapping[str, str]) -> Iterator[Account]:
    """An empty account whose steps really run, and my.cfg to go with it."""
    text = (ROOT / "dl.cfg").read_text()
    for key, value in SETTINGS.items():
        line = next(line for line in text.splitlines() if line.startswith(f"{key} = "))
        text = text.replace(line, f"{key} = {value}")
    (work / "my.cfg").write_text(text)
    (work / "cluster").mkdir()
    plain = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    with EmrEmulator() as emulator, mini_yarn(work / "cluster", emulator.url) as yarn:
        emulator.run_step = yarn.run_step
        yield Account(emulator, work, {**plain, "COLUMNS": "100", **environ})


TOUR = (
    ("iac_submit_etl.py", *FIRST_DAY),
    ("iac_create.py",),
    ("iac_submit_etl.py", "--", "--log-data", f"s3://{OWN_BUCKET}/no-such-folder"),
    ("get_cluster_status.py",),
    ("iac_terminate.py", "--everything", "--with-data", "--yes"),
)


def main() -> int:
    """Run the tour on the shipped dl.cfg and print it as a transcript."""
    with (
        tempfile.TemporaryDirectory() as folder,
        emulated_account(Path(folder), CREDENTIALS) as account,
    ):
        for script, *arguments in TOUR:
            show(account, script, *arguments)
    return 0


def show(account: Account, script: str, *arguments: str) -> None:
    """Run a script, and print the command, what it said and its exit code."""
    print(f"$ python {script} {shlex.join(arguments)}", flush=True)
    done = account.run(script, "--poll-seconds", "2", *arguments)
    print(f"{done.stdout}(exit code {done.returncode})\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
