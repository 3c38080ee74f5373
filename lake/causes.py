"""Why most of a source's records are rejected: what the beginnings of a few of them tell.

The wrong folder or the wrong kind of file rejects all of a source, each record for a reason that
says little by itself.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from lake.lines import LOG_SCHEMA, SONG_SCHEMA
from lake.parsing import columns
from lake.paths import readable

LOOKED_AT = 20  # rejected records of one file
BYTES_LOOKED_AT = 4096  # of each

# What a file of another kind begins with, what it is, and what to do about it.
KINDS = (
    (rb"PK\x03\x04", "a zip archive", "unpack it"),
    (rb"\x1f\x8b", "packed with gzip", "let its name end in .gz"),
    (rb"BZh\d", "packed with bzip2", "let its name end in .bz2"),
    (rb"\x28\xb5\x2f\xfd", "packed with zstd", "pack it with gzip, as .gz"),
    (rb"\xfd7zXZ|7z\xbc\xaf", "packed with xz or 7-Zip", "pack it with gzip, as .gz"),
    (rb"PAR1|Obj\x01|ORC", "no JSON but a table as Parquet, Avro or ORC", "write it as JSON"),
    (
        rb"(?i)<(!doctype|html|\?xml|error)\b",
        "an HTML or XML page, not JSON",
        "get the file itself: a download that was refused leaves such a page",
    ),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file", "run git lfs pull"),
    (rb"\{\s*'", "no JSON: its quotes are those of Python", "write it with json.dumps"),
)
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Cause(NamedTuple):
    """A likely cause: what is the matter with the file, and what to do about it."""

    what: str
    cure: str


def find_cause(source: str, records: Sequence[bytes]) -> Cause | None:
    """The likely cause, from the beginnings of some records of a file of which all are rejected."""
    cause = (
        find_other_kind(records)
        or find_other_encoding(records)
        or find_other_source(source, records)
    )
    if cause or source == "song_data":  # songs may be in an array and pretty-printed
        return cause
    return find_other_layout(records) or find_other_unit(records)


def find_emptiness(files: Sequence[str], passed_over: Sequence[str]) -> Cause | None:
    """Why a source has no record at all: its files are empty, or passed over for their names."""
    if files:
        told = f"its {len(files):,} files are empty, such as {readable(min(files))}"
        return Cause(told, "fill or replace them")
    if passed_over:
        return Cause(
            f"its {len(passed_over):,} files are passed over for their names, such as "
            f"{readable(passed_over[0])}",
            "give other names to those that are input",
        )
    return None


def find_other_kind(records: Collection[bytes]) -> Cause | None:
    """Whether the file is packed, a page, or anything else that is no JSON."""
    for start, what, cure in KINDS:
        if any(re.match(start, record) for record in records):
            return Cause(f"this file is {what}", cure)
    if records and not any(re.search(rb"[{}\[\]]|\":", record) for record in records):
        return Cause("this is no JSON", "move it away, or give the folder of the JSON files")
    return None


def find_other_encoding(records: Collection[bytes]) -> Cause | None:
    """Whether the file is text in another encoding than UTF-8."""
    if any(record.startswith(UTF_16) or record.count(0) > len(record) / 4 for record in records):
        return Cause("this file is in UTF-16", "write it in UTF-8")
    if any(not is_utf8(record) for record in records):
        return Cause("this file is not in UTF-8, but maybe in Latin-1", "write it in UTF-8")
    return None


def is_utf8(record: bytes) -> bool:
    """Whether the beginning of a record is UTF-8; its last character may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(record)
    except UnicodeDecodeError:
        return False
    return True


def find_other_source(source: str, records: Collection[bytes]) -> Cause | None:
    """Whether the records have the keys of the other source: folders swapped, or one for both."""
    keys = {key for record in records for key in re.findall(r'"(\w+)"\s*:', text_of(record))}
    songs, events = (len(keys & columns(schema).keys()) for schema in (SONG_SCHEMA, LOG_SCHEMA))
    own, other = (songs, events) if source == "song_data" else (events, songs)
    if other <= own:
        return None
    what = "events" if source == "song_data" else "songs"
    return Cause(
        f"these look like {what}",
        "exchange song_data and log_data, or give each a folder of its own",
    )


def find_other_layout(records: Collection[bytes]) -> Cause | None:
    """Whether the events are not one a line."""
    lines = [text_of(record).strip() for record in records]
    if any(re.match(r"\[\s*(\{|$)", line) for line in lines):
        return Cause(
            "one event a line is expected; this file is one array",
            "write one a line, as jq -c '.[]' does",
        )
    if any(line == "{" or re.fullmatch(r'"\w+"\s*:\s*[^{}]*,', line) for line in lines):
        return Cause(
            "one event a line is expected; this file is pretty-printed",
            "write one a line, as jq -c . does",
        )
    return None


def find_other_unit(records: Collection[bytes]) -> Cause | None:
    """Whether the times of the events are not in milliseconds."""
    times = [re.search(r'"ts"\s*:\s*"?(\d{4}-\d\d-\d\d|\d+\b)', text_of(r)) for r in records]
    units = {unit_of(found[1]) for found in times if found}
    if len(units) != 1 or "" in units:
        return None
    return Cause(f"ts is {units.pop()}", "give it in milliseconds since 1970")


def unit_of(time: str) -> str:
    """What a ts outside the years 2000 to 2099 is likely to be; '' where it is none of these."""
    digits = {10: "in seconds", 16: "in microseconds", 19: "in nanoseconds"}
    return "a date as text" if "-" in time else digits.get(len(time), "")


def text_of(record: bytes) -> str:
    """A record as text, whatever bytes it holds."""
    return record.decode(errors="replace")
