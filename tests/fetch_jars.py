"""Fetches what the tests of S3 and YARN need from Maven Central, into ~/.ivy2, where it stays.

Once and before the tests: two processes that fetch the same jar at the same time tear it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.s3 import hadoop_version, s3_settings, with_magic_committer
from tests.yarn import PACKAGES, java, resolve


def main() -> None:
    """Let Spark resolve both sets of packages, as the tests will."""
    print("fetching the jars of the S3 and YARN tests (the first time about 400 MB)")
    with tempfile.TemporaryDirectory() as folder:
        with java(Path(folder), with_magic_committer(s3_settings(""))):
            pass
        resolve(Path(folder), *(package.format(hadoop_version()) for package in PACKAGES))


if __name__ == "__main__":
    main()
