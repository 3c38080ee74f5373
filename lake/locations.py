"""Where the sources and the output are, told from their paths alone.

Standard library only: configs.py checks paths before a session starts.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

URI = re.compile(r"(?P<scheme>[A-Za-z][\w.+-]*):(//(?P<authority>[^/]*))?(?P<path>.*)")
S3_SCHEMES = ("s3", "s3a", "s3n")


def resolve_local(path: str) -> str:
    """A path of this machine without links and '..', as far as it exists."""
    return str(Path(path).resolve())


def find_overlap(
    sources: Mapping[str, str],
    output: str,
    folders: Iterable[str],
    resolve: Callable[[str], str] = resolve_local,
) -> tuple[str, str] | None:
    """The first source that is, holds or lies in one of the output's folders, and that folder.

    A source may be a pattern: it overlaps if what it matches could.
    """
    for folder in folders:
        own = split_path(f"{output.rstrip('/')}/{folder}", resolve)
        for name, source in sources.items():
            if all(_matches(part, given) for part, given in zip(own, split_path(source, resolve))):
                return name, folder
    return None


def split_path(path: str, resolve: Callable[[str], str] = resolve_local) -> list[str]:
    """The store and the names that lead to a file, so that the same place is the same list."""
    uri = URI.fullmatch(path)
    if uri is None or uri["scheme"] == "file":
        local = resolve(uri["path"] if uri else path)
        return ["file", *(name for name in local.split("/") if name)]
    scheme = "s3" if uri["scheme"].lower() in S3_SCHEMES else uri["scheme"].lower()
    names = posixpath.normpath(f"/{uri['path']}").split("/")
    return [f"{scheme}://{uri['authority'] or ''}", *(name for name in names if name)]


def is_pattern(path: str) -> bool:
    """Whether a path that does not exist may stand for others."""
    return re.search(r"[*?\[{]", path) is not None


def parse_location(path: str) -> str:
    """A path or URI with ~ expanded; raises ValueError where no store could be meant by it."""
    uri = URI.fullmatch(path)
    if uri is None:
        local = str(Path(path).expanduser()) if path.startswith("~") else path
        without_braces = re.sub(r"\{[^}]*\}", "", local)  # {a,b} is a pattern
        if not local or ("," in without_braces and not Path(local).exists()):
            raise ValueError
        return local
    scheme = uri["scheme"].lower()
    is_drive = len(scheme) == 1 and uri["authority"] is None
    is_bucket_missing = scheme in S3_SCHEMES and not uri["authority"]
    is_list = re.search(r",\s*[A-Za-z][\w.+-]+:/", path)
    if is_drive or is_bucket_missing or is_list or scheme in ("http", "https"):
        raise ValueError
    return path


def parse_output(path: str) -> str:
    """The same for a folder to write to: a file or a pattern cannot be one."""
    location = parse_location(path)
    if URI.fullmatch(location) is None and Path(location).is_file():
        raise ValueError
    return location


def _matches(name: str, given: str) -> bool:
    if name == given:
        return True
    # Hadoop's patterns have {a,b} as well: take it for anything, which refuses more, not less.
    return fnmatch.fnmatchcase(name, re.sub(r"\{.*|.*\}", "*", given))
