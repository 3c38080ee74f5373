"""What goes wrong in a sign-in to AWS, where boto3 has no error of its own for it."""

from __future__ import annotations

import contextlib
import getpass
import warnings
from collections.abc import Iterator

# boto3 lets these out: a profile's program can print anything, and a file in ~/.aws be damaged.
FAULTS = (
    *(AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    getpass.GetPassWarning,
)
NEEDS_CRT = "a profile of aws login needs boto3[crt]: run pip install -r requirements.txt"


@contextlib.contextmanager
def only_with_a_terminal() -> Iterator[None]:
    """Let a question for an MFA code fail where there is no terminal: nobody would see it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        yield


def explain_fault(error: BaseException) -> str:
    """What is wrong, from one of the FAULTS."""
    if isinstance(error, (EOFError, getpass.GetPassWarning)):
        return "the sign-in asks for an MFA code, and there is no terminal to type it in"
    if isinstance(error, KeyError):
        return "a file that the last sign-in has left in ~/.aws is damaged"
    if isinstance(error, RuntimeError):  # in words of boto3: what it was given has expired
        return str(error)
    return f"credential_process of the profile fails: {error}"
