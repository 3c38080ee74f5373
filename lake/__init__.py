"""What the job ships to the cluster beside etl.py: pyspark and the standard library only."""

import importlib.util
import sys
from pathlib import Path

from lake.exit_codes import ExitCode

__version__ = "1.1.0"


def require(*packages: str) -> None:
    """End the program with one line where a package is missing, instead of with a traceback."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            # In python -m aws.catalog, argv[0] is -m while the package is imported.
            program = Path(sys.argv[0]).name if sys.argv[0] != "-m" else "aws"
            sys.stderr.write(
                f"{program}: error: {package} is not installed: "
                "run make demo once, then . .venv/bin/activate\n"
            )
            sys.exit(ExitCode.USAGE)


require("pyspark")
