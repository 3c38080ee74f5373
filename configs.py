"""dl.cfg, keys.cfg, the environment and the flags, read into frozen, validated dataclasses.

A flag beats an environment variable (SPARKIFY_<SECTION>_<KEY>, say SPARKIFY_ETL_OUTPUT), and that
beats the file. Standard library only: this module goes to the cluster with etl.py.
"""

from __future__ import annotations

import configparser
import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

DL_CFG = Path(__file__).with_name("dl.cfg")
KEYS_CFG = Path(__file__).with_name("keys.cfg")

# The columns that a table can be partitioned by; tables without a year or a date have no entry.
PARTITION_CHOICES: Mapping[str, tuple[str, ...]] = {
    "songs": ("year", "artist_id"),
    "time": ("year", "month", "day"),
    "songplays": ("year", "month", "day"),
}

ConfigT = TypeVar("ConfigT")
Flags = Mapping[tuple[str, str], str]  # (section, key) -> the value given on the command line


class ConfigError(Exception):
    """Something the user has to mend, told in one line: where it stands and what is expected."""


def text(value: str) -> str:
    """Any text that is not blank."""
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


def setting(parse: Callable[[str], Any], expects: str) -> Any:  # noqa: ANN401 (as dataclasses.field)
    """A dataclass field that is read from the key of the same name in dl.cfg."""
    return dataclasses.field(metadata={"parse": parse, "expects": expects})


@dataclasses.dataclass(frozen=True)
class EtlConfig:
    """What one run of the job reads, writes and tolerates: [etl] and [partitions] of dl.cfg."""

    song_data: str = setting(text, "a folder or a URI such as s3://bucket/song_data")
    log_data: str = setting(text, "a folder or a URI such as s3://bucket/log_data")
    output: str = setting(text, "a folder or a URI such as s3://bucket/lake")
    max_rejected_percent: float = setting(number(0, 100), "a number from 0 to 100")
    max_rows_per_file: int = setting(whole_number(1, 10**9), "a whole number from 1")
    lock_minutes: float = setting(number(0.01, 1440), "minutes, from 0.01 to 1440")
    keep_reports: int = setting(whole_number(1, 10_000), "a whole number from 1 to 10000")
    partitions: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


class Settings:
    """One file's raw values under the environment and the flags, with where each one came from."""

    def __init__(self, path: Path, environ: Mapping[str, str], flags: Flags | None = None) -> None:
        self.path = path
        self.environ = environ
        self.flags = flags or {}
        self.file = _read(path)

    def has(self, section: str, key: str) -> bool:
        """Whether a key is set anywhere, be it to nothing."""
        return self._find(section, key)[1] is not None

    def get(self, section: str, key: str, parse: Callable[[str], Any], expects: str) -> Any:  # noqa: ANN401
        """The parsed value of a key, or a ConfigError that names its place and what it expects."""
        where, value = self._find(section, key)
        if value is None:
            raise ConfigError(f"{where} is missing: expected {expects}")
        try:
            return parse(_unquoted(value))
        except ValueError:
            raise ConfigError(f"{where} = {value!r}: expected {expects}") from None

    def keys(self, section: str) -> list[str]:
        """The keys of a section as they stand in the file."""
        return list(self.file[section]) if self.file.has_section(section) else []

    def check_keys(self, section: str, known: Sequence[str]) -> None:
        """Raise a ConfigError for a key that nothing reads, so that a misspelling is not silent."""
        for key in self.keys(section):
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are: {', '.join(known)}"
                raise ConfigError(f"{self.path}: [{section}] {key} is unknown; {hint}")

    def _find(self, section: str, key: str) -> tuple[str, str | None]:
        variable = _variable(section, key)
        if (section, key) in self.flags:
            return f"the flag for [{section}] {key}", self.flags[section, key]
        if variable in self.environ:
            return f"environment variable {variable}", self.environ[variable]
        return f"{self.path}: [{section}] {key}", self.file.get(section, key, fallback=None)


def load_etl_config(
    path: Path = DL_CFG,
    flags: Flags | None = None,
    environ: Mapping[str, str] = os.environ,
) -> EtlConfig:
    """The job's settings; raises ConfigError for the first one that is missing or wrong."""
    settings = Settings(path, environ, flags)
    settings.check_keys("partitions", tuple(PARTITION_CHOICES))
    partitions = {table: _partition(settings, table) for table in PARTITION_CHOICES}
    return dataclasses.replace(load_section(settings, "etl", EtlConfig), partitions=partitions)


def load_section(settings: Settings, section: str, shape: Callable[..., ConfigT]) -> ConfigT:
    """One section as its dataclass, with every key that the dataclass names and no other."""
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


def _partition(settings: Settings, table: str) -> tuple[str, ...]:
    choices = PARTITION_CHOICES[table]

    def parse(value: str) -> tuple[str, ...]:
        columns = names(value)
        if len(set(columns)) < len(columns) or not set(columns) <= set(choices):
            raise ValueError
        return columns

    expects = f"a list of {', '.join(choices)}, or nothing for an unpartitioned table"
    return settings.get("partitions", table, parse, expects)  # type: ignore[no-any-return]


def _read(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(
        interpolation=None,  # a % in a value is a %
        inline_comment_prefixes=("#", ";"),
    )
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # keys keep their case
    try:
        with path.open(encoding="utf-8-sig") as file:
            parser.read_file(file, source=str(path))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name another with --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except configparser.Error as error:
        raise ConfigError(" ".join(str(error).split())) from None
    return parser


def _variable(section: str, key: str) -> str:
    return f"SPARKIFY_{section}_{key}".upper()


def _unquoted(value: str) -> str:
    quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value
