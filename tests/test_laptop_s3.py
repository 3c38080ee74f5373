"""python etl.py straight against S3, by the real connector: each way of signing in, and none."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app

from configs import AwsKeys, ConfigError, load_etl_config
from lake import laptop
from lake.exit_codes import ExitCode
from lake.sign_in import NEEDS_CRT
from lake.tables import TABLES
from tests.factories import event, song, write_input
from tests.s3_faults import BUCKET, client, keys_of, served
from tests.sign_in import (
    CAMEL_CASE,
    CANARY,
    ENVIRONMENT,
    HALF_AN_HOUR,
    LONG_AGO,
    NEVER,
    Keys,
    without_terminal,
    write_login_token,
    write_profiles,
    write_sso_token,
)

ROOT = Path(laptop.__file__).parents[1]
ANONYMOUS = "org.apache.hadoop.fs.s3a.AnonymousAWSCredentialsProvider"
PATHS = [f"--{name.replace('_', '-')}=s3://{BUCKET}/{name}" for name in ("song_data", "log_data")]
OUTPUT = f"--output=s3://{BUCKET}/lake"
# Two rows: to compile a query takes longer than to run it.
INTERPRETED = """
spark.sql.codegen.wholeStage false
spark.sql.codegen.factoryMode NO_CODEGEN
spark.default.parallelism 1
"""
# Runs the job once for each [environment, arguments], tells all that the session knows each time,
# and keeps all that it has on this disk. Only the first run starts a JVM. The later ones give it
# the environment which a JVM that starts then would inherit.
SPY = """if True:
    import json, os, shutil, sys
    from pathlib import Path
    import etl
    from lake import spark as sessions
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    def start(builder, start=sessions.start):
        jvm = SparkContext._jvm
        if jvm:
            unmodifiable = jvm.java.lang.Class.forName("java.util.Collections$UnmodifiableMap")
            inner = unmodifiable.getDeclaredField("m")
            inner.setAccessible(True)
            inherited = inner.get(jvm.java.lang.System.getenv())
            for name in [name for name in inherited if name.startswith("AWS_")]:
                inherited.remove(name)
            for name, value in os.environ.items():
                if name.startswith("AWS_"):
                    inherited[name] = value
        return start(builder)

    def tell(spark):
        jvm, context = spark._jvm, spark.sparkContext
        print(context.getConf().getAll(), spark.sql("SET").collect())
        session = spark._jsparkSession
        for hadoop in (
            context._jsc.hadoopConfiguration(),
            session.sessionState().newHadoopConf(),
            session.sharedState().hadoopConf(),
            jvm.org.apache.spark.deploy.SparkHadoopUtil.get().conf(),
        ):
            settings = jvm.java.io.StringWriter()
            hadoop.writeXml(settings)
            print(settings.toString())
        print(jvm.java.lang.System.getProperties().toString())
        print(Path(f"/proc/{jvm.java.lang.ProcessHandle.current().pid()}/cmdline").read_text())
        print(dict(os.environ))

    sessions.start = start
    for turn, (environment, arguments) in enumerate(json.loads(sys.argv[1])):
        os.environ.update(environment)
        code = etl.main(arguments)
        if code:
            sys.exit(code)
        spark = SparkSession.active()
        tell(spark)
        shutil.copytree(os.environ["TMPDIR"], Path(os.environ["KEPT"], str(turn)))
        spark._jvm.org.apache.hadoop.fs.FileSystem.closeAll()
        spark.stop()
        print("end of turn")"""


@dataclass
class CarefulS3:
    """moto's S3, which looks who asks, and the parts of SSO and of aws login that give out keys."""

    app: object = field(default_factory=lambda: DomainDispatcherApplication(create_backend_app))
    let_in: dict = field(default_factory=lambda: {CANARY.key_id: CANARY.token})  # key id: token
    changes: int = 10**9  # how many are made before the token expires
    seen: list = field(default_factory=list)  # the key ids that came, each once in a row
    refused: list = field(default_factory=list)
    ended: bool = False  # the sign-in of aws login

    def __call__(self, environ, start_response):
        """Answer a request; those of the test itself, by boto3, always."""
        if environ["PATH_INFO"] in SIGN_INS:
            return SIGN_INS[environ["PATH_INFO"]](self, environ, start_response)
        if "Boto3" in environ.get("HTTP_USER_AGENT", ""):
            return self.app(environ, start_response)
        self.changes -= environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE")
        if self.changes < 0:
            return self.refuse("400 Bad Request", "ExpiredToken", environ, start_response)
        signed = re.search("Credential=([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
        key_id, token = signed[1] if signed else None, environ.get("HTTP_X_AMZ_SECURITY_TOKEN")
        if (key_id, token) not in self.let_in.items():
            return self.refuse("403 Forbidden", "AccessDenied", environ, start_response)
        if self.seen[-1:] != [key_id]:
            self.seen.append(key_id)
        return self.app(environ, start_response)

    def refuse(self, status, code, environ, start_response):
        """As S3 does: HEAD is answered without a reason."""
        self.refused.append(code)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = f"<Error><Code>{code}</Code><Message>The provided token ...</Message></Error>"
        start_response(status, [("Content-Type", "application/xml")])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body.encode()]

    def give_credentials_of_a_role(self, _, start_response):
        """SSO's GetRoleCredentials, for half an hour."""
        end = int((time.time() + HALF_AN_HOUR) * 1000)
        role = {**Keys("sso").under(*CAMEL_CASE), "expiration": end}
        return answer(start_response, "200 OK", {"roleCredentials": role})

    def give_credentials_of_a_login(self, environ, start_response):
        """CreateOAuth2Token, which aws login's refresh token gets a new access token from."""
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        assert environ["HTTP_DPOP"]  # signed with the key in the cache
        if self.ended:
            body = {"error": "TOKEN_EXPIRED", "message": "The refresh token has expired"}
            return answer(start_response, "401 Unauthorized", body, "AccessDeniedException")
        body = {
            "accessToken": Keys("login").under(*CAMEL_CASE),
            "tokenType": "aws_sigv4",
            "expiresIn": 900,  # AWS gives no longer one
            "refreshToken": "the next one",
        }
        return answer(start_response, "200 OK", body)


SIGN_INS = {
    "/federation/credentials": CarefulS3.give_credentials_of_a_role,
    "/v1/token": CarefulS3.give_credentials_of_a_login,
}


def answer(start_response, status, body, error=""):
    """An answer in JSON, as AWS's newer services give it."""
    headers = [("Content-Type", "application/json")]
    start_response(status, headers + ([("X-Amzn-ErrorType", error)] if error else []))
    return [json.dumps(body).encode()]


@pytest.fixture
def s3():
    """An S3 that lets in CANARY only, with one song and one play in it."""
    server = CarefulS3()
    with served(server) as server.endpoint:
        client(server.endpoint).put_bucket_acl(Bucket=BUCKET, ACL="public-read")
        yield server


@dataclass
class Laptop:
    """A home with nothing in it but the connector, a dl.cfg, and no credentials."""

    folder: Path
    environ: dict
    s3: CarefulS3

    def run(self, *arguments):
        """The job in a process of its own."""
        return self.run_python("etl.py", f"--config={self.folder / 'dl.cfg'}", *arguments)

    def run_turns(self, *turns):
        """The job for each environment and arguments, in one process which tells what it knows."""
        return self.run_python("-c", SPY, json.dumps(turns))

    def run_python(self, *command):
        """Run this Python in the environment of the laptop."""
        return subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
        )

    def set_s3(self, name="dl.cfg", **settings):
        """Write a dl.cfg that leads to the S3 of this test."""
        emulated = {
            "fs.s3a.endpoint": self.s3.endpoint,
            "fs.s3a.path.style.access": "true",
            "fs.s3a.connection.ssl.enabled": "false",
            "fs.s3a.buffer.dir": self.environ["TMPDIR"],
            **{name.replace("_", "."): value for name, value in settings.items()},
        }
        lines = "\n".join(f"{name} = {value}" for name, value in emulated.items())
        text = (ROOT / "dl.cfg").read_text().replace("[s3]\n", f"[s3]\n{lines}\n")
        path = self.folder / name
        path.write_text(text)
        return f"--config={path}"


@pytest.fixture
def laptop_with(tmp_path, s3):
    """A laptop with the input in S3."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    for name in (".ivy2", ".ivy2.5.2"):  # of either Spark
        (tmp_path / name).symlink_to(Path.home() / name)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environ["AWS_EC2_METADATA_DISABLED"] = "true"
    environ["AWS_ENDPOINT_URL_SSO"] = environ["AWS_ENDPOINT_URL_SIGNIN"] = s3.endpoint
    environ["AWS_DEFAULT_REGION"] = "us-east-1"
    environ["HOME"] = str(tmp_path)
    environ["TMPDIR"] = environ["SPARK_LOCAL_DIRS"] = str(temporary)
    environ["KEPT"] = str(tmp_path / "kept")
    environ["SPARK_CONF_DIR"] = str(tmp_path)
    (tmp_path / "spark-defaults.conf").write_text(INTERPRETED)
    environ["SPARK_SUBMIT_OPTS"] += f" -Djava.io.tmpdir={temporary}"
    write_input(tmp_path / "in", [song()], [event()])
    for path in (tmp_path / "in").rglob("*.json"):
        key = path.relative_to(tmp_path / "in").as_posix()
        client(s3.endpoint).upload_file(str(path), BUCKET, key, {"ACL": "public-read"})
    machine = Laptop(tmp_path, environ, s3)
    machine.set_s3()
    return machine


def only_error(done):
    """The one line of a run that failed, after what it narrated."""
    assert "Traceback" not in done.stderr
    assert "\tat " not in done.stderr
    (line,) = re.findall(r"(?m)^etl\.py: error: (.*)", done.stderr)
    assert done.stderr.endswith(f"{line}\n")
    return line


# ---- Ways to sign in -----------------------------------------------------------------------------


def test_a_profile_is_enough_for_a_run_and_its_secret_is_nowhere(laptop_with, s3):
    done = run_as(laptop_with, ["profile"], *PATHS, OUTPUT)
    published = keys_of(client(s3.endpoint), "lake")
    assert {key.split("/")[0] for key in published} == {"_etl", *(table.name for table in TABLES)}
    assert any(path.is_file() for path in (laptop_with.folder / "kept").rglob("*"))
    assert not find_secrets(laptop_with, done, ["profile"])


def test_each_other_way_is_enough_and_its_secret_is_nowhere(laptop_with, s3):
    ways = ["sso", "process", "login"]
    done = run_as(laptop_with, [*ways, None], *PATHS, OUTPUT, "--dry-run")
    ends = re.findall(r"(?m)^the AWS credentials end at \d\d:\d\d UTC, in (\d\d) min", done.stderr)
    assert re.fullmatch(r"29 4\d 14", " ".join(ends))
    assert not find_secrets(laptop_with, done, ways)


def run_as(machine, ways, *arguments):
    """The job once for each way, where S3 lets them in; None: as nobody, for a public bucket."""
    write_profiles(machine.folder)
    write_sso_token(machine.folder, NEVER)
    write_login_token(machine.folder, LONG_AGO)
    machine.s3.let_in = {way and Keys(way).key_id: way and Keys(way).token for way in ways}
    public = machine.set_s3("public.cfg", fs_s3a_aws_credentials_provider=ANONYMOUS)
    private = machine.set_s3("dl.cfg")
    turns = [
        ({"AWS_PROFILE": way or "nobody"}, [private if way else public, *arguments]) for way in ways
    ]
    done = machine.run_turns(*turns)
    assert done.returncode == 0, done.stderr
    assert not machine.s3.refused
    assert machine.s3.seen == list(machine.s3.let_in)
    return done


def find_secrets(machine, done, ways):
    """What of all that the runs have said, published, and had on this disk holds a secret."""
    turns = done.stdout.count("end of turn")
    assert turns >= len(ways)
    for known in ("spark.driver.extraJavaOptions", "fs.s3a.endpoint", "/bin/java"):
        assert done.stdout.count(known) >= turns
    texts = {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()}
    boto = client(machine.s3.endpoint)
    for key in keys_of(boto, "lake"):
        texts[key] = boto.get_object(Bucket=BUCKET, Key=f"lake/{key}")["Body"].read()
    kept = machine.folder / "kept"
    assert len(list(kept.iterdir())) == turns
    texts |= {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    secrets = [secret for way in ways for secret in Keys(way).texts]
    return [name for name, text in texts.items() if any(map(text.count, secrets))]


def test_a_sign_in_that_has_ended_is_told_before_java_starts(laptop_with):
    write_profiles(laptop_with.folder)
    write_sso_token(laptop_with.folder, LONG_AGO)
    laptop_with.environ["AWS_PROFILE"] = "sso"
    laptop_with.environ["JAVA_HOME"] = "/nonexistent"
    done = laptop_with.run(*PATHS, OUTPUT)
    assert done.returncode == ExitCode.FAILED
    line = only_error(done)
    assert line.startswith("the AWS credentials cannot be used: ")
    assert "expired" in line
    assert line.endswith(laptop.SIGN_IN)


def test_a_token_that_expires_in_mid_run_is_one_line_with_the_cure(laptop_with, s3):
    s3.changes = 12
    laptop_with.environ.update(CANARY.under(*ENVIRONMENT))
    done = laptop_with.run(*PATHS, OUTPUT)
    assert set(s3.refused) == {"ExpiredToken"}
    assert done.returncode == ExitCode.FAILED
    cure = f"the temporary AWS credentials have expired: {laptop.RUN_AGAIN}"
    line = only_error(done)
    assert re.match(
        rf"{re.escape(cure)} \((song_data|log_data): cannot read s3://{BUCKET}/\1/", line
    )
    assert "fix or remove it" not in line
    assert CANARY.secret not in done.stdout + done.stderr


def test_without_credentials_the_ways_to_have_some_are_told_before_java_starts(laptop_with):
    laptop_with.environ["JAVA_HOME"] = "/nonexistent"
    done = laptop_with.run(*PATHS, OUTPUT)
    assert done.returncode == ExitCode.FAILED
    line = only_error(done)
    assert line.startswith(f"no AWS credentials found for s3://{BUCKET}: {laptop.SIGN_IN}")
    assert line.endswith("a public bucket needs none: see [s3] in dl.cfg")


def test_only_the_buckets_that_are_not_public_need_credentials():
    given = {"fs.s3a.bucket.open.aws.credentials.provider"}
    assert laptop.is_given(given, "open", laptop.PROVIDERS)
    assert not laptop.is_given(given, "mine", laptop.PROVIDERS)


def test_keys_cfg_comes_before_a_profile_and_is_gone_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of another sign-in")
    (tmp_path / "keys.cfg").write_text(
        f"[aws]\naccess_key_id = {CANARY.key_id}\nsecret_access_key = {CANARY.secret}\n"
        "session_token =\n"
    )
    keys = laptop.load_aws_keys(tmp_path / "keys.cfg")
    monkeypatch.setattr(laptop, "load_aws_keys", lambda: keys)
    before = dict(os.environ)
    with laptop.environment_of(laptop.sign_in(BUCKET)):
        assert os.environ["AWS_SECRET_ACCESS_KEY"] == CANARY.secret
        assert "AWS_SESSION_TOKEN" not in os.environ
    assert dict(os.environ) == before


def test_without_boto3_the_environments_keys_are_taken(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    found, end = laptop.find_keys()
    assert (found.access_key_id, found.secret_access_key, end) == ("testing", "testing", None)
    assert laptop.find_region(BUCKET) is None
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert laptop.find_keys() == (None, None)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home for this process, with a profile for each way to sign in, and no terminal."""
    for name in (*ENVIRONMENT, "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_PROFILE", "login")
    monkeypatch.setattr("os.open", without_terminal(os.open))
    write_profiles(tmp_path)
    return tmp_path


def leave_nothing(_):
    """No token of aws login or aws sso login."""


def leave_half_a_login(home):
    """A token of which the end is missing."""
    write_login_token(home, NEVER)
    (path,) = home.glob(".aws/login/cache/*.json")
    path.write_text(path.read_text()[:40])


@pytest.mark.parametrize(
    ("way", "spoil", "told"),
    [
        (
            "process",
            lambda home: write_profiles(home, "/no/such/program"),
            "credential_process of the profile fails: [Errno 2] No such file",
        ),
        (
            "process",
            lambda home: write_profiles(home, "/bin/echo [1]"),
            "credential_process of the profile fails: 'list' object has no",
        ),
        (
            "process",
            lambda home: write_profiles(home, end=LONG_AGO),
            "Credentials were refreshed, but the refreshed credentials are still expired.",
        ),
        ("sso", leave_nothing, "Error loading SSO Token: Token for home does not exist"),
        ("login", leave_nothing, "Error loading login session token: "),
        ("login", leave_half_a_login, "a file that the last sign-in has left in ~/.aws"),
        ("mfa", leave_nothing, "the sign-in asks for an MFA code, and there is no terminal"),
        ("nobody", leave_nothing, "The config profile (nobody) could not be found"),
    ],
)
def test_a_sign_in_that_fails_is_one_line_with_the_cure(home, capfd, way, spoil, told):
    spoil(home)
    os.environ["AWS_PROFILE"] = way
    with pytest.raises(laptop.SignInError) as refusal:
        laptop.sign_in(BUCKET)
    line = str(refusal.value)
    assert line.startswith(f"the AWS credentials cannot be used: {told}")
    assert line.endswith(f"; {laptop.SIGN_IN}")
    assert "\n" not in line
    assert capfd.readouterr() == ("", "")


def test_an_aws_login_of_yesterday_is_one_line(s3, home, monkeypatch):
    s3.ended = True
    write_login_token(home, LONG_AGO)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SIGNIN", s3.endpoint)
    with pytest.raises(laptop.SignInError, match=r"session has expired or .*; run aws login"):
        laptop.sign_in(BUCKET)


def test_an_aws_login_without_its_package_names_that(home, monkeypatch):
    write_login_token(home, NEVER)
    assert laptop.sign_in(BUCKET) == AwsKeys(*CANARY.under(*ENVIRONMENT).values())
    monkeypatch.setattr("botocore.credentials.EC", None)
    with pytest.raises(laptop.SignInError) as refusal:
        laptop.sign_in(BUCKET)
    assert str(refusal.value) == NEEDS_CRT


# ---- Regions -------------------------------------------------------------------------------------


def test_the_region_of_a_bucket_is_found_unless_an_endpoint_is_given(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    place = {"LocationConstraint": "eu-central-1"}
    boto3.client("s3").create_bucket(Bucket="far", CreateBucketConfiguration=place)
    name = "fs.s3a.bucket.far.endpoint.region"
    assert laptop.find_regions(["far"], set()) == {f"spark.hadoop.{name}": "eu-central-1"}
    for given in ("fs.s3a.endpoint", "fs.s3a.endpoint.region", name):
        assert laptop.find_regions(["far"], {given}) == {}
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    assert laptop.find_regions(["far"], set()) == {}


def test_only_a_run_with_a_path_in_s3_asks_for_anything(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    config = load_etl_config(environ={})
    with laptop.s3_access(config) as settings:
        assert settings == {}
    flags = {("etl", "song_data"): "s3a://one/x", ("etl", "output"): "s3://two"}
    config = load_etl_config(flags=flags, environ={})
    assert laptop.list_buckets(config) == ["one", "two"]
    with pytest.raises(laptop.SignInError, match="no AWS credentials"), laptop.s3_access(config):
        pass


def test_what_pyspark_was_given_is_left_alone(monkeypatch):
    monkeypatch.setenv(
        "PYSPARK_SUBMIT_ARGS", "--jars x.jar --conf spark.hadoop.fs.s3a.endpoint=http://x ..."
    )
    assert laptop.find_given_settings({"fs.s3a.a": "b"}) == {"fs.s3a.a", "fs.s3a.endpoint"}
    assert laptop.connector_settings() == {}


# ---- The connector -------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A Maven repository of a connector of no size, and a home without one."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "repository"
    monkeypatch.setenv("DEFAULT_ARTIFACT_REPOSITORY", f"{folder.as_uri()}/")
    monkeypatch.delenv("PYSPARK_SUBMIT_ARGS", raising=False)
    version = laptop.find_hadoop()
    connector = next(known for known in laptop.CONNECTORS if known.hadoop == version)
    sdk = re.fullmatch(r"(.*)-([\d.]+)\.jar", connector.sdk)
    needed = (
        f"<dependencies><dependency><groupId>aws</groupId><artifactId>{sdk[1]}</artifactId>"
        f"<version>{sdk[2]}</version></dependency></dependencies>"
    )
    publish(folder, "org.apache.hadoop", "hadoop-aws", version, needed)
    publish(folder, "aws", sdk[1], sdk[2])
    return folder


def publish(folder, group, name, version, more=""):
    """Put an empty jar and its description into a Maven repository."""
    place = folder / group.replace(".", "/") / name / version
    place.mkdir(parents=True)
    with zipfile.ZipFile(place / f"{name}-{version}.jar", "w"):
        pass
    (place / f"{name}-{version}.pom").write_text(
        f"<project><modelVersion>4.0.0</modelVersion><groupId>{group}</groupId>"
        f"<artifactId>{name}</artifactId><version>{version}</version>{more}</project>"
    )


def test_spark_fetches_the_connector_once_and_says_how_large_it_is(repository, capfd):
    settings = laptop.connector_settings()
    (line,) = capfd.readouterr().err.splitlines()
    folder = re.escape(f"{laptop.find_ivy()}/jars")
    assert re.match(rf"fetching Hadoop's S3 connector into {folder}, once: \d+ MB \(", line)
    first, *jars = settings["spark.driver.extraClassPath"].split(os.pathsep)
    assert first == f"{laptop.find_spark_jars()}/*"
    assert [zipfile.is_zipfile(jar) for jar in jars] == [True, True]
    assert laptop.connector_settings() == settings
    assert capfd.readouterr().err == ""
    Path(jars[0]).write_bytes(b"PK cut off")
    repository.rename(repository.with_name("gone"))
    assert laptop.connector_settings() == settings  # Spark has another copy
    assert zipfile.is_zipfile(jars[0])


def test_a_connector_that_cannot_be_fetched_is_one_line_with_the_cure(repository):
    repository.rename(repository.with_name("gone"))
    options = f"{os.environ['SPARK_SUBMIT_OPTS']} -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_SUBMIT_OPTS", options)
        with pytest.raises(ConfigError) as told:
            laptop.connector_settings()
    told = str(told.value)
    assert told.startswith("Hadoop's S3 connector could not be fetched: ")
    assert "\n" not in told
    assert "unresolved dependency" in told
    folder = re.escape(f"{laptop.find_ivy()}/jars")
    assert re.search(rf"or copy hadoop-aws-\S+ and \S+ from elsewhere into {folder}$", told)


def test_a_spark_that_brings_a_connector_or_a_vendors_hadoop_is_left_alone(tmp_path, monkeypatch):
    jars = tmp_path / "jars"
    jars.mkdir()
    monkeypatch.setenv("SPARK_HOME", str(tmp_path))
    (jars / "hadoop-client-api-3.4.1-amzn-2.jar").touch()
    assert laptop.connector_settings() == {}
    (jars / "hadoop-client-api-3.4.1-amzn-2.jar").rename(jars / "hadoop-client-api-3.9.0.jar")
    with pytest.raises(ConfigError, match=r"known for Hadoop 3.9.0: put hadoop-aws-3.9.0.jar and"):
        laptop.connector_settings()
    (jars / "hadoop-aws-3.9.0.jar").touch()
    assert laptop.connector_settings() == {}


# ---- Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        ("Bad Request (Service: Amazon S3; Status Code: 400; ...)", "may have expired: run aws"),
        ("Bad Request (Service: S3, Status Code: 400, ...)", "may have expired: run aws login"),
        ("x (Service: S3; Error Code: InvalidAccessKeyId)", "does not accept these keys: run aws"),
        (
            "Forbidden (Service: Amazon S3; Status Code: 403; ...)",
            "S3 forbids this: the AWS keys are",
        ),
        ("null (Service: S3, Status Code: 403, ... ID: null)", "S3 forbids this: the AWS keys are"),
        (
            "x (Service: Amazon S3; Status Code: 403; Error Code: AccessDenied)",
            "they have no right to this path; check",
        ),
        ("The provided token has expired. (Service: S3, ...)", "credentials have expired: run aws"),
    ],
)
def test_where_s3_refuses_the_credentials_the_cure_comes_first(said, cure, monkeypatch):
    monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)
    line = laptop.explain(f"cannot read x: {said}; fix x; run 7 is committed: the next run ...")
    assert cure in line
    what = said.partition(" (")[0]
    assert line.endswith(f" (cannot read x: {what}); run 7 is committed: the next run ...")
    assert laptop.explain("the disk is full") == "the disk is full"


def test_a_spark_submit_without_the_connector_is_told_its_package():
    told = laptop.explain("Class org.apache.hadoop.fs.s3a.S3AFileSystem not found")
    package = f"org.apache.hadoop:hadoop-aws:{laptop.find_hadoop()}"
    assert told.endswith(f": give spark-submit --packages {package}, or run python etl.py")


def test_a_cluster_is_not_told_to_sign_in(monkeypatch):
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    assert laptop.explain("ExpiredToken") == "ExpiredToken"
