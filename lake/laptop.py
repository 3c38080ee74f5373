"""The job on a laptop straight against S3: Hadoop's connector, credentials and regions.

Nothing here runs where spark-submit has made the session. boto3 is used only where it is installed.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyspark

from configs import AwsKeys, ConfigError, EtlConfig, load_aws_keys
from lake.formats import duration, utc_now
from lake.locations import URI
from lake.report import tell
from lake.sign_in import FAULTS, NEEDS_CRT, explain_fault, only_with_a_terminal

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SCHEMES = ("s3", "s3a")
PROVIDERS = ("aws.credentials.provider", "access.key")  # of S3A: where credentials come from
SHORT = timedelta(hours=1)
SECONDS_FOR_A_REGION = 5
SIGN_IN = "run aws login, aws sso login or aws configure, set AWS_PROFILE, or fill in keys.cfg"
RUN_AGAIN = f"{SIGN_IN}, then run the same command again"
# S3A and the AWS SDK for Java read these, in Hadoop 3.3 and 3.4.
KEY_ID, SECRET, TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
# Spark copies the three into Hadoop's settings, from where they would travel with each query.
COPIES = (
    *("fs.s3a.access.key", "fs.s3a.secret.key", "fs.s3a.session.token"),
    *("fs.s3.awsAccessKeyId", "fs.s3.awsSecretAccessKey"),
    *("fs.s3n.awsAccessKeyId", "fs.s3n.awsSecretAccessKey"),
)
# What S3 or Hadoop says, and what to do about it; the first that fits counts.
CURES = (
    (
        r"ExpiredToken|TokenRefreshRequired|token (included in the request )?(has|is) expired",
        f"the temporary AWS credentials have expired: {RUN_AGAIN}",
    ),
    (  # S3 answers a HEAD request without a reason
        r"Bad Request.*Status Code: 400|Status Code: 400.*Bad Request",
        f"the AWS credentials may have expired: {RUN_AGAIN}",
    ),
    (r"InvalidAccessKeyId|SignatureDoesNotMatch", f"S3 does not accept these keys: {RUN_AGAIN}"),
    (  # to a HEAD request as well, whatever is wrong
        r"Status Code: 403",
        "S3 forbids this: the AWS keys are wrong, or they have no right to this path; check"
        " keys.cfg, the profile and the bucket's policy, then run the same command again",
    ),
)


class SignInError(Exception):
    """There are no AWS credentials that can be used; one line says why and what to do next."""


# ---- What a session needs ------------------------------------------------------------------------


@contextlib.contextmanager
def s3_access(config: EtlConfig | None) -> Iterator[Mapping[str, str]]:
    """Yield Spark's settings for S3, with credentials in the environment for a JVM that starts now.

    Neither where no path of the job is in S3.
    """
    buckets = list_buckets(config) if config else []
    if not config or not buckets:
        yield {}
        return
    given = find_given_settings(config.s3)
    signed = [bucket for bucket in buckets if not is_given(given, bucket, PROVIDERS)]
    keys = sign_in(signed[0]) if signed else None
    settings = {f"spark.hadoop.{name}": value for name, value in config.s3.items()}
    with environment_of(keys):
        yield {**settings, **find_regions(buckets, given), **connector_settings()}


def list_buckets(config: EtlConfig) -> list[str]:
    """The buckets that the job reads and writes by Hadoop's S3 connector."""
    found = (URI.fullmatch(path) for path in (config.song_data, config.log_data, config.output))
    return sorted({uri["authority"] for uri in found if uri and uri["scheme"].lower() in SCHEMES})


def find_given_settings(s3: Mapping[str, str]) -> set[str]:
    """The names of S3A's settings that the user has made, in dl.cfg or for pyspark."""
    return {*s3, *re.findall(r"(fs\.s3a\.[\w.-]+)\s*=", os.environ.get("PYSPARK_SUBMIT_ARGS", ""))}


def is_given(given: set[str], bucket: str, names: tuple[str, ...]) -> bool:
    """Whether one of these settings of S3A is made, for all buckets or for this one."""
    return any({f"fs.s3a.{name}", f"fs.s3a.bucket.{bucket}.{name}"} & given for name in names)


# ---- Credentials ---------------------------------------------------------------------------------


def sign_in(bucket: str) -> AwsKeys:
    """The keys of keys.cfg or those that boto3 finds; tells where temporary ones end soon."""
    keys, end = load_aws_keys(), None
    if not keys:
        keys, end = find_keys()
    if not keys:
        raise SignInError(
            f"no AWS credentials found for s3://{bucket}: {SIGN_IN}; a public bucket needs none:"
            " see [s3] in dl.cfg"
        )
    left = end - utc_now() if end else SHORT
    if end and left < SHORT:
        tell(
            f"the AWS credentials end at {end:%H:%M} UTC, in {duration(left.total_seconds())}:"
            " a run that takes longer fails then; sign in again before a long one"
        )
    return keys


def find_keys() -> tuple[AwsKeys | None, datetime | None]:
    """The credentials that boto3 finds, and when they end; without boto3 those of the environment.

    S3A itself knows neither profiles nor SSO, aws login or credential_process.
    """
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError, MissingDependencyException
    except ImportError:
        return read_environment(), None
    try:
        with only_with_a_terminal():
            found: Any = boto3.Session().get_credentials()
            frozen = found.get_frozen_credentials() if found else None
    except MissingDependencyException:
        raise SignInError(NEEDS_CRT) from None
    except (BotoCoreError, ClientError, *FAULTS) as error:
        is_of_boto3 = isinstance(error, (BotoCoreError, ClientError))
        problem = str(error) if is_of_boto3 else explain_fault(error)
        raise SignInError(
            f"the AWS credentials cannot be used: {' '.join(problem.split())}; {SIGN_IN}"
        ) from None
    if not frozen:
        return None, None
    # botocore has no public name for the time at which credentials end.
    return AwsKeys(*frozen[:3]), getattr(found, "_expiry_time", None)


def read_environment() -> AwsKeys | None:
    """The keys in this process's environment."""
    key_id, secret, token = (os.environ.get(name) for name in (KEY_ID, SECRET, TOKEN))
    return AwsKeys(key_id, secret, token) if key_id and secret else None


@contextlib.contextmanager
def environment_of(keys: AwsKeys | None) -> Iterator[None]:
    """Hold the keys in the environment, for the JVM to inherit: no file or setting shows them."""
    names = (KEY_ID, SECRET, TOKEN)
    before = [os.environ.get(name) for name in names]
    try:
        if keys:
            _set(names, (keys.access_key_id, keys.secret_access_key, keys.session_token))
        yield
    finally:
        _set(names, before)


def _set(names: tuple[str, ...], values: Any) -> None:  # noqa: ANN401 (a sequence of str or None)
    for name, value in zip(names, values):
        os.environ.pop(name, None)
        if value:
            os.environ[name] = value


def hide_keys(spark: SparkSession) -> None:
    """Unset the copies of the environment's keys that Spark has made: S3A reads the environment."""
    java: Any = spark._jvm
    copied = [
        spark.sparkContext._jsc.hadoopConfiguration(),
        spark._jsparkSession.sharedState().hadoopConf(),
        java.org.apache.spark.deploy.SparkHadoopUtil.get().conf(),
    ]
    conf = spark.sparkContext.getConf()
    for name in COPIES:
        if not conf.contains(f"spark.hadoop.{name}"):  # else the user has set it
            for hadoop in copied:
                hadoop.unset(name)


# ---- Regions -------------------------------------------------------------------------------------


def find_regions(buckets: list[str], given: set[str]) -> dict[str, str]:
    """Spark's settings for each bucket's region, unless the user has set endpoint or region."""
    unknown = [b for b in buckets if not is_given(given, b, ("endpoint", "endpoint.region"))]
    found = {bucket: find_region(bucket) for bucket in unknown}
    return {
        f"spark.hadoop.fs.s3a.bucket.{bucket}.endpoint.region": region
        for bucket, region in found.items()
        if region
    }


def find_region(bucket: str) -> str | None:
    """The region of a bucket, which S3 tells without credentials; None where boto3 cannot ask."""
    try:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return None
    config = Config(
        signature_version=UNSIGNED,
        connect_timeout=SECONDS_FOR_A_REGION,
        read_timeout=SECONDS_FOR_A_REGION,
        retries={"total_max_attempts": 1},
    )
    answer: Any
    try:
        session = boto3.Session()
        region = session.region_name or "us-east-1"
        answer = session.client("s3", region, config=config).head_bucket(Bucket=bucket)
    except ClientError as error:  # a private bucket: the refusal names its region as well
        answer = error.response
    except BotoCoreError:  # S3A tries by itself
        return None
    headers = answer["ResponseMetadata"].get("HTTPHeaders", {})
    return headers.get("x-amz-bucket-region")  # type: ignore[no-any-return]


# ---- Hadoop's S3 connector -----------------------------------------------------------------------


@dataclass(frozen=True)
class Connector:
    """Hadoop's S3 connector, which Spark does not bring: jars that fit one version of Hadoop."""

    hadoop: str
    sdk: str  # the jar of AWS's SDK that this version needs
    megabytes: int

    @property
    def jars(self) -> tuple[str, str]:
        """The names of its jars; Ivy writes the organisation before them."""
        return f"hadoop-aws-{self.hadoop}.jar", self.sdk


CONNECTORS = (
    Connector("3.3.4", "aws-java-sdk-bundle-1.12.262.jar", 280),  # Spark 3.5
    Connector("3.4.1", "bundle-2.24.6.jar", 560),  # Spark 4.0
)
OWN_JARS = r"--(jars|packages|driver-class-path)|spark\.jars|extraClassPath"


def connector_settings() -> dict[str, str]:
    """Spark's setting that brings the connector, fetched first where this machine lacks it.

    On the class path and not in spark.jars: Spark would copy 280 MB into each run's folder.
    """
    hadoop = find_hadoop()
    if not hadoop or re.search(OWN_JARS, os.environ.get("PYSPARK_SUBMIT_ARGS", "")):
        return {}
    connector = next((known for known in CONNECTORS if known.hadoop == hadoop), None)
    if not connector:
        raise ConfigError(
            f"no S3 connector is known for Hadoop {hadoop}: put hadoop-aws-{hadoop}.jar and the jar"
            f" of AWS's SDK that it needs into {find_spark_jars()}"
        )
    jars = map(str, find_jars(connector) or fetch(connector))
    # Spark's own jars first: that of the SDK of Hadoop 3.4 holds an SLF4J which hides Spark's.
    return {"spark.driver.extraClassPath": os.pathsep.join([f"{find_spark_jars()}/*", *jars])}


def find_spark_jars() -> Path:
    """The folder of the jars that this Spark brings."""
    return Path(os.environ.get("SPARK_HOME") or Path(pyspark.__file__).parent, "jars")


def find_hadoop() -> str | None:
    """The version of the Hadoop that Spark brings; None where a vendor or the user cares for S3."""
    jars = find_spark_jars()
    if list(jars.glob("hadoop-aws-*.jar")):
        return None
    names = " ".join(path.name for path in jars.glob("hadoop-client-api-*.jar"))
    found = re.fullmatch(r"hadoop-client-api-([\d.]+)\.jar", names)
    return found[1] if found else None


def find_ivy() -> Path:
    """The folder in which Spark keeps what it fetches: the two releases' Ivy share none."""
    return Path.home() / (".ivy2" if pyspark.__version__.startswith("3.") else ".ivy2.5.2")


def find_jars(connector: Connector) -> list[Path]:
    """The connector's jars on this machine; none where one is missing or cut off."""
    found = [path for name in connector.jars for path in find_ivy().glob(f"jars/*{name}")]
    jars = [path for path in found if zipfile.is_zipfile(path)]
    return jars if len(jars) == len(connector.jars) else []


def fetch(connector: Connector) -> list[Path]:
    """Let Spark fetch the connector from Maven Central, once; raises ConfigError if that fails."""
    folder, names = find_ivy() / "jars", " and ".join(connector.jars)
    tell(
        f"fetching Hadoop's S3 connector into {folder}, once: {connector.megabytes} MB"
        f" (without a network: copy {names} there)"
    )
    for name in connector.jars:  # Ivy keeps what is there, even where an end has cut it off
        for path in folder.glob(f"*{name}"):
            path.unlink()
    done = subprocess.run(  # noqa: S603 (Spark's own program)
        build_fetch_command(connector), capture_output=True, text=True, check=False
    )
    jars = find_jars(connector)
    if not jars:
        raise ConfigError(
            f"Hadoop's S3 connector could not be fetched: {find_reason(done.stderr)}: check the"
            f" network and the proxy, or copy {names} from elsewhere into {folder}"
        )
    return jars


def build_fetch_command(connector: Connector) -> list[str]:
    """A spark-submit that fetches the connector and runs a program of Hadoop that does nothing."""
    return [
        *(str(find_spark_jars().with_name("bin") / "spark-submit"), "--master", "local[1]"),
        *("--conf", f"spark.jars.ivy={find_ivy()}"),  # Java's home may be another than Python's
        *("--packages", f"org.apache.hadoop:hadoop-aws:{connector.hadoop}"),
        *("--class", "org.apache.hadoop.util.VersionInfo", "spark-internal"),
    ]


def find_reason(output: str) -> str:
    """The line of spark-submit's output that tells why it failed."""
    lines = [" ".join(line.split()) for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"Server access error|Exception|rror:", line)]
    return (telling or lines or ["it said nothing"])[-1]


# ---- Errors --------------------------------------------------------------------------------------


def explain(message: str) -> str:
    """The message of a failed run; first what to do, where S3 refuses the credentials."""
    if "S3AFileSystem not found" in message:
        package = f"org.apache.hadoop:hadoop-aws:{find_hadoop() or '<the version of Hadoop>'}"
        return f"{message}: give spark-submit --packages {package}, or run python etl.py"
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # a cluster has a role, and no sign-in
        return message
    cures = (cure for pattern, cure in CURES if re.search(pattern, message))
    cure = next(cures, "")
    if not cure:
        return message
    committed = re.search(r"; run \S+ is committed: .*", message)
    # What S3 said ends before its own details, and before advice that is about the file.
    said = message.partition(" (Service:")[0]
    return f"{cure} ({said}){committed[0] if committed else ''}"
