"""What the scripts share: errors in one line, waiting, progress, and whose keys are used."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys

import botocore.exceptions as errors
import pytest
from boto3.exceptions import S3UploadFailedError
from botocore.config import Config
from rich.console import Console

import get_cluster_status
import iac_create
import iac_submit_etl
import iac_terminate
from aws.cluster import failure_reason
from aws.code import ROOT
from aws.console import Clock, Progress, make_result_console, say
from aws.s3 import is_s3, split_uri
from aws.session import (
    DENIED,
    EXPIRED,
    THROTTLED,
    UNKNOWN_KEYS,
    AwsError,
    StillGoingError,
    ask_once,
    explain_error,
    make_once_client,
    make_session,
    poll,
    run_script,
)
from configs import ConfigError
from lake.exit_codes import ExitCode
from tests.aws_fixtures import *  # noqa: F403 (fixtures)
from tests.sign_in import CANARY, LONG_AGO, NEVER, SESSION, without_terminal, write_login_token

SIGN_IN = "run aws login, aws sso login or aws configure, or fill in keys.cfg"
URL = "https://elasticmapreduce.us-west-2.amazonaws.com/"
SCRIPTS = [iac_create, get_cluster_status, iac_terminate]
ALL_SCRIPTS = [*SCRIPTS, iac_submit_etl]


def refusal(code, message="why", operation="RunJobFlow", **more):
    return errors.ClientError({"Error": {"Code": code, "Message": message, **more}}, operation)


# Errors: one line each, with the cure.


@pytest.mark.parametrize(
    ("error", "told"),
    [
        *[
            (refusal(code), f"the session token has expired: {SIGN_IN} with a new one")
            for code in sorted(EXPIRED)
        ],
        *[
            (refusal(code), f"AWS does not accept these keys ({code}): {SIGN_IN}")
            for code in sorted(UNKNOWN_KEYS)
        ],
        *[
            (
                refusal(code, "User x may\n not"),
                "not allowed to RunJobFlow: User x may not;"
                " aws/iam-policy.json lists what you need"
                " (for what is made once: aws/iam-policy-set-up.json)",
            )
            for code in sorted(DENIED)
        ],
        *[
            (
                refusal(code),
                f"AWS throttles requests (RunJobFlow: {code}): try again in a few minutes",
            )
            for code in sorted(THROTTLED)
        ],
        (
            refusal("NoSuchBucket", BucketName="b"),
            "there is no bucket b: run iac_create.py --set-up, or correct dl.cfg",
        ),
        (
            refusal("NoSuchBucket"),
            "there is no bucket of that name: run iac_create.py --set-up, or correct dl.cfg",
        ),
        (refusal("Odd", "a\nb"), "AWS refused RunJobFlow: a b (Odd)"),
        (errors.NoCredentialsError(), f"no AWS credentials found: {SIGN_IN}"),
        (
            errors.PartialCredentialsError(provider="env", cred_var="secret"),
            "the AWS credentials cannot be used: Partial credentials found in env,"
            f" missing: secret; {SIGN_IN}",
        ),
        (
            errors.ProfileNotFound(profile="x"),
            "the AWS credentials cannot be used: The config profile (x) could not be found;"
            f" {SIGN_IN}",
        ),
        (
            errors.UnauthorizedSSOTokenError(),
            "the AWS credentials cannot be used: The SSO session associated with this profile has"
            " expired or is otherwise invalid. To refresh this SSO session run aws sso login with"
            f" the corresponding profile.; {SIGN_IN}",
        ),
        (
            errors.EndpointConnectionError(endpoint_url=URL),
            f'AWS cannot be reached: Could not connect to the endpoint URL: "{URL}";'
            " check the region in dl.cfg and your network",
        ),
        (
            errors.ReadTimeoutError(endpoint_url=URL),
            f'AWS cannot be reached: Read timeout on endpoint URL: "{URL}";'
            " check the region in dl.cfg and your network",
        ),
        (
            EOFError(),
            "the AWS credentials cannot be used: the sign-in asks for an MFA code, and there is no"
            f" terminal to type it in; {SIGN_IN}",
        ),
        (AwsError("in\none line"), "in one line"),
        (S3UploadFailedError("upload failed"), "upload failed"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_an_error_of_aws_is_one_line_with_its_cure(error, told):
    assert explain_error(error) == told


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ConfigError("wrong"), 2, "test_aws.py: error: wrong\n"),
        (AwsError("no"), 1, "test_aws.py: error: no\n"),
        (StillGoingError("later"), 1, "test_aws.py: error: later\n"),
        (
            errors.NoCredentialsError(),
            1,
            f"test_aws.py: error: {explain_error(errors.NoCredentialsError())}\n",
        ),
        (S3UploadFailedError("x"), 1, "test_aws.py: error: x\n"),
        (EOFError(), 1, f"test_aws.py: error: {explain_error(EOFError())}\n"),
        (
            KeyboardInterrupt(),
            130,
            "test_aws.py: stopped; what was begun on AWS goes on: see get_cluster_status.py\n",
        ),
    ],
)
def test_an_expected_error_is_a_line_and_an_exit_code(error, code, told, capsys):
    def command(argv):
        raise error

    assert run_script(command, []) == code
    assert capsys.readouterr() == ("", told)


def test_a_mistake_in_the_code_keeps_its_traceback(capsys):
    def command(argv):
        raise KeyError("bug")

    with pytest.raises(KeyError):
        run_script(command, [])


def test_the_arguments_reach_the_command_and_its_code_comes_back():
    assert run_script(lambda argv: len(argv), ["a", "b", "c"]) == 3


def test_messages_of_aws_are_printed_as_they_are_however_long(capsys):
    text = "[red]not markup[/red] :smile: " + "x" * 300

    say(text)

    assert capsys.readouterr().err == text + "\n"


# The same errors through the scripts themselves.


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("ExpiredTokenException", "the session token has expired: "),
        ("UnrecognizedClientException", "AWS does not accept these keys"),
        (
            "AccessDeniedException",
            "not allowed to ListClusters: no, you may not; aws/iam-policy.json",
        ),
    ],
)
def test_every_script_says_what_is_wrong_with_the_keys(run, account, script, code, told):
    account.refuse("elasticmapreduce", code, "no, you may not", operation="ListClusters", times=9)

    outcome = run(script.main)

    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith(f"{script.__name__}.py: error: {told}")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_every_script_without_credentials_says_how_to_get_some(run, account, script, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    outcome = run(script.main)

    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == f"{script.__name__}.py: error: no AWS credentials found: {SIGN_IN}\n"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_every_script_refuses_a_misspelt_region_before_it_asks(run, emulator, script):
    outcome = run(script.main, "--region", "us-wset-2")

    assert (outcome.code, outcome.err) == (
        2,
        f"{script.__name__}.py: error: region us-wset-2 is unknown; did you mean us-west-2?"
        " (region in [emr], or --region)\n",
    )
    assert emulator.requests == []


def test_a_region_like_no_other_asks_for_a_newer_boto3(run, emulator):
    outcome = run(get_cluster_status.main, "--region", "zz-moon-1")

    assert "region zz-moon-1 is unknown; if it is new, update boto3 (" in outcome.err


@pytest.mark.parametrize("region", ["us-gov-west-1", "cn-north-1", "eu-central-1"])
def test_regions_of_all_partitions_are_known(region):
    assert make_session(None, region).region_name == region


def test_an_endpoint_that_does_not_answer_is_reported(run, emulator, monkeypatch):
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=1)
    monkeypatch.setattr("aws.session.CLIENT_CONFIG", config)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    outcome = run(get_cluster_status.main)

    assert outcome.code == 1
    assert outcome.last_line == (
        "get_cluster_status.py: error: AWS cannot be reached: Could not connect to the endpoint"
        ' URL: "http://127.0.0.1:9/"; check the region in dl.cfg and your network'
    )


@pytest.mark.parametrize("script", ALL_SCRIPTS, ids=lambda script: script.__name__)
def test_every_script_has_the_common_flags(run, script):
    told = run(script.main, "--help")

    assert told.code == 0
    for flag in ("--config", "--keys", "--region", "--cluster-name", "--poll-seconds"):
        assert flag in told.out


def test_a_missing_configuration_names_the_flag(run):
    outcome = run(get_cluster_status.main, "--config", "nowhere.cfg")

    assert (outcome.code, outcome.err) == (
        2,
        "get_cluster_status.py: error: nowhere.cfg: no such file; name another with --config\n",
    )


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *[([f"{script.__name__}.py"], f"{script.__name__}.py") for script in ALL_SCRIPTS],
        (["etl.py"], "etl.py"),
        *[(["-m", module], "aws") for module in ("aws.catalog", "aws.redshift")],
    ],
)
def test_without_the_environments_packages_a_script_says_how_to_get_them(command, name):
    no_packages = [sys.executable, "-E", "-S", *command]
    done = subprocess.run(no_packages, cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (
        ExitCode.USAGE,
        "",
        f"{name}: error: pyspark is not installed: run make demo once, then . .venv/bin/activate\n",
    )


# Keys.


def write_keys(path, mode):
    path.write_text(
        "[aws]\naccess_key_id = AKIAFROMTHEFILE\nsecret_access_key = s\nsession_token = t\n"
    )
    path.chmod(mode)
    return str(path)


def test_the_keys_of_keys_cfg_sign_the_requests(run, account, tmp_path):
    run(get_cluster_status.main, "--keys", write_keys(tmp_path / "mine.cfg", 0o600))

    headers = account.requests[0].headers
    assert "Credential=AKIAFROMTHEFILE/" in headers["Authorization"]
    assert headers["X-Amz-Security-Token"] == "t"


def test_blank_keys_leave_the_choice_to_boto3(run, account):
    run(get_cluster_status.main)

    assert "Credential=testing/" in account.requests[0].headers["Authorization"]


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, True), (0o604, True)])
def test_keys_that_others_can_read_are_warned_of(run, account, tmp_path, mode, warned):
    path = write_keys(tmp_path / "mine.cfg", mode)

    outcome = run(get_cluster_status.main, "--keys", path)

    line = f"warning: others on this computer can read {path}: run chmod 600 {path}\n"
    assert outcome.err == (line if warned else "")


# Every way of signing in that fails.

NO_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
KEYS_OF_Y = "[profile y]\naws_access_key_id = AKIA\naws_secret_access_key = s\n"
ROLE_OF_X = "role_arn = arn:aws:iam::123456789012:role/r\nsource_profile = y\nmfa_serial = a:b\n"
UNUSABLE = "the AWS credentials cannot be used"
EXPIRED_KEYS = json.dumps(
    {"Version": 1, "Expiration": LONG_AGO}
    | CANARY.under("AccessKeyId", "SecretAccessKey", "SessionToken")
)


@pytest.fixture
def sign_in(tmp_path, monkeypatch):
    """Use a profile of the given text, without a terminal."""
    for name in NO_CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.open", without_terminal(os.open))

    def sign_in_as_x(profile):
        path = tmp_path / "aws-config"
        path.write_text(f"[profile x]\nregion = us-west-2\n{profile}")
        for name, value in (("CONFIG_FILE", str(path)), ("PROFILE", "x")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("HOME", str(tmp_path))

    return sign_in_as_x


@pytest.mark.parametrize(
    ("profile", "told"),
    [
        (
            "credential_process = /no/such/program\n",
            f"{UNUSABLE}: credential_process of the profile fails: [Errno 2] No such file or"
            f" directory: '/no/such/program'; {SIGN_IN}",
        ),
        (
            "credential_process = /bin/echo hello\n",
            f"{UNUSABLE}: credential_process of the profile fails: Expecting value: line 1 column 1"
            f" (char 0); {SIGN_IN}",
        ),
        (
            "credential_process = /bin/echo [1]\n",
            f"{UNUSABLE}: credential_process of the profile fails: 'list' object has no attribute"
            f" 'get'; {SIGN_IN}",
        ),
        (
            f"credential_process = /bin/echo '{EXPIRED_KEYS}'\n",
            f"{UNUSABLE}: Credentials were refreshed, but the refreshed credentials are still"
            f" expired.; {SIGN_IN}",
        ),
        (
            "credential_process = /bin/false\n",
            f"{UNUSABLE}: Error when retrieving credentials from custom-process:; {SIGN_IN}",
        ),
        (
            ROLE_OF_X + KEYS_OF_Y,
            f"{UNUSABLE}: the sign-in asks for an MFA code, and there is no terminal to type it in;"
            f" {SIGN_IN}",
        ),
        (
            "sso_session = s\nsso_account_id = 123456789012\nsso_role_name = r\n"
            "[sso-session s]\nsso_region = us-west-2\nsso_start_url = https://x\n",
            f"{UNUSABLE}: Error loading SSO Token: Token for s does not exist; {SIGN_IN}",
        ),
    ],
    ids=["no program", "no JSON", "a list", "expired", "a program that fails", "MFA", "SSO"],
)
def test_a_sign_in_that_fails_is_one_line(run, emulator, sign_in, profile, told):
    sign_in(profile)

    outcome = run(get_cluster_status.main)

    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == f"get_cluster_status.py: error: {told}\n"


def test_a_profile_of_aws_login_is_used_or_names_the_package(run, emulator, sign_in):
    sign_in("login_session = arn:aws:iam::123456789012:user/me\n")

    outcome = run(get_cluster_status.main)

    assert outcome.code == 1
    # botocore's own words in between are of its version.
    without_package = (
        "get_cluster_status.py: error: a profile of aws login needs boto3[crt]: run pip install -r"
        " requirements.txt\n"
    )
    ended = (
        rf"get_cluster_status.py: error: {UNUSABLE}: Error loading login session token: [^\n]+\n"
    )
    assert outcome.err == without_package or re.fullmatch(ended, outcome.err)
    assert outcome.err == without_package or outcome.err.endswith(f"; {SIGN_IN}\n")


def test_the_keys_of_aws_login_sign_the_requests(run, account, sign_in, tmp_path):
    sign_in(f"login_session = {SESSION}\n")
    write_login_token(tmp_path, NEVER)

    outcome = run(get_cluster_status.main)

    assert outcome.code == 0, outcome.err
    assert f"Credential={CANARY.key_id}/" in account.requests[0].headers["Authorization"]


def test_what_an_aws_login_has_left_may_be_damaged(run, emulator, sign_in, tmp_path):
    sign_in(f"login_session = {SESSION}\n")
    write_login_token(tmp_path, NEVER)
    (token,) = tmp_path.glob(".aws/login/cache/*.json")
    token.write_text("{")

    outcome = run(get_cluster_status.main)

    assert outcome.code == 1
    assert outcome.err == (
        f"get_cluster_status.py: error: {UNUSABLE}: a file that the last sign-in has left in"
        f" ~/.aws is damaged; {SIGN_IN}\n"
    )


def test_requirements_hold_what_aws_login_needs():
    lines = (ROOT / "requirements.txt").read_text().splitlines()

    names = {line.partition("==")[0] for line in lines if line.startswith("boto3")}
    assert names == {"boto3[crt]"}


# Why something is in its state.


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ({}, "EMR gives no reason"),
        ({"StateChangeReason": {}}, "EMR gives no reason"),
        ({"StateChangeReason": {"Code": "C", "Message": "M"}}, "C: M"),
        ({"FailureDetails": {"Reason": "R", "Message": "M", "LogFile": "L"}}, "R: M"),
        ({"FailureDetails": {"Reason": "R"}, "StateChangeReason": {"Message": "R"}}, "R"),
    ],
)
def test_the_reason_is_all_that_emr_says_once(status, told):
    assert failure_reason(status) == told


# Waiting.


def make_clock():
    slept = []
    return Clock(now=lambda: float(sum(slept)), sleep=slept.append), slept


def test_polling_pauses_between_looks_and_not_before_the_first():
    clock, slept = make_clock()
    looks = poll(iter("abc").__next__, every=15, clock=clock)

    assert [next(looks), next(looks), next(looks)] == ["a", "b", "c"]
    assert slept == [15, 15]


def answers(*given):
    """A function that gives one answer after the other, and raises those that are errors."""
    left = list(given)

    def answer():
        value = left.pop(0)
        if isinstance(value, Exception):
            raise value
        return value

    return answer


@pytest.mark.parametrize(
    "error", [refusal("ThrottlingException"), errors.ReadTimeoutError(endpoint_url=URL)]
)
def test_polling_slows_down_while_aws_throttles_or_is_away_and_speeds_up_again(error, capsys):
    clock, slept = make_clock()
    looks = poll(answers("a", error, error, "b", "c"), every=15, clock=clock)

    assert [next(looks), next(looks), next(looks)] == ["a", "b", "c"]
    assert slept == [15, 30, 60, 15]
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"warning: {explain_error(error)}; asking again in 30 s"
    assert len(told) == 2


def test_polling_never_pauses_longer_than_four_minutes():
    clock, slept = make_clock()
    looks = poll(answers(*[refusal("Throttling")] * 9, "a"), every=15, clock=clock)

    assert next(looks) == "a"
    assert max(slept) == slept[-1] == 240


def test_polling_raises_any_other_refusal_at_once():
    clock, slept = make_clock()

    with pytest.raises(errors.ClientError, match="ExpiredToken"):
        next(poll(answers(refusal("ExpiredToken")), clock=clock))

    assert slept == []


def test_polling_gives_up_before_the_pause_that_would_be_too_long():
    clock, slept = make_clock()
    looks = poll(lambda: "a", every=15, timeout=40, clock=clock)

    assert [next(looks), next(looks), next(looks)] == ["a"] * 3
    with pytest.raises(StillGoingError, match="gave up waiting after 30 s; it goes on"):
        next(looks)
    assert slept == [15, 15]


def test_asking_once_does_not_ask_again_where_no_answer_came():
    asked = answers(errors.ReadTimeoutError(endpoint_url=URL), "second")

    with pytest.raises(AwsError, match=r"gave no answer .* run the same command again"):
        ask_once(asked, every=0)

    assert asked() == "second"


def test_the_once_client_does_not_retry(session):
    assert make_once_client(session).meta.config.retries["total_max_attempts"] == 1


def test_the_other_clients_slow_down_by_themselves(session):
    retries = session.client("emr").meta.config.retries

    assert (retries["mode"], retries["total_max_attempts"]) == ("adaptive", 11)


# Narrating.


def test_off_a_terminal_each_new_state_is_one_plain_line(capsys):
    with Progress() as progress:
        for second in range(3):
            progress.show("STARTING", f"{second} s")
        progress.show("WAITING", "3 s")

    assert capsys.readouterr().err == "STARTING 0 s\nWAITING 3 s\n"


def test_off_a_terminal_a_state_that_lasts_is_printed_again_every_half_minute(capsys):
    seconds = [0.0]
    with Progress(Clock(now=lambda: seconds[0])) as progress:
        for seconds[0], state in [(0, "A"), (29, "A"), (31, "A"), (45, "B"), (74, "B"), (75, "B")]:
            progress.show(state, f"{seconds[0]} s")

    assert capsys.readouterr().err == "A 0 s\nA 31 s\nB 45 s\nB 75 s\n"


def test_on_a_terminal_one_line_changes_in_place_and_the_last_one_stays(monkeypatch):
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, highlight=False)
    monkeypatch.setattr("aws.console.make_console", lambda: console)

    with Progress() as progress:
        progress.show("STARTING", "0 s")
        progress.show("WAITING", "9 s")

    before, _, after = output.getvalue().rpartition("\x1b[2K")  # where the line is erased
    assert "WAITING 9 s" in before
    assert after == "WAITING 9 s\n"


class Left(io.StringIO):
    """A pipe whose reader, such as head, has seen enough."""

    def write(self, _):
        """Fail as a closed pipe does."""
        raise BrokenPipeError


def test_a_reader_of_a_rendered_result_may_leave(monkeypatch):
    monkeypatch.setattr("os.dup2", lambda *_: None)  # the script's own, on stdout

    def show(_):
        console = make_result_console()
        console.file = Left()
        console.print("a cluster")
        return ExitCode.FAILED

    assert run_script(show) == ExitCode.DONE


# S3.


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://bucket/a/b", ("bucket", "a/b")),
        ("s3n://bucket/logs/", ("bucket", "logs/")),
        ("s3://bucket", ("bucket", "")),
    ],
)
def test_uris_are_split_as_emr_gives_them_back(uri, parts):
    assert split_uri(uri) == parts


@pytest.mark.parametrize(
    ("path", "remote"), [("s3://b/x", True), ("s3a://b/x", True), ("data/s3", False)]
)
def test_paths_in_s3_are_distinguished_from_folders(path, remote):
    assert is_s3(path) is remote


# The scripts and aws/ themselves.


def test_no_script_is_imported_and_no_parsed_command_line_is_passed_on():
    scripts = "|".join(path.stem for path in [*ROOT.glob("iac_*.py"), *ROOT.glob("get_*.py")])
    imports = re.compile(rf"^(import|from) ({scripts})\b", re.MULTILINE)
    for path in [*ROOT.glob("*.py"), *ROOT.glob("aws/*.py")]:
        text = path.read_text()
        assert not imports.search(text), path
        assert "argparse.Namespace" not in text or path.parent == ROOT, path
