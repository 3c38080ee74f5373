"""How a laptop script talks to AWS: flags, session, errors in one line, retries and waiting."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
import botocore.exceptions as errors
import botocore.session
from boto3.exceptions import Boto3Error
from botocore.config import Config

from aws.console import say, warn
from configs import DL_CFG, KEYS_CFG, ConfigError, EmrConfig, load_aws_keys, load_emr_config
from lake.formats import duration

if TYPE_CHECKING:
    from mypy_boto3_emr import EMRClient

    from configs import AwsKeys, Flags

# Adaptive: the client slows down by itself when AWS says that it is asked too often.
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
    errors.CredentialRetrievalError,
    errors.NoCredentialsError,
    errors.PartialCredentialsError,
    errors.ProfileNotFound,
    errors.SSOError,
    errors.TokenRetrievalError,
)
SIGN_IN = "run aws sso login or aws configure, or fill in keys.cfg"
Answer = TypeVar("Answer")


class AwsError(Exception):
    """Something on AWS that stops the script, told in one line: what, where and what to do."""


class StillGoingError(AwsError):
    """What was waited for goes on, but not the waiting."""


@dataclasses.dataclass(frozen=True)
class Clock:
    """Time as the waiting sees it; tests bring their own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def run_script(
    command: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None
) -> int:
    """The exit code of a command, with its expected errors told in one line on stderr."""
    name = Path(inspect.getfile(command)).name
    try:
        code = command(argv)
        sys.stdout.flush()  # a reader that has gone shows here, not at the interpreter's exit
    except ConfigError as error:
        say(f"{name}: error: {error}")
        return 2
    except (AwsError, errors.BotoCoreError, errors.ClientError, Boto3Error) as error:
        say(f"{name}: error: {explain_error(error)}")
        return 1
    except BrokenPipeError:  # whoever reads, say head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        say(f"{name}: stopped; what was begun on AWS goes on: see get_cluster_status.py")
        return 130
    return code


def add_flags(parser: argparse.ArgumentParser, keys: Sequence[str] = ()) -> None:
    """The flags that every script of a cluster has, and one for each of these keys of [emr]."""
    add_file_flags(parser)
    parser.add_argument(
        "--poll-seconds", type=float, default=POLL_SECONDS, metavar="SECONDS", help="between looks"
    )
    add_setting_flags(parser, "emr", EmrConfig, ("region", "cluster_name", *keys))


def add_file_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that name other files of settings and keys."""
    parser.add_argument("--config", type=Path, default=DL_CFG, help="instead of dl.cfg")
    parser.add_argument("--keys", type=Path, default=KEYS_CFG, help="instead of keys.cfg")


def add_setting_flags(
    parser: argparse.ArgumentParser, section: str, shape: type[Any], keys: Sequence[str]
) -> None:
    """A flag for each of these keys of a section of dl.cfg: --core-count for core_count."""
    expects = {field.name: field.metadata.get("expects") for field in dataclasses.fields(shape)}
    for key in dict.fromkeys(keys):
        flag = f"--{key.replace('_', '-')}"
        parser.add_argument(flag, dest=f"{section}.{key}", metavar="VALUE", help=expects[key])


def given_flags(args: Mapping[str, Any]) -> Flags:
    """The settings that were given as flags: the arguments whose name is section.key."""
    given = {name.partition("."): value for name, value in args.items() if value is not None}
    return {(section, key): value for (section, dot, key), value in given.items() if dot}


def load_config(args: argparse.Namespace, required: Sequence[str] = ()) -> EmrConfig:
    """The cluster's settings as dl.cfg, the environment and the flags of add_flags give them."""
    return load_emr_config(args.config, given_flags(vars(args)), required=required)


def connect(args: argparse.Namespace, config: EmrConfig) -> boto3.Session:
    """A session with the keys of keys.cfg, or with what boto3 finds where that is blank."""
    keys = load_aws_keys(args.keys)
    if keys and os.name == "posix" and args.keys.stat().st_mode & 0o077:
        warn(f"others on this computer can read {args.keys}: run chmod 600 {args.keys}")
    return make_session(keys, config.region)


def make_session(keys: AwsKeys | None, region: str) -> boto3.Session:
    """A session for the region; all its clients retry and slow down as CLIENT_CONFIG says."""
    core = botocore.session.Session()
    core.set_default_client_config(CLIENT_CONFIG)
    credentials = dataclasses.asdict(keys) if keys else {}
    session = boto3.Session(
        botocore_session=core,
        region_name=region,
        **{f"aws_{name}": value for name, value in credentials.items()},
    )
    check_region(session, region)
    return session


def check_region(session: boto3.Session, region: str) -> None:
    """Refuse a misspelt region before its endpoint is looked for in vain."""
    known = [
        name
        for partition in session.get_available_partitions()
        for name in session.get_available_regions("emr", partition)
    ]
    if region not in known:
        near = difflib.get_close_matches(region, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "if it is new, update boto3"
        raise ConfigError(f"region {region} is unknown; {hint} (region in [emr], or --region)")


def explain_error(error: Exception) -> str:
    """What went wrong and the cure, in one line."""
    if isinstance(error, errors.ClientError):
        return explain_refusal(error)
    message = " ".join(str(error).split())
    if isinstance(error, errors.NoCredentialsError):
        return f"no AWS credentials found: {SIGN_IN}"
    if isinstance(error, NO_CREDENTIALS):
        return f"the AWS credentials cannot be used: {message}; {SIGN_IN}"
    if isinstance(error, UNREACHABLE):
        return f"AWS cannot be reached: {message}; check the region in dl.cfg and your network"
    return message


def explain_refusal(error: errors.ClientError) -> str:
    """What AWS refused, why, and the cure, in one line."""
    code, operation = error_code(error), error.operation_name
    message = " ".join(error.response["Error"].get("Message", "").split())
    if code in EXPIRED:
        return f"the session token has expired: {SIGN_IN} with a new one"
    if code in UNKNOWN_KEYS:
        return f"AWS does not accept these keys ({code}): {SIGN_IN}"
    if code in DENIED:
        return f"not allowed to {operation}: {message}; iam-policy.json lists what you need"
    if code in THROTTLED:
        return f"AWS is asked too often ({operation}: {code}): try again in a few minutes"
    if code == "NoSuchBucket":
        bucket = error.response["Error"].get("BucketName", "of that name")
        return f"there is no bucket {bucket}: run iac_create.py --create-bucket, or mend dl.cfg"
    return f"AWS refused {operation}: {message} ({code})"


def error_code(error: errors.ClientError) -> str:
    """AWS's own name for what went wrong."""
    return error.response["Error"].get("Code", "")


def make_once_client(session: boto3.Session) -> EMRClient:
    """A client that never repeats a request by itself: RunJobFlow twice would be two clusters."""
    return session.client("emr", config=Config(retries={"total_max_attempts": 1}))


def ask_once(ask: Callable[[], Answer], every: float = POLL_SECONDS) -> Answer:
    """What a client of make_once_client answers; asked again only where AWS threw the request out.

    Where no answer comes, nobody knows whether the request was carried out, and the error says so.
    """
    try:
        return next(poll(ask, every, again_when_unreachable=False))
    except errors.EndpointConnectionError:
        raise  # nothing was sent
    except UNREACHABLE as error:
        raise AwsError(
            f"AWS gave no answer ({' '.join(str(error).split())}) and may have done it or not: "
            "run the same again, it first looks for what is there"
        ) from None


def poll(
    fetch: Callable[[], Answer],
    every: float = POLL_SECONDS,
    timeout: float | None = None,
    clock: Clock = Clock(),
    *,
    again_when_unreachable: bool = True,
) -> Iterator[Answer]:
    """What fetch answers, again and again; slower while AWS throttles or cannot be reached.

    Raises StillGoingError when the next answer would come later than the timeout's seconds.
    """
    started, pause = clock.now(), every
    while True:
        try:
            answer = fetch()
        except (errors.ClientError, *UNREACHABLE) as error:
            if not passes_by_itself(error, again_when_unreachable):
                raise
            pause = min(max(pause * 2, 1.0), LONGEST_PAUSE)
            warn(f"{explain_error(error)}; asking again in {duration(pause)}")
        else:
            pause = every
            yield answer
        if timeout is not None and clock.now() + pause - started > timeout:
            raise StillGoingError(
                f"gave up waiting after {duration(clock.now() - started)}; "
                "what was waited for goes on: see get_cluster_status.py"
            )
        clock.sleep(pause)


def passes_by_itself(error: Exception, unreachable: bool = True) -> bool:
    """Whether asking again later may help: AWS throttles, or (unless told not) does not answer."""
    if isinstance(error, errors.ClientError):
        return error_code(error) in THROTTLED
    return unreachable and isinstance(error, UNREACHABLE)
