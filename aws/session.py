"""How a script talks to AWS: flags, session, errors in one line, retries and waiting."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
import botocore.exceptions as errors
import botocore.session
from boto3.exceptions import Boto3Error
from botocore.config import Config

from aws.console import CLOCK, Clock, say, warn
from configs import DL_CFG, KEYS_CFG, ConfigError, EmrConfig, hint, load_aws_keys, load_emr_config
from lake.exit_codes import ExitCode
from lake.formats import duration
from lake.sign_in import FAULTS, NEEDS_CRT, explain_fault, only_with_a_terminal

if TYPE_CHECKING:
    from mypy_boto3_emr import EMRClient

    from configs import AwsKeys, Flags

# In adaptive mode the client also slows down by itself when AWS throttles its requests.
CLIENT_CONFIG = Config(
    retries={"mode": "adaptive", "max_attempts": 10}, connect_timeout=10, read_timeout=60
)
POLL_SECONDS = 15.0
LONGEST_PAUSE = 240.0
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
UNKNOWN_KEYS = {
    "AuthFailure",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
DENIED = {"403", "AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}
THROTTLED = {"RequestLimitExceeded", "SlowDown", "Throttling", "ThrottlingException"}
UNREACHABLE = (errors.ConnectionError, errors.HTTPClientError)
NO_CREDENTIALS = (
    EOFError,
    errors.CredentialRetrievalError,
    errors.LoginError,
    errors.NoCredentialsError,
    errors.PartialCredentialsError,
    errors.ProfileNotFound,
    errors.SSOError,
    errors.TokenRetrievalError,
)
SIGN_IN = "run aws login, aws sso login or aws configure, or fill in keys.cfg"
Answer = TypeVar("Answer")


class AwsError(Exception):
    """A problem on AWS that stops the script; one line says what, where and what to do next."""


class StillGoingError(AwsError):
    """The script gave up waiting, and what it waited for goes on."""


# The expected ones; an EOFError is that of an MFA code that is asked for again without a terminal.
AWS_ERRORS = (AwsError, errors.BotoCoreError, errors.ClientError, Boto3Error, EOFError)


@dataclasses.dataclass(frozen=True)
class Waiting:
    """How often to look, and for how long."""

    poll_seconds: float
    timeout_minutes: float | None = None  # None: without limit

    @property
    def timeout(self) -> float | None:
        """The limit in seconds, as poll takes it."""
        return None if self.timeout_minutes is None else self.timeout_minutes * 60


@dataclasses.dataclass(frozen=True)
class CommonOptions:
    """What the flags that every script has say: files, the pause between looks, settings."""

    config: Path
    keys: Path
    poll_seconds: float
    flags: Flags  # the settings of dl.cfg that the command line overrides
    profile: str | None = None


# The command line.


def run_script(
    command: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None
) -> int:
    """Run a command and give its exit code; its expected errors become one line on stderr."""
    name = Path(inspect.getfile(command)).name
    if isinstance(sys.stdout, io.TextIOWrapper):
        # In a file, a result keeps its place among the lines of stderr, which are not buffered.
        sys.stdout.reconfigure(line_buffering=True)
    try:
        code = command(argv)
        sys.stdout.flush()  # a closed pipe shows here, not when the interpreter exits
    except ConfigError as error:
        say(f"{name}: error: {error}")
        return ExitCode.USAGE
    except AWS_ERRORS as error:
        say(f"{name}: error: {explain_error(error)}")
        return ExitCode.FAILED
    except BrokenPipeError:  # the reader, such as head, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return ExitCode.DONE
    except KeyboardInterrupt:
        say(f"{name}: stopped; what was begun on AWS goes on: see get_cluster_status.py")
        return ExitCode.CTRL_C
    return code


def add_common_flags(parser: argparse.ArgumentParser, keys: Sequence[str] = ()) -> None:
    """Add the flags that every script of a cluster has, and one for each of these keys of [emr]."""
    add_file_flags(parser)
    parser.add_argument(
        "--poll-seconds", type=float, default=POLL_SECONDS, metavar="SECONDS", help="between looks"
    )
    add_setting_flags(parser, "emr", EmrConfig, ("region", "cluster_name", *keys))


def add_file_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name other files of settings and keys."""
    parser.add_argument("--config", type=Path, default=DL_CFG, help="instead of dl.cfg")
    parser.add_argument("--keys", type=Path, default=KEYS_CFG, help="instead of keys.cfg")
    parser.add_argument("--profile", metavar="NAME", help="an AWS profile, instead of keys.cfg")


def add_setting_flags(
    parser: argparse.ArgumentParser, section: str, shape: type[Any], keys: Sequence[str]
) -> None:
    """Add a flag for each of these keys of a section of dl.cfg: --core-count for core_count."""
    expects = {field.name: field.metadata.get("expects") for field in dataclasses.fields(shape)}
    for key in dict.fromkeys(keys):
        flag = f"--{key.replace('_', '-')}"
        parser.add_argument(flag, dest=f"{section}.{key}", metavar="VALUE", help=expects[key])


def read_common_options(args: Mapping[str, Any]) -> CommonOptions:
    """The common options of a command line; an argument "etl.output" is [etl] output of dl.cfg."""
    given = {name.partition("."): value for name, value in args.items() if value is not None}
    flags = {(section, key): value for (section, dot, key), value in given.items() if dot}
    return CommonOptions(
        config=args["config"],
        keys=args["keys"],
        poll_seconds=args.get("poll_seconds", POLL_SECONDS),
        flags=flags,
        profile=args.get("profile"),
    )


def load_cluster_config(options: CommonOptions) -> EmrConfig:
    """The cluster's settings as dl.cfg, the environment and the flags give them."""
    return load_emr_config(options.config, options.flags)


# The session.


def connect(options: CommonOptions, config: EmrConfig) -> boto3.Session:
    """A session with the profile of the command line, or the keys of keys.cfg, or boto3's own ones.

    A region that dl.cfg leaves to the profile is said.
    """
    path = options.keys
    keys = None if options.profile else load_aws_keys(path)
    if keys and os.name == "posix" and path.stat().st_mode & 0o077:
        warn(f"others on this computer can read {path}: run chmod 600 {path}")
    # Other SDKs of AWS know AWS_REGION as well; boto3 knows AWS_DEFAULT_REGION only.
    region = config.region or os.environ.get("AWS_REGION", "")
    session = make_session(keys, region, options.profile)
    sign_in(session)
    if not config.region:
        say(f"region {session.region_name}, from your AWS settings; [emr] region names another")
    return session


def make_session(keys: AwsKeys | None, region: str, profile: str | None = None) -> boto3.Session:
    """A session for the region, or the profile's; its clients retry as CLIENT_CONFIG says."""
    core = botocore.session.Session()
    core.set_default_client_config(CLIENT_CONFIG)
    credentials = dataclasses.asdict(keys) if keys else {}
    session = boto3.Session(
        botocore_session=core,
        region_name=region or None,
        profile_name=profile,
        **{f"aws_{name}": value for name, value in credentials.items()},
    )
    check_region(session, session.region_name)
    return session


def sign_in(session: boto3.Session) -> None:
    """Have boto3 find its credentials now; an AwsError says in one line why it cannot."""
    try:
        with only_with_a_terminal():
            credentials = session.get_credentials()
            if credentials:
                credentials.get_frozen_credentials()
    except errors.MissingDependencyException:
        raise AwsError(NEEDS_CRT) from None
    except FAULTS as error:
        if isinstance(error, errors.BotoCoreError):  # run_script explains these
            raise
        problem = explain_fault(error)
        raise AwsError(f"the AWS credentials cannot be used: {problem}; {SIGN_IN}") from None


def check_region(session: boto3.Session, region: str | None) -> None:
    """Raise a ConfigError without a region or for an unknown one: its endpoint would not answer."""
    if not region:
        raise ConfigError(
            "no region: your AWS profile names none; add --region, or set it in [emr]"
        )
    known = [
        name
        for partition in session.get_available_partitions()
        for name in session.get_available_regions("emr", partition)
    ]
    if region not in known:
        cure = hint(region, known) or "if it is new, update boto3"
        raise ConfigError(f"region {region} is unknown; {cure} (region in [emr], or --region)")


# Errors.


def explain_error(error: BaseException) -> str:
    """What went wrong and what to do, in one line."""
    if isinstance(error, errors.ClientError):
        return explain_refusal(error)
    message = explain_fault(error) if isinstance(error, EOFError) else str(error)
    message = " ".join(message.split())
    if isinstance(error, errors.NoCredentialsError):
        return f"no AWS credentials found: {SIGN_IN}"
    if isinstance(error, NO_CREDENTIALS):
        return f"the AWS credentials cannot be used: {message}; {SIGN_IN}"
    if isinstance(error, UNREACHABLE):
        return f"AWS cannot be reached: {message}; check the region in dl.cfg and your network"
    return message


def explain_refusal(error: errors.ClientError) -> str:
    """What AWS refused, why, and what to do, in one line."""
    code, operation = error_code(error), error.operation_name
    message = " ".join(error.response["Error"].get("Message", "").split())
    if code in EXPIRED:
        return f"the session token has expired: {SIGN_IN} with a new one"
    if code in UNKNOWN_KEYS:
        return f"AWS does not accept these keys ({code}): {SIGN_IN}"
    if code in DENIED:
        return explain_denial(operation, message)
    if code in THROTTLED:
        return f"AWS throttles requests ({operation}: {code}): try again in a few minutes"
    if code == "NoSuchBucket":
        bucket = error.response["Error"].get("BucketName", "of that name")
        return f"there is no bucket {bucket}: run iac_create.py --set-up, or correct dl.cfg"
    return f"AWS refused {operation}: {message} ({code})"


def explain_denial(operation: str, message: str) -> str:
    """What is not allowed, and where the permission is."""
    if "authorize instance profile" in message:
        return f"{message}: if it is new, run the same command again in a minute"
    return (
        f"not allowed to {operation}: {message}; aws/iam-policy.json lists what you need"
        " (for what is made once: aws/iam-policy-set-up.json)"
    )


def error_code(error: errors.ClientError) -> str:
    """AWS's code for what went wrong."""
    return error.response["Error"].get("Code", "")


# Retries and waiting.


def make_once_client(session: boto3.Session) -> EMRClient:
    """A client without retries: RunJobFlow sent twice would create two clusters."""
    return session.client("emr", config=Config(retries={"total_max_attempts": 1}))


def ask_once(ask: Callable[[], Answer], every: float = POLL_SECONDS) -> Answer:
    """Send a request by a client of make_once_client; retry only while AWS throttles it.

    A throttled request was not carried out. Without an answer that is unknown: an AwsError says so.
    """
    try:
        return next(poll(ask, every, again_when_unreachable=False))
    except errors.EndpointConnectionError:
        raise  # nothing was sent
    except UNREACHABLE as error:
        raise AwsError(
            f"AWS gave no answer ({' '.join(str(error).split())}), so the request may have been"
            " carried out or not: run the same command again, it first looks for what exists"
        ) from None


def poll(
    fetch: Callable[[], Answer],
    every: float = POLL_SECONDS,
    timeout: float | None = None,
    clock: Clock = CLOCK,
    *,
    again_when_unreachable: bool = True,
) -> Iterator[Answer]:
    """Yield the answers of fetch, again and again; back off while AWS throttles or is silent.

    Raises StillGoingError when the next answer would come after the timeout, in seconds.
    """
    started, pause = clock.now(), every
    while True:
        try:
            answer = fetch()
        except (errors.ClientError, *UNREACHABLE) as error:
            if not may_pass(error, again_when_unreachable):
                raise
            pause = min(max(pause * 2, 1.0), LONGEST_PAUSE)
            warn(f"{explain_error(error)}; asking again in {duration(pause)}")
        else:
            pause = every
            yield answer
        if timeout is not None and clock.now() + pause - started > timeout:
            raise StillGoingError(
                f"gave up waiting after {duration(clock.now() - started)}; "
                "it goes on: see get_cluster_status.py"
            )
        clock.sleep(pause)


def may_pass(error: Exception, unreachable: bool = True) -> bool:
    """Whether a retry may help: AWS throttles or, if unreachable is true, gives no answer."""
    if isinstance(error, errors.ClientError):
        return error_code(error) in THROTTLED
    return unreachable and isinstance(error, UNREACHABLE)
