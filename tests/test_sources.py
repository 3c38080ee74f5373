"""What becomes of every kind of line: nothing is dropped in silence, and nothing bad is loaded."""

from __future__ import annotations

import gzip
import json
from unittest import mock

import pytest

import etl
from lake import sources
from lake.accounting import Outcome, build_account, check_account
from lake.layout import PLAIN_LOCAL_FILES
from lake.lines import (
    LOADED,
    LOG_SCHEMA,
    SONG_SCHEMA,
    build_log_data,
    build_song_data,
    rejected,
    split_song_files,
)
from lake.listing import SourceError, list_source
from lake.parsing import columns, parse_lines
from lake.sources import LOG_DATA, SONG_DATA, read_log_files, read_song_files
from lake.storage import Disk, HadoopStorage
from tests.factories import TS, event, song, text_frame

GOOD = json.dumps(event())


def with_raw(field, raw):
    """An event whose field holds the raw JSON text, be it valid or not."""
    return json.dumps(event(**{field: "@"})).replace('"@"', raw)


def without(*fields):
    return json.dumps({key: value for key, value in event().items() if key not in fields})


def renamed(old, new):
    return json.dumps(event()).replace(f'"{old}":', f'"{new}":')


LINES = {
    # good lines, odd as they look
    "a play": (GOOD, LOADED),
    "white space around": (f" \t{GOOD} \r", LOADED),
    "a field that no table uses": (
        json.dumps(event(color="red", plan={"a": [1, {"b": 2}]})),
        LOADED,
    ),
    "a truth value that no table uses": (json.dumps(event(beta=True)), LOADED),
    "a name with braces": (json.dumps(event(song="}{ [x] {")), LOADED),
    "a name with quotes and backslashes": (json.dumps(event(song='\\"}"{\\')), LOADED),
    "a name in braces and an object for another text": (
        GOOD.replace('"First Light"', '"{x}"').replace('"free"', "{}"),
        "wrong_type level",
    ),
    "an object for a text whose key is escaped": (
        with_raw("song", "{}").replace('"song"', r'"s\u006fng"'),
        "wrong_type song",
    ),
    "a brace in a name and another object": (GOOD.replace("Ada", "}{") + GOOD, "several_objects"),
    "a brace in a name and trailing text": (GOOD.replace("Ada", "}{") + "}", "not_json"),
    "a name in brackets": (json.dumps(event(song="[untitled]")), LOADED),
    "a song called true": (json.dumps(event(song="true")), LOADED),
    "the artist 311 as a number": (with_raw("artist", "311"), LOADED),
    "a location as a number": (with_raw("location", "90210"), LOADED),
    "a user id as a number": (with_raw("userId", "7"), LOADED),
    "duplicate keys, of which the last counts": (GOOD[:-1] + ', "level": "paid"}', LOADED),
    "an escaped character": (GOOD.replace("Ada", r"\u0041da"), LOADED),
    "no session": (without("sessionId", "itemInSession"), LOADED),
    "no song": (without("song", "artist", "length"), LOADED),
    # events that are no play
    "a visit": (json.dumps(event(page="Home")), "filtered"),
    "a visit of nobody": (json.dumps(event(page="Home", userId="")), "filtered"),
    "no page": (without("page"), "filtered"),
    # not JSON
    "prose": ("hello", "not_json"),
    "a truncated line": (GOOD[:-30], "not_json"),
    "a line truncated after a value": (GOOD[:-1], "not_json"),
    "trailing text": (GOOD + " x", "not_json"),
    "a trailing brace": (GOOD + "}", "not_json"),
    "a trailing comma": (GOOD[:-1] + ",}", "not_json"),
    "a NUL byte behind": (GOOD + "\0", "not_json"),
    "a NUL byte within": (GOOD.replace("Ada", "A\0da"), "not_json"),
    "a raw tab in a text": (GOOD.replace("Ada", "A\tda"), "not_json"),
    "single quotes": (GOOD.replace('"', "'"), "not_json"),
    "no quotes": ("{page: NextSong}", "not_json"),
    "a comment": ("/* x */" + GOOD, "not_json"),
    "a leading zero": (with_raw("itemInSession", "01"), "not_json"),
    "NaN": (with_raw("length", "NaN"), "not_json"),
    "Infinity": (with_raw("length", "Infinity"), "not_json"),
    "null": ("null", "not_json"),
    "a number": ("123", "not_json"),
    "zero, the sign for an object": ("0", "not_json"),
    "a text": ('"s"', "not_json"),
    "a long number": (with_raw("length", "1" * 2_000), "not_json"),
    # more than one object
    "two objects": (GOOD + GOOD, "several_objects"),
    "two objects and a space": (f"{GOOD} {GOOD}", "several_objects"),
    "two objects and a comma": (f"{GOOD},{GOOD}", "several_objects"),
    "two objects, the second truncated": (GOOD + GOOD[:-20], "several_objects"),
    "two objects with nested ones": ('{"a":{"b":1}}{"a":{"b":1}}', "several_objects"),
    "an array of two": (f"[{GOOD},{GOOD}]", "several_objects"),
    "an array of one": (f"[{GOOD}]", "several_objects"),
    "an empty array": ("[]", "several_objects"),
    "an array that is not closed": (f"[{GOOD}", "not_json"),
    "an array and another": (f"[{GOOD}][{GOOD}]", "not_json"),
    # whole numbers in other spellings, which are converted
    "a ts as text": (with_raw("ts", f'"{TS}"'), LOADED),
    "a ts with a point": (with_raw("ts", f"{TS}.0"), LOADED),
    "a ts with a point as text": (with_raw("ts", f'"{TS}.0"'), LOADED),
    "a ts with an exponent": (with_raw("ts", "1.541105830796E12"), LOADED),
    "a session as text": (with_raw("sessionId", '"100"'), LOADED),
    "a session with a point": (with_raw("sessionId", "100.0"), LOADED),
    "a user id with a point": (with_raw("userId", "12.0"), LOADED),
    # only keys of the object itself are looked for
    "the name of a key as a value": (
        without("location")[:-1] + ', "note": "Location", "song": "Location"}',
        LOADED,
    ),
    "a key in another case in an object": (
        without("location")[:-1] + ', "geo": {"Location": "x"}}',
        LOADED,
    ),
    "an unused field nested five deep": (
        json.dumps(event(more={"a": {"b": {"c": {"d": {"e": 1}}}}})),
        LOADED,
    ),
    "an unused field nested ninety deep": (
        GOOD[:-1] + ', "more": ' + '{"a": [' * 90 + "]}" * 90 + "}",
        LOADED,
    ),
    "a key twice, the last value good": (GOOD[:-1] + ', "ts": "x", "ts": 1541105830796}', LOADED),
    "a key twice, the last value bad": (GOOD[:-1] + ', "ts": "x"}', "wrong_type ts"),
    # halves of characters
    "a whole character of two escapes": (GOOD.replace("Ada", r"\ud83c\udf00"), LOADED),
    "what looks like an escape": (GOOD.replace("Ada", r"\\ud83c"), LOADED),
    "the first half of a character": (GOOD.replace("Ada", r"\ud83c"), "not_json"),
    "the second half of a character": (GOOD.replace("Ada", r"\udf00"), "not_json"),
    "a half of a character that is not used": (GOOD.replace("PUT", r"\ud83c"), "not_json"),
    # wrong types
    "a ts in words": (with_raw("ts", '"abc"'), "wrong_type ts"),
    "a ts as text that is empty": (with_raw("ts", '""'), "wrong_type ts"),
    "a ts with a fraction": (with_raw("ts", f"{TS}.5"), "wrong_type ts"),
    "a ts beyond 64 bits": (with_raw("ts", "1" * 25), "wrong_type ts"),
    "a session in words": (with_raw("sessionId", '"x"'), "wrong_type sessionId"),
    "a session with a fraction": (with_raw("sessionId", "100.5"), "wrong_type sessionId"),
    "a length as text": (with_raw("length", '"218.5"'), "wrong_type length"),
    "a length as the text NaN": (with_raw("length", '"NaN"'), "wrong_type length"),
    "an object for a text": (with_raw("song", '{"a": 1}'), "wrong_type song"),
    "an array for a text": (with_raw("song", '["a"]'), "wrong_type song"),
    "a truth value for a text": (with_raw("song", "true"), "wrong_type song"),
    "an object for a number": (with_raw("ts", "{}"), "wrong_type ts"),
    # values that no table may hold
    "a play with another level": (json.dumps(event(level="Paid")), "wrong_value level"),
    "a play without a level": (json.dumps(event(level=None)), "wrong_value level"),
    "a visit without a level": (json.dumps(event(page="Home", level=None)), "filtered"),
    # keys, numbers, ids
    "userid for userId": (renamed("userId", "userid"), "key_in_another_case userId"),
    "Page for page": (renamed("page", "Page"), "key_in_another_case page"),
    "ARTIST for artist": (renamed("artist", "ARTIST"), "key_in_another_case artist"),
    "1e999": (with_raw("length", "1e999"), "number_out_of_range length"),
    "a user id of 1e400": (with_raw("userId", "1e400"), "number_out_of_range userId"),
    "no ts": (without("ts"), "impossible_ts ts"),
    "ts null": (json.dumps(event(ts=None)), "impossible_ts ts"),
    "ts zero": (json.dumps(event(ts=0)), "impossible_ts ts"),
    "ts negative": (json.dumps(event(ts=-TS)), "impossible_ts ts"),
    "ts in seconds": (json.dumps(event(ts=TS // 1000)), "impossible_ts ts"),
    "ts in microseconds": (json.dumps(event(ts=TS * 1000)), "impossible_ts ts"),
    "a visit without ts": (json.dumps(event(page="Home", ts=None)), "impossible_ts ts"),
    "an empty object": ("{}", "impossible_ts ts"),
    "a play of nobody": (json.dumps(event(userId="")), "blank_user_id userId"),
    "a play of white space": (json.dumps(event(userId=" \t")), "blank_user_id userId"),
    "a play of null": (json.dumps(event(userId=None)), "blank_user_id userId"),
}


@pytest.fixture(scope="module")
def outcomes(spark):
    """The outcome of each of LINES, all judged in one query."""
    etl.set_what_results_depend_on(spark)
    judged = build_log_data(text_frame(spark, *(line for line, _ in LINES.values()))).collect()
    assert len(judged) == len(LINES)
    return {name: outcome_of(row) for name, row in zip(LINES, judged)}


def outcome_of(row):
    """The outcome of a record, and the field where one is at fault."""
    is_fault = row["outcome"] not in (LOADED, "filtered")
    return " ".join(filter(None, (row["outcome"], is_fault and row["detail"])))


@pytest.mark.parametrize("name", LINES)
def test_a_line_has_its_outcome(outcomes, name):
    assert outcomes[name] == LINES[name][1]


SONG = json.dumps(song())
CAFE = SONG.replace("First", "Caf\xe9")
SONG_FILES = {
    "one object": (SONG, [LOADED]),
    "pretty-printed": (json.dumps(song(), indent=2), [LOADED]),
    "pretty-printed with CRLF": (json.dumps(song(), indent=2).replace("\n", "\r\n"), [LOADED]),
    "several, one a line": ("\n".join([SONG] * 3) + "\n", [LOADED] * 3),
    "several with CRLF and blank lines": ("\r\n\r\n".join([SONG] * 2) + "\r\n", [LOADED] * 2),
    "several with CR only": ("\r".join([SONG] * 2), [LOADED] * 2),
    "several pretty-printed": ("\n".join([json.dumps(song(), indent=1)] * 2), [LOADED] * 2),
    "a bad line among good ones": (f"{SONG}\nhello\n{SONG}", [LOADED, "not_json", LOADED]),
    "a truncated last line": (f"{SONG}\n{SONG[:-9]}", [LOADED, "not_json"]),
    "two on one line": (SONG + SONG, ["several_objects"]),
    "an array on one line": (f"[{SONG},{SONG}]", [LOADED] * 2),
    "an array, pretty-printed": (json.dumps([song(x={"a": [{}]})] * 2, indent=2), [LOADED] * 2),
    "an array of a good and a bad one": (f"[{SONG},{{}}]", [LOADED, "blank_song_id song_id"]),
    "an array with a number too large": (
        f"[{SONG},{SONG}]".replace('"First Light"', "-1e400", 1),
        ["number_out_of_range title", LOADED],
    ),
    "an array with Infinity as text": (
        json.dumps([song(title="Infinity", artist_name='_:"Infinity')]),
        [LOADED],
    ),
    "an array that is not closed": (f"[{SONG},\n{SONG}", ["not_json"]),
    "braces in a name": (json.dumps(song(title="}{ x")) + "\n", [LOADED]),
    "an open quote before another line": (
        SONG[:40] + "\n" + json.dumps(song(title="}{")),
        ["not_json", LOADED],
    ),
    "a vertical tab on a line of its own": (SONG + "\n\x0b", [LOADED, "not_json"]),
    "an array of others": ("[1]", ["several_objects"]),
    "an array with nothing": ("[]", ["several_objects"]),
    "pretty-printed with an object": (json.dumps(song(x={"a": 1}), indent=2), [LOADED]),
    "pretty-printed with objects": (json.dumps(song(x=[{"a": 1}, {}]), indent=2), [LOADED]),
    "several with objects": (
        "\n".join([json.dumps(song(x=[{"a": {}}, {}]), indent=1)] * 2),
        [LOADED] * 2,
    ),
    "empty": ("", []),
    "white space": (" \n\t\r\n", []),
    "a byte order mark": ("\ufeff" + SONG, [LOADED]),
    "the artist 311": (json.dumps(song(artist_name=311)), [LOADED]),
    "an object for a title": (json.dumps(song(title={"en": "x"})), ["wrong_type title"]),
    "a year in words": (json.dumps(song(year="MCMXC")), ["wrong_type year"]),
    "a year as text": (json.dumps(song(year="1999")), [LOADED]),
    "a year with a point": (SONG.replace("1999", "1999.0"), [LOADED]),
    "a year of 10 digits": (json.dumps(song(year=10**10)), ["wrong_value year"]),
    "the year 99999": (json.dumps(song(year=99999)), ["wrong_value year"]),
    "the year 999": (json.dumps(song(year=999)), ["wrong_value year"]),
    "the year 0": (json.dumps(song(year=0)), [LOADED]),
    "a duration of 0": (json.dumps(song(duration=0)), ["wrong_value duration"]),
    "a duration below 0": (json.dumps(song(duration=-3)), ["wrong_value duration"]),
    "a latitude of 999": (json.dumps(song(artist_latitude=999)), ["wrong_value artist_latitude"]),
    "a longitude of -181": (
        json.dumps(song(artist_longitude=-181)),
        ["wrong_value artist_longitude"],
    ),
    "the artist that stands for null in a path": (
        json.dumps(song(artist_id="__HIVE_DEFAULT_PARTITION__")),
        ["wrong_value artist_id"],
    ),
    "an artist too long for a folder": (
        json.dumps(song(artist_id="A" * 81)),
        ["wrong_value artist_id"],
    ),
    "Latin-1": (CAFE.encode("latin-1"), ["not_json"]),
    "a line in Latin-1 among good ones": (
        f"{SONG}\n{CAFE}\n{SONG}".encode("latin-1"),
        [LOADED, "not_json", LOADED],
    ),
    "an array in Latin-1": (
        f"[{CAFE}]".encode("latin-1"),
        ["not_json"],
    ),
    "a year with a fraction": (SONG.replace("1999", "1999.5"), ["wrong_type year"]),
    "a latitude of 1e999": (SONG.replace("40.7", "1e999"), ["number_out_of_range artist_latitude"]),
    "a key in another case": (SONG.replace("title", "Title"), ["key_in_another_case title"]),
    "a blank song_id": (json.dumps(song(song_id=" ")), ["blank_song_id song_id"]),
    "no artist_id": (json.dumps(song(artist_id=None)), ["blank_artist_id artist_id"]),
    "nulls elsewhere": (
        json.dumps(song(artist_latitude=None, artist_location=None, year=None, title=None)),
        [LOADED],
    ),
}


@pytest.fixture(scope="module")
def song_outcomes(spark, tmp_path_factory):
    """The outcomes of each of SONG_FILES, read in one query from files of every kind."""
    folder = tmp_path_factory.mktemp("songs")
    for number, (text, _) in enumerate(SONG_FILES.values()):
        path = folder / "A" / str(number % 3) / f"{number:02d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    etl.set_what_results_depend_on(spark)
    listing = list_source(spark, "song_data", str(folder))
    files = read_song_files(spark, listing, listing.files)
    found = {number: [] for number in range(len(SONG_FILES))}
    owners = parse_lines(split_song_files(files), SONG_SCHEMA).select("file").collect()
    for owner, row in zip(owners, build_song_data(files).collect()):
        found[int(owner["file"].rpartition("/")[2].removesuffix(".json"))].append(outcome_of(row))
    return dict(zip(SONG_FILES, found.values()))


@pytest.mark.parametrize("name", SONG_FILES)
def test_a_song_file_gives_its_records(song_outcomes, name):
    assert song_outcomes[name] == SONG_FILES[name][1]


def utf8(text):
    return text.encode()


LOG_FILES = {
    "plain.json": (utf8(f"{GOOD}\n{GOOD}\n"), {LOADED: 2}),
    "no-newline-at-the-end.json": (utf8(f"{GOOD}\n{GOOD}"), {LOADED: 2}),
    "crlf.json": (utf8(f"{GOOD}\r\n\r\n{GOOD}\r\n"), {LOADED: 2}),
    "cr.json": (utf8(f"{GOOD}\r{GOOD}\r"), {LOADED: 2}),
    "bom.json": (b"\xef\xbb\xbf" + utf8(GOOD), {LOADED: 1}),
    "non-ascii.json": (
        json.dumps(event(song="Été 日本"), ensure_ascii=False).encode(),
        {LOADED: 1},
    ),
    "replacement-character.json": (
        json.dumps(event(song="caf\ufffd"), ensure_ascii=False).encode(),
        {LOADED: 1},
    ),
    "invalid-utf8.json": (utf8(GOOD).replace(b"Ada", b"Ad\xe9"), {"not_json": 1}),
    "windows-1252.json": (utf8(GOOD).replace(b"Ada", b"Ad\x92"), {"not_json": 1}),
    "a-byte-of-no-character.json": (utf8(GOOD).replace(b"Ada", b"Ad\xff"), {"not_json": 1}),
    "utf-16.json": (f"{GOOD}\n".encode("utf-16"), {"not_json": 2}),
    "packed.json.gz": (gzip.compress(utf8(f"{GOOD}\n{GOOD}\n")), {LOADED: 2}),
    "packed-without-its-ending.json": (gzip.compress(utf8(GOOD), mtime=0), None),
    "empty.json": (b"", {}),
    "blank.json": (b"\n \n\t\n", {}),
    "pretty.json": (utf8(json.dumps({"a": 1, "b": 2}, indent=1)), {"not_json": 4}),
    "deep/er/in.txt": (utf8(GOOD), {LOADED: 1}),
    "25-megabytes.json": (utf8(GOOD.replace("Ada", "A" * 25_000_000)), {"not_json": 1}),
    "many-escapes.json": (utf8(GOOD.replace("Ada", "\\n" * 500_000 + "}")), {LOADED: 1}),
    "many-escapes-and-a-ts-as-text.json": (
        utf8(with_raw("ts", f'"{TS}"').replace("Ada", "\\n" * 500_000 + "}")),
        {LOADED: 1},
    ),
    "long-name.json": (
        json.dumps(event(song="é" * 100_000), ensure_ascii=False).encode(),
        {LOADED: 1},
    ),
}


@pytest.fixture(scope="module")
def log_outcomes(spark, tmp_path_factory):
    """How many lines of each of LOG_FILES had which outcome; one query reads them all."""
    folder = tmp_path_factory.mktemp("logs")
    for name, (content, _) in LOG_FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    etl.set_what_results_depend_on(spark)
    listing = list_source(spark, "log_data", str(folder))
    lines = read_log_files(spark, listing, listing.files)
    found = {name: {} for name in LOG_FILES}
    faults = parse_lines(lines, LOG_SCHEMA).select("file", "fault.reason")
    for row in faults.groupBy("file", "reason").count().collect():
        name = row["file"].partition(f"{folder}/")[2]
        found[name][row["reason"] or LOADED] = row["count"]
    return found


@pytest.mark.parametrize("name", [name for name, (_, due) in LOG_FILES.items() if due is not None])
def test_a_log_file_gives_its_lines(log_outcomes, name):
    assert log_outcomes[name] == LOG_FILES[name][1]


def test_a_packed_file_without_its_ending_is_rejected_and_not_read_as_something_else(log_outcomes):
    assert set(log_outcomes["packed-without-its-ending.json"]) == {"not_json"}


@pytest.fixture(params=["those of S3", "others", "a disk"])
def listed(request, spark, tmp_path, monkeypatch):
    """A function that lists a folder, as if in S3 with Spark's inner classes as known, or not."""
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    if request.param != "a disk":
        # Hadoop's plain class for a disk takes a colon in a name, as S3A does.
        for key, value in PLAIN_LOCAL_FILES.items():
            hadoop.set(key, value)
        monkeypatch.setattr(HadoopStorage, "is_flat", True)
        monkeypatch.setattr("lake.listing.open_storage", HadoopStorage)
    if request.param == "others":
        monkeypatch.setattr(sources, "read_without_asking", mock.Mock(side_effect=TypeError))
    yield lambda path: list_source(spark, "log_data", str(path))
    for key in PLAIN_LOCAL_FILES:
        hadoop.unset(key)


ODD_NAMES = [
    *("plain.json", "two words %41.json", "in*.json", "what?.json", "c{d}.json", "c{d}.json.gz"),
    *("a[1].json.gz", "a1.json.gz", "b[1].json", "2018-11-12T10:00:00.json", "a:b.json.gz"),
    *("août+.json", "日本.json", "new\nline.json", "back\\slash.json", "#x.json", "no-ending"),
]


@pytest.mark.parametrize("wholetext", [True, False])
def test_every_file_is_read_once_whatever_its_name(spark, tmp_path, listed, wholetext):
    for number, name in enumerate(ODD_NAMES):
        path = tmp_path / "in [x]*" / str(number % 3) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = f"{number}".encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    (tmp_path / "in [x]y").mkdir()
    (tmp_path / "in [x]y" / "of-the-pattern.json").write_text("of the pattern")
    listing = listed(tmp_path / "in [x]*")
    texts = sources.read_text(spark, listing, listing.files, wholetext=wholetext)
    found = [(sources.path_of(row["file"]), row["line"]) for row in texts.collect()]
    assert sorted(line for _, line in found) == sorted(map(str, range(len(ODD_NAMES))))
    assert {path for path, _ in found} == set(listing.files)
    assert {path.rpartition("/")[2] for path, _ in found} == set(ODD_NAMES)

    some = sorted(listing.files)[::5]
    texts = sources.read_text(spark, listing, some, wholetext=wholetext)
    assert sorted(sources.path_of(row["file"]) for row in texts.collect()) == some


def test_song_files_of_odd_names_are_read_once(spark, tmp_path, listed):
    for name in ODD_NAMES:
        text = name.encode()
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    listing = listed(tmp_path)
    found = read_song_files(spark, listing, listing.files).collect()
    assert sorted(row["line"] for row in found) == sorted(ODD_NAMES)


def test_a_path_that_does_not_exist_may_be_a_pattern(tmp_path, listed):
    for name in ("A/1.json", "B/2.json", "C/3.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    assert {path[-8:] for path in listed(f"{tmp_path}/[AB]").files} == {"A/1.json", "B/2.json"}
    assert {path[-8:] for path in listed(f"{tmp_path}/C/*.json").files} == {"C/3.json"}
    assert {path[-8:] for path in listed(tmp_path / "A/1.json").files} == {"A/1.json"}
    with pytest.raises(SourceError, match=r"log_data: cannot read \S+/D\*: it does not exist"):
        listed(f"{tmp_path}/D*")


NO_INPUT = ["_x.json", ".x.json", "_d/x.json", "x._COPYING_", "e.json~", "Thumbs.db", "e.json.bak"]


def test_what_is_no_input_is_passed_over_by_its_name(tmp_path, listed):
    for name in (*NO_INPUT, "e.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    listing = listed(tmp_path)
    assert {path.rpartition("/")[2] for path in listing.files} == {"e.json"}
    start = len(f"file:{tmp_path}/")
    assert {path[start:] for path in listing.passed_over} == set(NO_INPUT)


@pytest.mark.parametrize("name", ["x.zip", "x.json.GZ", "x.xz", "x.tar.gz", "X.7z", "x.json.br"])
def test_a_file_that_is_packed_in_another_way_is_named(tmp_path, listed, name):
    (tmp_path / "y.json").write_text("")
    (tmp_path / name).write_text("")
    says = rf"log_data: cannot read {tmp_path}/{name}: .* \(1 such files\)\. Pack it with gzip"
    with pytest.raises(SourceError, match=says):
        listed(tmp_path)


def test_in_a_locale_without_the_characters_of_a_name_the_locale_is_named(tmp_path, monkeypatch):
    (tmp_path / "août.json").write_text("")
    session = mock.Mock()
    session._jvm.System.getProperty.return_value = "ANSI_X3.4-1968"
    monkeypatch.setattr("lake.listing.open_storage", lambda _, path: Disk(f"file:{path}"))
    says = r"log_data: cannot read '/\S+/ao\\xfbt.json': .* ANSI_X3.4-1968; set LC_ALL=C.UTF-8"
    with pytest.raises(SourceError, match=says):
        list_source(session, "log_data", str(tmp_path))


@pytest.mark.parametrize("source", [SONG_DATA, LOG_DATA], ids=lambda source: source.name)
def test_the_declared_columns_of_parsed_records_are_those_that_are_built(spark, source):
    built = source.build(text_frame(spark, GOOD)).schema
    kinds = {field.name: field.dataType.simpleString().upper() for field in built}
    assert kinds == columns(source.record)


def test_a_rejected_line_is_kept_with_its_reason_and_file(spark):
    etl.set_what_results_depend_on(spark)
    judged = build_log_data(text_frame(spark, "hello", GOOD))
    found = [row.asDict() for row in rejected(judged).collect()]
    assert found == [
        {
            "reason": "not_json",
            "field": None,
            "file": "///in/0.json",
            "length": 5,
            "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
            "line": "hello",
        }
    ]


def test_a_long_rejected_line_is_cut_and_its_length_kept(spark):
    judged = build_log_data(text_frame(spark, "x" * 100_000))
    found = rejected(judged).collect()[0]
    assert (found["length"], len(found["line"])) == (100_000, 65_536)


def account(**outcomes):
    """The account of a source of which so many records had each outcome."""
    return build_account(
        {
            f"file:/in/{name}.json": [
                Outcome(name, "Home" if name == "filtered" else None, n, 0, 0)
            ]
            for name, n in outcomes.items()
        },
        0,
    )


def test_an_account_adds_up():
    found = account(loaded=5, filtered=3, not_json=2, blank_user_id=1)
    assert found["read"] == 11
    assert found["rejected"] == {"blank_user_id": 1, "not_json": 2}


@pytest.mark.parametrize(
    ("bad", "limit", "fails"), [(1, 1, False), (2, 1, True), (0, 0, False), (1, 0, True)]
)
def test_a_source_fails_only_above_the_limit_of_rejects(bad, limit, fails):
    found = account(loaded=100 - bad, **({"not_json": bad} if bad else {}))
    if fails:
        with pytest.raises(SourceError, match=f"log_data: {bad} of 100 records are rejected"):
            check_account("log_data", "p", found, limit)
    else:
        check_account("log_data", "p", found, limit)


def test_a_source_with_nothing_to_load_is_refused():
    says = r"log_data: /in holds nothing to load \(3 records read, of the pages Home \(3\)\)"
    with pytest.raises(SourceError, match=says):
        check_account("log_data", "/in", account(filtered=3), 100)
