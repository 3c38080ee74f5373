"""python etl.py straight against S3, by the real connector: each way of signing in, and none."""

from __future__ import annotations

import hashlib
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

from configs import ConfigError, load_etl_config
from lake import laptop
from lake.exit_codes import ExitCode
from lake.tables import TABLES
from tests.factories import event, song, write_input
from tests.s3_faults import BUCKET, client, keys_of, served

ROOT = Path(laptop.__file__).parents[1]
KEY_ID = "ASIACANARY"
CANARY = "canary/secret+that/must+stay/home+123456"
TOKEN = "canary-token-that-only-s3-may-see"
ANONYMOUS = "org.apache.hadoop.fs.s3a.AnonymousAWSCredentialsProvider"
PATHS = [f"--{name.replace('_', '-')}=s3://{BUCKET}/{name}" for name in ("song_data", "log_data")]
OUTPUT = f"--output=s3://{BUCKET}/lake"
# Runs the job, then tells all that the session knows and keeps all that it has on this disk.
SPY = """if True:
    import os, shutil, sys
    from pathlib import Path
    import etl
    from pyspark.sql import SparkSession
    code = etl.main(sys.argv[1:])
    spark = SparkSession.active()
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
    shutil.copytree(os.environ["TMPDIR"], os.environ["KEPT"])
    sys.exit(code)"""


@dataclass
class CarefulS3:
    """moto's S3, which looks who asks, and the part of SSO that gives out a role's credentials."""

    app: object = field(default_factory=lambda: DomainDispatcherApplication(create_backend_app))
    key_id: str | None = KEY_ID  # the only one that is let in; None: nobody who signs
    token: str | None = None
    changes: int = 10**9  # how many are made before the token expires
    refused: list = field(default_factory=list)

    def __call__(self, environ, start_response):
        """Answer a request; those of the test itself, by boto3, always."""
        if environ["PATH_INFO"] == "/federation/credentials":
            return self.give_credentials(start_response)
        if "Boto3" in environ.get("HTTP_USER_AGENT", ""):
            return self.app(environ, start_response)
        self.changes -= environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE")
        if self.changes < 0:
            return self.refuse("400 Bad Request", "ExpiredToken", environ, start_response)
        signed = re.search("Credential=([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
        token = environ.get("HTTP_X_AMZ_SECURITY_TOKEN")
        if (signed[1] if signed else None, token) != (self.key_id, self.token):
            return self.refuse("403 Forbidden", "AccessDenied", environ, start_response)
        return self.app(environ, start_response)

    def refuse(self, status, code, environ, start_response):
        """As S3 does: HEAD is answered without a reason."""
        self.refused.append(code)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = f"<Error><Code>{code}</Code><Message>The provided token ...</Message></Error>"
        start_response(status, [("Content-Type", "application/xml")])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body.encode()]

    def give_credentials(self, start_response):
        """SSO's GetRoleCredentials, for half an hour."""
        end = time.time() + 1795
        names = ("accessKeyId", "secretAccessKey", "sessionToken", "expiration")
        values = (KEY_ID, CANARY, TOKEN, int(end * 1000))
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({"roleCredentials": dict(zip(names, values))}).encode()]


@pytest.fixture
def s3():
    """An S3 that lets in KEY_ID only, with one song and one play in it."""
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

    def run(self, *arguments, program=("etl.py",)):
        """The job in a process of its own."""
        command = [sys.executable, *program, "--config", str(self.folder / "dl.cfg"), *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False
        )

    def set_s3(self, **settings):
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
        (self.folder / "dl.cfg").write_text(text)

    def write(self, name, text):
        """A file in ~/.aws."""
        path = self.folder / ".aws" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def laptop_with(tmp_path, s3):
    """A laptop with the input in S3."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    (tmp_path / ".ivy2").symlink_to(Path.home() / ".ivy2")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environ["AWS_EC2_METADATA_DISABLED"] = "true"
    environ["HOME"] = str(tmp_path)
    environ["TMPDIR"] = environ["SPARK_LOCAL_DIRS"] = str(temporary)
    environ["KEPT"] = str(tmp_path / "kept")
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


def test_a_profile_is_enough_and_its_secret_is_nowhere(laptop_with, s3):
    s3.token = TOKEN
    keys = f"aws_access_key_id = {KEY_ID}\naws_secret_access_key = {CANARY}\n"
    laptop_with.write("credentials", f"[me]\n{keys}aws_session_token = {TOKEN}\n")
    laptop_with.environ["AWS_PROFILE"] = "me"
    done = laptop_with.run(*PATHS, OUTPUT, program=("-c", SPY))
    assert done.returncode == 0, done.stderr
    assert not s3.refused
    boto = client(s3.endpoint)
    published = keys_of(boto, "lake")
    assert {key.split("/")[0] for key in published} == {"_etl", *(table.name for table in TABLES)}
    stored = [boto.get_object(Bucket=BUCKET, Key=f"lake/{key}") for key in published]
    kept = [path for path in (laptop_with.folder / "kept").rglob("*") if path.is_file()]
    assert "spark.driver.extraJavaOptions" in done.stdout
    assert "fs.s3a.endpoint" in done.stdout
    assert kept
    texts = [done.stdout.encode(), done.stderr.encode()]
    texts += [answer["Body"].read() for answer in stored] + [path.read_bytes() for path in kept]
    assert not [text for text in texts for secret in (CANARY, TOKEN) if secret.encode() in text]


def test_sso_is_enough_and_the_end_of_its_credentials_is_told(laptop_with, s3):
    s3.token = TOKEN
    sign_in_by_sso(laptop_with, "2099-01-01T00:00:00Z")
    done = laptop_with.run(*PATHS, OUTPUT, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert not s3.refused
    told = re.findall(r"(?m)^the AWS credentials end at \d\d:\d\d UTC, in 29 min", done.stderr)
    assert len(told) == 1


def test_a_sign_in_that_has_ended_is_told_before_java_starts(laptop_with):
    sign_in_by_sso(laptop_with, "2020-01-01T00:00:00Z")
    laptop_with.environ["JAVA_HOME"] = "/nonexistent"
    done = laptop_with.run(*PATHS, OUTPUT)
    assert done.returncode == ExitCode.FAILED
    line = only_error(done)
    assert line.startswith("the AWS credentials cannot be used: ")
    assert "expired" in line
    assert line.endswith(laptop.SIGN_IN)


def sign_in_by_sso(machine, until):
    """Leave what aws sso login leaves."""
    machine.write(
        "config",
        "[profile me]\nsso_session = home\nsso_account_id = 123456789012\nsso_role_name = reader\n"
        "[sso-session home]\nsso_region = us-east-1\nsso_start_url = https://home.example\n",
    )
    name = hashlib.sha1(b"home").hexdigest()
    token = {"accessToken": "signed-in", "expiresAt": until}
    machine.write(f"sso/cache/{name}.json", json.dumps(token))
    machine.environ["AWS_PROFILE"] = "me"
    machine.environ["AWS_ENDPOINT_URL_SSO"] = machine.s3.endpoint


def test_a_token_that_expires_in_mid_run_is_one_line_with_the_cure(laptop_with, s3):
    s3.token, s3.changes = TOKEN, 12
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    laptop_with.environ.update(zip(names, (KEY_ID, CANARY, TOKEN)))
    done = laptop_with.run(*PATHS, OUTPUT)
    assert set(s3.refused) == {"ExpiredToken"}
    assert done.returncode == ExitCode.FAILED
    cure = f"the temporary AWS credentials have expired: {laptop.RUN_AGAIN}"
    line = only_error(done)
    assert line.startswith(f"{cure} (song_data: cannot read s3://{BUCKET}/song_data/")
    assert "fix or remove it" not in line
    assert CANARY not in done.stdout + done.stderr


def test_without_credentials_the_ways_to_have_some_are_told_before_java_starts(laptop_with):
    laptop_with.environ["JAVA_HOME"] = "/nonexistent"
    done = laptop_with.run(*PATHS, OUTPUT)
    assert done.returncode == ExitCode.FAILED
    line = only_error(done)
    assert line.startswith(f"no AWS credentials found for s3://{BUCKET}: {laptop.SIGN_IN}")
    assert line.endswith("a public bucket needs none: see [s3] in dl.cfg")


def test_a_public_bucket_needs_no_credentials(laptop_with, s3):
    s3.key_id = None
    laptop_with.set_s3(fs_s3a_aws_credentials_provider=ANONYMOUS)
    done = laptop_with.run(*PATHS, f"--output={laptop_with.folder / 'lake'}", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert not s3.refused


def test_only_the_buckets_that_are_not_public_need_credentials():
    given = {"fs.s3a.bucket.open.aws.credentials.provider"}
    assert laptop.is_given(given, "open", laptop.PROVIDERS)
    assert not laptop.is_given(given, "mine", laptop.PROVIDERS)


def test_keys_cfg_comes_before_a_profile_and_is_gone_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of another sign-in")
    (tmp_path / "keys.cfg").write_text(
        f"[aws]\naccess_key_id = {KEY_ID}\nsecret_access_key = {CANARY}\nsession_token =\n"
    )
    keys = laptop.load_aws_keys(tmp_path / "keys.cfg")
    monkeypatch.setattr(laptop, "load_aws_keys", lambda: keys)
    before = dict(os.environ)
    with laptop.environment_of(laptop.sign_in(BUCKET)):
        assert os.environ["AWS_SECRET_ACCESS_KEY"] == CANARY
        assert "AWS_SESSION_TOKEN" not in os.environ
    assert dict(os.environ) == before


def test_without_boto3_the_environments_keys_are_taken(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    found, end = laptop.find_keys()
    assert (found.access_key_id, found.secret_access_key, end) == ("testing", "testing", None)
    assert laptop.find_region(BUCKET) is None
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert laptop.find_keys() == (None, None)


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
    assert re.match(r"fetching Hadoop's S3 connector into .*/\.ivy2/jars, once: \d+ MB \(", line)
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
    assert re.search(r"or copy hadoop-aws-\S+ and \S+ from elsewhere into \S+/\.ivy2/jars$", told)


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
