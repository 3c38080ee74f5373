"""Reads dl.cfg, keys.cfg, the environment and the flags into frozen, validated dataclasses.

A flag beats an environment variable, which beats the file. The variable of [etl] output is
SPARKIFY_ETL_OUTPUT, and so on. Standard library only: this module ships with etl.py.
"""

from __future__ import annotations

import configparser
import dataclasses
import difflib
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lake.confidential import find_secret_comment, holds_secret, is_secret
from lake.locations import find_overlap, parse_location, parse_output
from lake.paths import ETL
from lake.tables import TABLES, Table

DL_CFG = Path(__file__).with_name("dl.cfg")
KEYS_CFG = Path(__file__).with_name("keys.cfg")

# The sections of dl.cfg. aws/ reads the last two.
SECTIONS = ("etl", "partitions", "emr", "spark", "s3", "tags", "prices", "catalog", "redshift")

BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"  # what S3 takes for the name of one
NO_SECRETS = "keys belong in keys.cfg or a profile, and a cluster takes its role's"

ConfigT = TypeVar("ConfigT")
Flags = Mapping[tuple[str, str], str]  # (section, key) -> the value given on the command line


class ConfigError(Exception):
    """A setting that the user has to fix; its message is one line: where, and what is expected."""


def text(value: str) -> str:
    """Any text but a blank one."""
    if not value:
        raise ValueError
    return value


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A parser for whole numbers from least to most."""

    def parse(value: str) -> int:
        number = int(value)
        if not least <= number <= most:
            raise ValueError
        return number

    return parse


def number(least: float, most: float) -> Callable[[str], float]:
    """A parser for finite numbers from least to most."""

    def parse(value: str) -> float:
        parsed = float(value)
        if not (math.isfinite(parsed) and least <= parsed <= most):
            raise ValueError
        return parsed

    return parse


def names(value: str) -> tuple[str, ...]:
    """A comma-separated list, possibly empty."""
    return tuple(name.strip() for name in value.split(",") if name.strip())


def optional(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """The same parser, but a blank value is None."""

    def parse_optional(value: str) -> Any:  # noqa: ANN401 (whatever parse returns)
        return parse(value) if value else None

    return parse_optional


def yes_or_no(value: str) -> bool:
    """A boolean: yes, no, on, off, true, false, 1 or 0."""
    try:
        return configparser.ConfigParser.BOOLEAN_STATES[value.lower()]
    except KeyError:
        raise ValueError from None


def s3_folder(value: str) -> str:
    """An s3:// URI without the slash at its end."""
    uri = value.rstrip("/")
    if not re.fullmatch(rf"s3://{BUCKET}(/[^\s]+)?", uri):
        raise ValueError
    return uri


def bucket_name(value: str) -> str:
    """The name of an S3 bucket."""
    if not re.fullmatch(BUCKET, value):
        raise ValueError
    return value


def node_kinds(value: str) -> tuple[str, ...]:
    """A list of core, task or both: the nodes that may be spot instances."""
    kinds = names(value)
    if not set(kinds) <= {"core", "task"}:
        raise ValueError
    return kinds


def some_names(value: str) -> tuple[str, ...]:
    """A comma-separated list of at least one name."""
    return names(text(value.strip(", ")))


def setting(parse: Callable[[str], Any], expects: str) -> Any:  # noqa: ANN401 (as dataclasses.field)
    """A dataclass field that is read from the key of the same name."""
    return dataclasses.field(metadata={"parse": parse, "expects": expects})


def secret(parse: Callable[[str], Any], expects: str) -> Any:  # noqa: ANN401 (as dataclasses.field)
    """A setting whose value is never shown."""
    return dataclasses.field(repr=False, metadata={"parse": parse, "expects": expects})


@dataclasses.dataclass(frozen=True)
class EtlConfig:
    """What a run of the job reads, writes and tolerates: [etl], [partitions], [s3] of dl.cfg."""

    song_data: str = setting(parse_location, "one folder or URI such as s3://bucket/song_data")
    log_data: str = setting(parse_location, "one folder or URI such as s3://bucket/log_data")
    output: str = setting(parse_output, "a folder or a URI such as s3://bucket/lake, not a file")
    max_rejected_percent: float = setting(number(0, 100), "a number from 0 to 100")
    max_rows_per_file: int = setting(whole_number(1, 10**9), "a whole number from 1")
    lock_minutes: float = setting(number(0.01, 1440), "minutes, from 0.01 to 1440")
    keep_reports: int = setting(whole_number(1, 10_000), "a whole number from 1 to 10000")
    incremental: bool = setting(yes_or_no, "yes or no")
    full: bool = False  # no setting: --full asks for it
    partitions: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    s3: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class EmrConfig:
    """The cluster to find or to create: [emr], [spark], [s3], [tags] and [prices] of dl.cfg."""

    region: str = setting(str, "an AWS region such as us-west-2, or nothing")
    bucket: str | None = setting(optional(bucket_name), "the name of an S3 bucket, or nothing")
    cluster_name: str = setting(text, "a name")
    code_uri: str | None = setting(optional(s3_folder), "a folder such as s3://my-bucket/code")
    log_uri: str | None = setting(optional(s3_folder), "a folder such as s3://my-bucket/logs")
    release_label: str = setting(text, "an EMR release such as emr-7.13.0")
    applications: tuple[str, ...] = setting(some_names, "a list such as Hadoop, Spark")
    master_types: tuple[str, ...] = setting(some_names, "a list of instance types")
    core_types: tuple[str, ...] = setting(some_names, "a list of instance types")
    core_count: int = setting(whole_number(1, 1000), "a whole number from 1 to 1000")
    task_types: tuple[str, ...] = setting(some_names, "a list of instance types")
    task_count: int = setting(whole_number(0, 1000), "a whole number from 0 to 1000")
    spot: tuple[str, ...] = setting(node_kinds, "core, task, both, or nothing")
    spot_wait_minutes: int = setting(whole_number(5, 1440), "whole minutes from 5 to 1440")
    scaling_minimum: int | None = setting(optional(whole_number(1, 1000)), "1 to 1000, or nothing")
    scaling_maximum: int | None = setting(optional(whole_number(1, 1000)), "1 to 1000, or nothing")
    disk_gb: int = setting(whole_number(10, 16_384), "a whole number from 10 to 16384")
    subnet_ids: tuple[str, ...] = setting(names, "a list of subnet ids, or nothing")
    key_pair: str | None = setting(optional(text), "the name of an EC2 key pair, or nothing")
    service_role: str = setting(text, "the name of an IAM role")
    instance_profile: str = setting(text, "the name of an instance profile")
    security_configuration: str = setting(text, "the name of an EMR security configuration")
    idle_minutes: int = setting(whole_number(1, 10_080), "whole minutes from 1 to 10080 (a week)")
    termination_protection: bool = setting(yes_or_no, "yes or no")
    step_concurrency: int = setting(whole_number(1, 256), "a whole number from 1 to 256")
    spark: Mapping[str, str] = dataclasses.field(default_factory=dict)
    s3: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prices: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class AwsKeys:
    """The keys of keys.cfg; repr hides the secret ones."""

    access_key_id: str = setting(text, "an access key id")
    secret_access_key: str = secret(text, "a secret access key")
    session_token: str | None = secret(optional(text), "a session token, or nothing")


class Settings:
    """The unparsed values of a file, the environment and the flags, and where each one is set."""

    def __init__(self, path: Path, environ: Mapping[str, str], flags: Flags | None = None) -> None:
        self.path = path
        self.environ = environ
        self.flags = flags or {}
        self.text = _read(path)
        self.file = parse(self.text, str(path))

    def get(self, section: str, key: str, parse: Callable[[str], Any], expects: str) -> Any:  # noqa: ANN401
        """The parsed value of a key; raises ConfigError where it is missing or wrong."""
        where, value = self._find(section, key)
        if value is None:
            raise ConfigError(f"{where} is missing: expected {expects}")
        if section != "aws" and holds_secret(value):
            raise ConfigError(f"{where} holds a key or a password: {NO_SECRETS}")
        try:
            return parse(_unquoted(value))
        except ValueError:
            raise ConfigError(f"{where} = {value!r}: expected {expects}") from None

    def keys(self, section: str) -> list[str]:
        """The keys of a section, as the file spells them."""
        return list(self.file[section]) if self.file.has_section(section) else []

    def check_sections(self, known: Sequence[str]) -> None:
        """Raise a ConfigError for a section that nothing reads, with the likely cure."""
        for section in self.file.sections():
            if section not in known:
                # A dl.cfg from a course has its keys in a section [AWS].
                is_aws = section.lower() == "aws"
                cure = (
                    "AWS keys belong in keys.cfg, under [aws]"
                    if is_aws
                    else _correction(section, known)
                )
                raise ConfigError(f"{self.path}: section [{section}] is unknown; {cure}")

    def check_keys(self, section: str, known: Sequence[str]) -> None:
        """Raise a ConfigError for a key that nothing reads: it may be a misspelt one."""
        for key in self.keys(section):
            if key not in known:
                cure = _correction(key, known)
                raise ConfigError(f"{self.path}: [{section}] {key} is unknown; {cure}")

    def _find(self, section: str, key: str) -> tuple[str, str | None]:
        variable = _variable(section, key)
        if (section, key) in self.flags:
            return f"the flag for [{section}] {key}", self.flags[section, key]
        if variable in self.environ:
            return f"environment variable {variable}", self.environ[variable]
        return f"{self.path}: [{section}] {key}", self.file.get(section, key, fallback=None)


def open_dl_cfg(path: Path, flags: Flags | None, environ: Mapping[str, str]) -> Settings:
    """The settings of a dl.cfg; raises ConfigError if it has an unknown section."""
    settings = Settings(path, environ, flags)
    settings.check_sections(SECTIONS)
    refuse_secrets(settings.text, str(path))
    return settings


def refuse_secrets(content: str, source: str) -> None:
    """Raise a ConfigError, without the value, for a setting or a comment that holds a secret.

    What dl.cfg holds is shown by --dry-run, uploaded, and told by EMR to whoever may ask.
    """
    parsed = parse(content, source)
    for section in parsed.sections():
        for key, value in parsed[section].items():
            if is_secret(key, value) or holds_secret(value):
                raise ConfigError(f"{source}: [{section}] {key} is or holds a secret: {NO_SECRETS}")
    line = find_secret_comment(content)
    if line:
        raise ConfigError(f"{source}: line {line}: a comment holds a secret: {NO_SECRETS}")


def load_etl_config(
    path: Path = DL_CFG,
    flags: Flags | None = None,
    environ: Mapping[str, str] = os.environ,
) -> EtlConfig:
    """The job's settings; raises ConfigError for the first one that is missing or wrong."""
    settings = open_dl_cfg(path, flags, environ)
    tables = [table for table in TABLES if table.partition_choices]
    settings.check_keys("partitions", [table.name for table in tables])
    partitions = {table.name: _partition(settings, table) for table in tables}
    config = load_section(settings, "etl", EtlConfig)
    _check_overlap(config)
    s3 = load_mapping(settings, "s3", "fs.")
    return dataclasses.replace(config, partitions=partitions, s3=s3)


def load_emr_config(
    path: Path = DL_CFG,
    flags: Flags | None = None,
    environ: Mapping[str, str] = os.environ,
) -> EmrConfig:
    """The cluster's settings; raises ConfigError for the first one that is missing or wrong."""
    settings = open_dl_cfg(path, flags, environ)
    config = load_section(settings, "emr", EmrConfig)
    _check_scaling(config, path)
    return dataclasses.replace(
        config,
        spark=load_mapping(settings, "spark", "spark."),
        s3=load_mapping(settings, "s3", "fs."),
        tags=load_mapping(settings, "tags"),
        prices=load_mapping(settings, "prices", "", number(0, 1000), "dollars per hour"),
    )


def load_aws_keys(path: Path = KEYS_CFG) -> AwsKeys | None:
    """The keys of keys.cfg; None if it is blank or missing: boto3 then looks for credentials."""
    if path == KEYS_CFG and not path.exists():
        return None
    settings = Settings(path, {})
    settings.check_sections(("aws",))
    given = [key for key in settings.keys("aws") if settings.file["aws"][key]]
    return load_section(settings, "aws", AwsKeys) if given else None


def load_mapping(
    settings: Settings,
    section: str,
    prefix: str = "",
    parse: Callable[[str], Any] = str,
    expects: str = "a value",
) -> dict[str, Any]:
    """A section in which the user chooses the keys; each has to begin with the prefix."""
    for key in settings.keys(section):
        if not key.startswith(prefix):
            raise ConfigError(f"{settings.path}: [{section}] {key} must begin with {prefix}")
    return {key: settings.get(section, key, parse, expects) for key in settings.keys(section)}


def load_section(settings: Settings, section: str, shape: Callable[..., ConfigT]) -> ConfigT:
    """A section as its dataclass; raises ConfigError for a missing, wrong or unknown key."""
    fields = [
        field
        for field in dataclasses.fields(shape)  # type: ignore[arg-type]
        if "parse" in field.metadata
    ]
    settings.check_keys(section, [field.name for field in fields])
    values = {
        field.name: settings.get(
            section, field.name, field.metadata["parse"], field.metadata["expects"]
        )
        for field in fields
    }
    return shape(**values)


def _partition(settings: Settings, table: Table) -> tuple[str, ...]:
    choices = table.partition_choices

    def parse(value: str) -> tuple[str, ...]:
        columns = names(value)
        if len(set(columns)) < len(columns) or not set(columns) <= set(choices):
            raise ValueError
        return columns

    expects = f"a list of {', '.join(choices)}, or nothing for an unpartitioned table"
    return settings.get("partitions", table.name, parse, expects)  # type: ignore[no-any-return]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name another with --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def parse(content: str, source: str) -> configparser.ConfigParser:
    """The sections of a configuration file."""
    parser = configparser.ConfigParser(
        interpolation=None,  # a % in a value is a %
        inline_comment_prefixes=("#", ";"),
    )
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # keys keep their case
    try:
        parser.read_string(content, source=source)
    except configparser.ParsingError as error:
        # Do not show the line: it may hold a secret.
        raise ConfigError(
            f"{source}: line {_line_number(error)}: expected key = value under a [section]"
        ) from None
    except configparser.Error as error:
        raise ConfigError(" ".join(str(error).split())) from None
    return parser


def _check_overlap(config: EtlConfig) -> None:
    sources = {"song_data": config.song_data, "log_data": config.log_data}
    found = find_overlap(sources, config.output, [*(table.name for table in TABLES), ETL])
    if found:
        name, folder = found
        raise ConfigError(
            f"[etl] {name} = {sources[name]} overlaps with {config.output.rstrip('/')}/{folder}, "
            "which the job replaces: keep the input apart from [etl] output"
        )


def _check_scaling(config: EmrConfig, path: Path) -> None:
    least, most = config.scaling_minimum, config.scaling_maximum
    if (least is None) != (most is None) or (least or 0) > (most or 0):
        raise ConfigError(
            f"{path}: [emr] scaling_minimum and scaling_maximum: expected both or neither,"
            " and a minimum that is not above the maximum"
        )


def hint(name: str, known: Sequence[str]) -> str:
    """The question whether a similar known name was meant, or nothing if none is similar."""
    similar = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {similar[0]}?" if similar else ""


def _correction(name: str, known: Sequence[str]) -> str:
    return hint(name, known) or f"known are: {', '.join(known)}"


def _line_number(error: configparser.ParsingError) -> int:
    if isinstance(error, configparser.MissingSectionHeaderError):
        return error.lineno
    return error.errors[0][0]


def _variable(section: str, key: str) -> str:
    return f"SPARKIFY_{section}_{key}".upper()


def _unquoted(value: str) -> str:
    quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value
