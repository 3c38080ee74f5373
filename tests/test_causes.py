"""A file of the wrong kind, or in the wrong folder, is told for what it is."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile

import pytest

from lake.causes import find_cause, find_emptiness
from tests.factories import TS, event, song

GOOD, SONG = json.dumps(event()), json.dumps(song())
PAGE = b"<!DOCTYPE html>\n<html>\n<body>403</body></html>"


def zipped():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("e.json", GOOD)
    return packed.getvalue()


# What a log file holds of which all lines are rejected, and what is told.
LOGS = {
    "songs": (SONG.encode(), "these look like songs; exchange song_data and log_data, or"),
    "an array of songs": (f"[{SONG},{SONG}]".encode(), "these look like songs"),
    "an array on one line": (f"[{GOOD},{GOOD}]".encode(), "this file is one array; write one"),
    "a long array": (f"[{','.join([GOOD] * 50)}]".encode(), "this file is one array"),
    "an array, pretty-printed": (
        json.dumps([event()] * 2, indent=2).encode(),
        "this file is one array",
    ),
    "an array, an event a line": (f"[\n{GOOD},\n{GOOD}\n]".encode(), "this file is one array"),
    "pretty-printed": (json.dumps(event(), indent=2).encode(), "this file is pretty-printed"),
    "pretty-printed with CRLF": (
        json.dumps(event(), indent=2).replace("\n", "\r\n").encode(),
        "this file is pretty-printed",
    ),
    "a page": (PAGE, "this file is an HTML or XML page, not JSON; get the file itself"),
    "an answer of S3": (b"<Error><Code>AccessDenied</Code></Error>", "an HTML or XML page"),
    "a zip archive": (zipped(), "this file is a zip archive; unpack it"),
    "gzip": (gzip.compress(GOOD.encode()), "packed with gzip; let its name end in .gz"),
    "bzip2": (bz2.compress(GOOD.encode()), "packed with bzip2; let its name end in .bz2"),
    "xz": (lzma.compress(GOOD.encode()), "packed with xz or 7-Zip; pack it with gzip"),
    "Parquet": (b"PAR1\x15\x04\x15", "no JSON but a table as Parquet"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "run git lfs pull"),
    "a dict of Python": (str(event()).encode(), "its quotes are those of Python"),
    "CSV": (
        b"ts,page,userId\n1541105830796,NextSong,7",
        "this is no JSON; move it away, or give the folder",
    ),
    "UTF-16": (GOOD.encode("utf-16"), "this file is in UTF-16; write it in UTF-8"),
    "UTF-16 without a mark": (GOOD.encode("utf-16-le"), "this file is in UTF-16"),
    "Latin-1": (GOOD.replace("Ada", "Adé").encode("latin-1"), "not in UTF-8, but maybe in Latin-1"),
    "seconds": (GOOD.replace(str(TS), str(TS // 1000)).encode(), "ts is in seconds; give it in"),
    "microseconds": (GOOD.replace(str(TS), f"{TS}000").encode(), "ts is in microseconds"),
    "dates": (GOOD.replace(str(TS), '"2018-11-01T20:57:10Z"').encode(), "ts is a date as text"),
}
# The same of a song file: it may hold an array and be pretty-printed.
SONGS = {
    "events": (
        f"{GOOD}\n{GOOD}".encode(),
        "these look like events; exchange song_data and log_data",
    ),
    "a page": (PAGE, "this file is an HTML or XML page"),
    "Latin-1": (SONG.replace("First", "Café").encode("latin-1"), "not in UTF-8"),
}
# Of these nothing is told but the reason of the rejection.
UNKNOWN = {
    "a user is missing": json.dumps(event(userId="")).encode(),
    "a key in another case": GOOD.replace('"userId"', '"userid"').encode(),
    "text that is cut inside a character": GOOD.replace("Ada", "é").encode()[
        : GOOD.index("Ada") + 1
    ],
    "names that are not ASCII": json.dumps(
        event(song="日本", level="Paid"), ensure_ascii=False
    ).encode(),
    "braces in a name": json.dumps(event(song="[x]\n{", level="Paid")).encode(),
}


def told(source, records):
    cause = find_cause(source, records)
    return f"{cause.what}; {cause.cure}" if cause else ""


@pytest.mark.parametrize("name", LOGS)
def test_a_log_file_of_another_kind_is_told_for_what_it_is(name):
    content, says = LOGS[name]
    lines = [line[:4096] for line in content.split(b"\n") if line.strip()][:20]
    assert says in told("log_data", lines)


@pytest.mark.parametrize("name", SONGS)
def test_a_song_file_of_another_kind_is_told_for_what_it_is(name):
    content, says = SONGS[name]
    assert says in told("song_data", [content])


def test_that_songs_are_in_an_array_is_no_cause():
    assert not told("song_data", [f"[{SONG},".encode()])


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_bad_line_in_a_file_of_the_right_kind_is_no_other_kind(name):
    assert not told("log_data", [UNKNOWN[name]])


def test_a_source_without_a_record_tells_whether_files_are_empty_or_passed_over():
    assert find_emptiness([], []) is None
    empty = find_emptiness(["file:/in/b.json", "file:/in/a.json"], ["file:/in/_c.json"])
    assert empty.what == "its 2 files are empty, such as /in/a.json"
    hidden = find_emptiness([], ["file:/in/_c.json"])
    assert hidden.what == "its 1 files are passed over for their names, such as /in/_c.json"
