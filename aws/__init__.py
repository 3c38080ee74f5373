"""What stays on the laptop: how the scripts create, use and end the cluster on AWS."""

import importlib.util
import sys
from pathlib import Path

from lake.exit_codes import ExitCode

# Outside the project's environment the scripts' own imports would end in a traceback.
for _package in ("boto3", "rich"):
    if importlib.util.find_spec(_package) is None:
        # In python -m aws.catalog, argv[0] is -m as long as the package is imported.
        _program = Path(sys.argv[0]).name if sys.argv[0] != "-m" else "aws"
        sys.stderr.write(
            f"{_program}: error: {_package} is not installed:"
            " run make demo once, then . .venv/bin/activate\n"
        )
        sys.exit(ExitCode.USAGE)
