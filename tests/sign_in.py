"""Each way to sign in to AWS, as the AWS CLI leaves it in a home, with keys that are no one's."""

from __future__ import annotations

import hashlib
import json
import textwrap
import time
from dataclasses import dataclass
from datetime import datetime, timezone

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

HALF_AN_HOUR, FIFTY_MINUTES = 1795, 3000  # seconds
SESSION = "arn:aws:iam::123456789012:user/me"  # of aws login


@dataclass(frozen=True)
class Keys:
    """Temporary credentials that are no one's; the name tells them apart."""

    name: str

    @property
    def key_id(self):
        """What each request tells of them."""
        return f"ASIA{self.name.upper()}"

    @property
    def secret(self):
        """What no request tells, with the characters that a URL or XML would write otherwise."""
        return f"canary/secret+of/{self.name}+must/stay/home"

    @property
    def token(self):
        """What is for S3 only."""
        return f"canary-token-of-{self.name}"

    @property
    def texts(self):
        """What must be found nowhere."""
        return self.secret.encode(), self.token.encode()

    def under(self, *names):
        """The three under other names, as each way of signing in has its own."""
        return dict(zip(names, (self.key_id, self.secret, self.token)))


CANARY = Keys("canary")
ENVIRONMENT = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
NEVER, LONG_AGO = "2099-01-01T00:00:00Z", "2020-01-01T00:00:00Z"
CAMEL_CASE = ("accessKeyId", "secretAccessKey", "sessionToken")


def write(path, text):
    """Write a file in a folder that may be a new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))


def write_profiles(home, program="", end=""):
    """A profile for each way to sign in, and one that asks for an MFA code.

    For a credential process, its program and the end of what it prints.
    """
    profile = Keys("profile").under(*(name.lower() for name in ENVIRONMENT))
    lines = [f"{name} = {value}" for name, value in profile.items()]
    write(home / ".aws/credentials", "\n".join(["[profile]", *lines]))
    end = end or datetime.fromtimestamp(time.time() + FIFTY_MINUTES, timezone.utc).isoformat()
    printed = Keys("process").under("AccessKeyId", "SecretAccessKey", "SessionToken")
    write(home / "printed.json", json.dumps({"Version": 1, "Expiration": end, **printed}))
    write(
        home / ".aws/config",
        f"""
        [profile process]
        credential_process = {program or f"/bin/cat {home}/printed.json"}
        [profile login]
        login_session = {SESSION}
        [profile mfa]
        role_arn = arn:aws:iam::123456789012:role/reader
        source_profile = profile
        mfa_serial = arn:aws:iam::123456789012:mfa/me
        [profile sso]
        sso_session = home
        sso_account_id = 123456789012
        sso_role_name = reader
        [sso-session home]
        sso_region = us-east-1
        sso_start_url = https://home.example
        """,
    )


def write_sso_token(home, until):
    """Leave what aws sso login leaves."""
    token = {"accessToken": "signed-in", "expiresAt": until}
    name = hashlib.sha1(b"home").hexdigest()
    write(home / f".aws/sso/cache/{name}.json", json.dumps(token))


def write_login_token(home, until):
    """Leave what aws login leaves; where its access token has ended, boto3 asks for the next."""
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    access = {**CANARY.under(*CAMEL_CASE), "accountId": "123456789012", "expiresAt": until}
    token = {"clientId": "x", "refreshToken": "x", "dpopKey": key.decode(), "accessToken": access}
    name = hashlib.sha256(SESSION.encode()).hexdigest()
    write(home / f".aws/login/cache/{name}.json", json.dumps(token))


def without_terminal(open_file):
    """Python's os.open where there is no terminal to ask for a code in."""

    def open_or_refuse(path, *more, **options):
        if path == "/dev/tty":
            raise OSError
        return open_file(path, *more, **options)

    return open_or_refuse
