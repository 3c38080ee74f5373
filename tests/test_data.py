"""The data that data/generate.py makes, the sample that is shipped, and its unpacking."""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from data import generate
from data.generate import QUIRKS, Recipe

DATA = Path(generate.__file__).parent
SONG_FIELDS = [
    "num_songs", "artist_id", "artist_latitude", "artist_longitude", "artist_location",
    "artist_name", "song_id", "title", "duration", "year",
]  # fmt: skip
EVENT_FIELDS = [
    "artist", "auth", "firstName", "gender", "itemInSession", "lastName", "length", "level",
    "location", "method", "page", "registration", "sessionId", "song", "status", "ts",
    "userAgent", "userId",
]  # fmt: skip


class Made(NamedTuple):
    """Generated files, as bytes by path and as what they hold."""

    files: dict[str, bytes]
    songs: list[dict[str, Any]]
    events: list[dict[str, Any]]

    @property
    def plays(self):
        """The events that are plays."""
        return [event for event in self.events if event["page"] == "NextSong"]

    @property
    def names(self):
        """Every artist and song name in the log."""
        return [play[field] for play in self.plays for field in ("artist", "song")]


def recipe(**changes) -> Recipe:
    return replace(Recipe(songs=400, events=4000, seed=3, duplicates=0), **changes)


def read(path: str, content: bytes) -> bytes:
    gzipped = path.endswith(".gz") and content.startswith(b"\x1f\x8b")
    return gzip.decompress(content) if gzipped else content


def parse(files: dict[str, bytes]) -> Made:
    lines = {path: read(path, content).decode() for path, content in files.items()}
    return Made(
        files,
        [json.loads(text) for path, text in lines.items() if path.startswith("song_data/")],
        [
            json.loads(line)
            for path, text in lines.items()
            if path.startswith("log_data/")
            for line in text.split("\n")
        ],
    )


@functools.cache
def make(recipe: Recipe) -> Made:
    songs = generate.build_songs(recipe)
    files = [*generate.build_song_files(recipe, songs), *generate.Log(recipe, songs).files()]
    assert len(dict(files)) == len(files)
    return parse(dict(files))


def key(song: dict[str, Any]) -> tuple[str, str, float]:
    return song["title"], str(song["artist_name"]), song["duration"]


def repaired(name: str) -> str:
    try:
        return name.encode("latin-1").decode().encode("latin-1").decode()
    except UnicodeError:
        return name


def played_key(play: dict[str, Any]) -> tuple[str, str, float]:
    return repaired(play["song"]), repaired(play["artist"]), play["length"]


def matches(made: Made) -> list[dict[str, Any]]:
    catalogue = {key(song) for song in made.songs}
    return [play for play in made.plays if played_key(play) in catalogue]


def several(pairs) -> list[Any]:
    """The keys that come with more than one value."""
    values = defaultdict(set)
    for name, value in pairs:
        values[name].add(value)
    return [name for name, found in values.items() if len(found) > 1]


def near_misses(made: Made) -> list[Any]:
    songs = [key(song) for song in made.songs]
    known = [{leave_out(song, field) for song in songs} for field in range(3)]
    others = set(map(played_key, made.plays)) - set(songs)
    return [(k, f) for k in others for f in range(3) if leave_out(k, f) in known[f]]


def leave_out(fields: tuple, index: int) -> tuple:
    return fields[:index] + fields[index + 1 :]


SEVERAL_TIMES = {
    "blank-users": lambda m: [e for e in m.events if e["userId"] == ""],
    "level-changes": lambda m: several((e["userId"], e["level"]) for e in m.plays),
    "equal-times": lambda m: several((e["ts"], e["userId"]) for e in m.plays),
    "double-encoding": lambda m: [name for name in m.names if repaired(name) != name],
    "right-names": lambda m: [n for n in m.names if repaired(n) == n and not n.isascii()],
    "near-misses": near_misses,
    "two-names": lambda m: several((s["artist_id"], s["artist_name"]) for s in m.songs),
    "two-locations": lambda m: several((s["artist_id"], s["artist_location"]) for s in m.songs),
    "lost-coordinates": lambda m: several(
        ((s["artist_id"], s["artist_location"]), s["artist_latitude"]) for s in m.songs
    ),
    "number-names": lambda m: [s for s in m.songs if isinstance(s["artist_name"], int)],
    "non-ascii": lambda m: [s for s in m.songs if not (s["title"] + key(s)[1]).isascii()],
    "punctuation": lambda m: [s for s in m.songs if re.search(r'[][{}"/\\\t]', s["title"])],
    "year-zero": lambda m: [s for s in m.songs if s["year"] == 0],
    "shared-titles": lambda m: several((s["title"], key(s)[1]) for s in m.songs),
    "versions": lambda m: several((key(s)[:2], s["duration"]) for s in m.songs),
    "twins": lambda m: several((key(s), s["song_id"]) for s in m.songs),
    "repeated-songs": lambda m: [
        n for n, times in Counter(s["song_id"] for s in m.songs).items() if times == 2
    ],
    "pretty": lambda m: [
        path
        for path, content in m.files.items()
        if path.startswith("song_data/") and b"\n" in read(path, content)
    ],
    "gzip": lambda m: [path for path in m.files if path.endswith(".gz")],
}
NEEDS = {"double-encoding": {"non-ascii"}, "right-names": {"non-ascii", "double-encoding"}}


def unzipped(folder: Path) -> dict[str, bytes]:
    """What the two zips of a folder hold, by path, with .gz files unpacked as well."""
    files = {}
    for name in ("song-data.zip", "log-data.zip"):
        with zipfile.ZipFile(folder / name) as archive:
            files.update({path: archive.read(path) for path in archive.namelist()})
    return {path: read(path, content) for path, content in files.items()}


@functools.cache
def sample() -> Made:
    with_bad_lines = unzipped(DATA)
    return parse({path: good_lines(path, text) for path, text in with_bad_lines.items()})


def good_lines(path: str, content: bytes) -> bytes:
    if path.startswith("song_data/"):
        return content
    return b"\n".join(line for line in content.split(b"\n") if is_event(line))


def is_event(line: bytes) -> bool:
    """Whether a line is one whole event, and a play has a user."""
    try:
        event = json.loads(line)
    except ValueError:
        return False
    return (
        isinstance(event, dict)
        and isinstance(event.get("ts"), int)
        and event["ts"] < 253402300800000  # the year 10000
        and (event["page"] != "NextSong" or event["userId"] != "")
    )


# Quirks


def test_every_quirk_has_a_test():
    assert set(SEVERAL_TIMES) == set(QUIRKS)


@pytest.mark.parametrize("quirk", QUIRKS)
def test_a_quirk_that_is_switched_on_befalls_several(quirk):
    made = make(recipe(quirks=frozenset({quirk} | NEEDS.get(quirk, set()))))
    assert len(SEVERAL_TIMES[quirk](made)) >= 2


@pytest.mark.parametrize("quirk", QUIRKS)
def test_a_quirk_that_is_switched_off_befalls_none(quirk):
    made = make(recipe(quirks=frozenset(NEEDS.get(quirk, set()))))
    assert SEVERAL_TIMES[quirk](made) == []


@pytest.mark.parametrize("quirk", QUIRKS)
def test_the_shipped_sample_shows_a_quirk_more_than_once(quirk):
    assert len(SEVERAL_TIMES[quirk](sample())) >= 2


def test_blank_users_are_signed_out_and_play_nothing():
    blank = [event for event in make(recipe()).events if event["userId"] == ""]
    assert {event["page"] for event in blank} == {"Home", "Login", "About"}
    assert {event["auth"] for event in blank} == {"Logged Out"}
    assert {event["userAgent"] for event in blank} == {None}


def test_levels_change_both_ways_and_only_by_a_submit_page():
    pages = Counter()
    visits = defaultdict(list)
    for event in make(recipe(events=20_000, users=600)).events:
        if event["userId"]:
            visits[event["userId"]].append(event)
    for events in visits.values():
        for before, after in zip(events, events[1:]):
            if before["level"] != after["level"]:
                pages[before["page"], after["level"]] += 1
    assert set(pages) == {("Submit Upgrade", "paid"), ("Submit Downgrade", "free")}
    assert min(pages.values()) > 5


def test_the_catalogue_has_the_right_name_where_the_log_has_it_misread_twice():
    made = make(recipe())
    misread = {play["artist"] for play in matches(made)} - {key(song)[1] for song in made.songs}
    artists = {key(song)[1] for song in made.songs}
    assert len(misread) > 10
    for name in misread:
        assert name.encode("latin-1").decode().encode("latin-1").decode() in artists


def test_names_reach_beyond_latin_and_beyond_16_bits():
    names = "".join(song["title"] for song in make(recipe()).songs)
    assert {"夜", "ن", "Ф", "🚲", "Å"} & set(names) >= {"夜", "🚲"}
    assert max(names) > "\uffff"


def test_near_misses_differ_in_each_of_title_artist_and_duration():
    made = make(recipe(quirks=frozenset({"near-misses"})))
    assert {field for _, field in near_misses(made)} == {0, 1, 2}


def test_twins_are_of_one_artist_and_of_namesakes():
    songs = make(recipe(quirks=frozenset({"twins"}))).songs
    namesakes = several((key(song), song["artist_id"]) for song in songs)
    assert 0 < len(namesakes) < len(several((key(song), song["song_id"]) for song in songs))


def test_a_number_as_a_name_is_a_number_in_the_song_file_and_text_in_the_log():
    made = make(recipe())
    numbers = {s["artist_name"] for s in made.songs if isinstance(s["artist_name"], int)}
    played = {play["artist"] for play in matches(made)}
    assert {str(number) for number in numbers} & played


# Counts


@pytest.mark.parametrize("songs", [1, 2, 3, 4, 5, 6, 1000])
def test_there_are_exactly_as_many_songs_as_asked_for(songs):
    made = make(recipe(songs=songs, events=0))
    assert len({song["song_id"] for song in made.songs}) == songs


@pytest.mark.parametrize("events", [1, 2, 29, 4321])
def test_there_are_exactly_as_many_events_as_asked_for(events):
    made = make(recipe(events=events))
    assert len(made.events) == events
    assert len({(e["sessionId"], e["itemInSession"]) for e in made.events}) == events


def test_the_counts_are_those_of_the_files():
    asked = recipe()
    log = generate.Log(asked, generate.build_songs(asked))
    list(log.files())
    made = make(asked)
    assert log.counts["plays"] == len(made.plays)
    assert log.counts["matches"] == len(matches(made))


@pytest.mark.parametrize("share", [0, 0.22, 1])
def test_the_share_of_plays_that_match_is_as_asked_for(share):
    made = make(recipe(match=share))
    assert len(matches(made)) / len(made.plays) == pytest.approx(share, abs=0.02)


def test_lines_delivered_again_come_on_top():
    events = make(recipe(duplicates=0.01)).events
    keys = Counter(json.dumps(event) for event in events)
    assert len(keys) == 4000
    assert len(events) == 4040


@pytest.mark.parametrize("kind", range(len(generate.BAD_LINES)))
def test_each_kind_of_bad_line_is_no_event(kind):
    play = next(line for line in log_lines(recipe()) if b'"NextSong"' in line)
    assert is_event(play)
    assert not is_event(generate.BAD_LINES[kind](play.decode()).encode("latin-1"))


def test_bad_lines_come_on_top_of_the_good_ones():
    good = log_lines(recipe(bad_lines=0.01))
    assert len(good) == 4040
    assert sum(is_event(line) for line in good) == 4000


def log_lines(asked: Recipe) -> list[bytes]:
    files = generate.Log(asked, generate.build_songs(asked)).files()
    return [line for path, content in files for line in read(path, content).split(b"\n")]


def test_a_log_of_no_events_has_no_files():
    assert list(generate.Log(recipe(events=0), generate.build_songs(recipe())).files()) == []


# Shapes


def test_song_files_lie_where_s3_has_them_and_hold_the_fields_in_order():
    made = make(recipe(songs=1000))
    paths = [path for path in made.files if path.startswith("song_data/")]
    assert paths == sorted(paths)
    for path in paths:
        assert re.fullmatch(r"song_data/(.)/(.)/(.)/TR\1\2\3[A-Z0-9]{13}\.json(\.gz)?", path)
    assert {tuple(song) for song in made.songs} == {tuple(SONG_FIELDS)}


def test_log_files_hold_one_day_each_in_the_order_of_time():
    made = make(recipe())
    paths = [path for path in made.files if path.startswith("log_data/")]
    assert len(paths) == 30
    for path in paths:
        day = re.fullmatch(r"log_data/(....)/(..)/(\1-\2-..)-events\.json(\.gz)?", path)[3]
        times = [json.loads(line)["ts"] for line in read(path, made.files[path]).split(b"\n")]
        assert times == sorted(times)
        assert {str(moment(ts).date()) for ts in times} == {day}


def test_events_hold_the_fields_in_order_and_pages_their_own_methods():
    events = make(recipe()).events
    assert {tuple(event) for event in events} == {tuple(EVENT_FIELDS)}
    assert {event["method"] for event in events} == {"GET", "PUT"}
    assert {event["status"] for event in events} == {200, 307, 404}
    assert {type(e["registration"]) for e in events if e["userId"]} == {float}
    assert {
        "Home", "Login", "Logout", "Settings", "Save Settings", "Upgrade", "Submit Upgrade",
        "Downgrade", "Submit Downgrade", "Error", "Help", "About", "NextSong",
    } == {event["page"] for event in events}  # fmt: skip


def test_a_visit_is_one_user_s_and_counts_its_items_from_zero():
    visits = defaultdict(list)
    for event in make(recipe()).events:
        visits[event["sessionId"]].append(event)
    for events in visits.values():
        assert [event["itemInSession"] for event in events] == list(range(len(events)))
        assert len({event["userId"] for event in events} - {""}) <= 1


def test_evenings_are_busy_and_weekends_quiet():
    moments = [moment(event["ts"]) for event in make(recipe(events=20_000)).events]
    hours = Counter(each.hour for each in moments)
    assert sum(hours[hour] for hour in (18, 19, 20)) > 4 * sum(hours[hour] for hour in (3, 4, 5))
    weekend = sum(each.weekday() >= 5 for each in moments) / len(moments)
    assert weekend < 0.2 < 8 / 30


def test_a_few_users_make_much_of_the_log():
    plays = Counter(play["userId"] for play in make(recipe(events=20_000)).plays)
    busiest = [count for _, count in plays.most_common(24)]
    assert 200 < len(plays) <= 240
    assert sum(busiest) > 0.4 * sum(plays.values())


def moment(ts: int) -> datetime:
    return datetime.fromtimestamp(ts / 1000, timezone.utc)


# Skew


def test_one_user_can_have_a_fifth_of_all_plays():
    plays = make(recipe(events=20_000, skew_user=0.2)).plays
    [(_, most), (_, next_most)] = Counter(play["userId"] for play in plays).most_common(2)
    assert 0.2 < most / len(plays) < 0.3
    assert next_most < most / 2


def test_one_month_can_have_nine_tenths_of_all_events():
    made = make(recipe(days=180, skew_month=0.9))
    months = Counter(moment(event["ts"]).strftime("%Y-%m") for event in made.events)
    [(month, most), *_] = months.most_common()
    assert month == "2018-12"
    assert most / len(made.events) == pytest.approx(0.9, abs=0.01)
    assert len(months) == 6


# Equal recipes, equal bytes


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DATA / "generate.py"), *arguments]
    return subprocess.run(
        command, env={**os.environ, **environ}, capture_output=True, text=True, check=False
    )


def checksums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_arguments_make_the_same_bytes(tmp_path):
    for name, zone in (("a", "Asia/Tokyo"), ("b", "America/New_York")):
        for how in ("--zip", "--seed=4"):
            output = f"--output={tmp_path / name}"
            done = run(output, how, "--bad-lines=0.01", TZ=zone, PYTHONHASHSEED=str(len(zone)))
            assert done.returncode == 0, done.stderr
    sums = checksums(tmp_path / "a")
    assert {"song-data.zip", "log-data.zip"} < set(sums)
    assert sums == checksums(tmp_path / "b")


def test_another_seed_makes_other_songs_and_events():
    one, other = make(recipe(seed=1)), make(recipe(seed=2))
    assert not {s["song_id"] for s in one.songs} & {s["song_id"] for s in other.songs}
    assert not {e["ts"] for e in one.events} & {e["ts"] for e in other.events}


def test_a_zip_holds_no_time_at_which_it_was_made(tmp_path):
    run(f"--output={tmp_path}", "--zip", "--events=10")
    for name in ("song-data.zip", "log-data.zip"):
        with zipfile.ZipFile(tmp_path / name) as archive:
            names = archive.namelist()
            assert names == sorted(names)
            assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_memory_does_not_grow_with_the_number_of_events():
    def peak(days: int) -> int:
        log = generate.Log(recipe(events=1000 * days, days=days), songs)
        tracemalloc.start()
        try:
            for _ in log.files():
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    songs = generate.build_songs(recipe())
    assert peak(days=28) < 1.5 * peak(days=7)


def test_the_first_day_does_not_wait_for_the_others():
    endless = recipe(events=100_000_000, days=50_000, start=date(1, 1, 1))
    path, _ = next(generate.Log(endless, generate.build_songs(recipe())).files())
    assert path == "log_data/0001/01/0001-01-01-events.json"


# The shipped sample


def test_the_documented_command_makes_the_shipped_sample(tmp_path):
    [command] = [line for line in generate.__doc__.splitlines() if line.endswith("--output data")]
    _, script, *arguments = shlex.split(command)
    assert script == "data/generate.py"
    done = run(*arguments[:-1], str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert unzipped(tmp_path) == unzipped(DATA)


def test_the_sample_is_a_month_with_a_fair_share_of_matches():
    made = sample()
    assert len({song["song_id"] for song in made.songs}) == 96
    assert len({json.dumps(event) for event in made.events}) == 6000
    assert {moment(event["ts"]).strftime("%Y-%m") for event in made.events} == {"2018-11"}
    assert 800 < len(matches(made)) < 0.3 * len(made.plays)


def test_the_sample_has_a_few_bad_lines_well_below_one_percent():
    lines = [
        line
        for path, text in unzipped(DATA).items()
        if path.startswith("log_data/")
        for line in text.split(b"\n")
    ]
    assert [is_event(line) for line in lines].count(False) == 6
    assert len(lines) == 6000 + 12 + 6


def test_the_sample_is_small():
    assert (DATA / "song-data.zip").stat().st_size < 50_000
    assert (DATA / "log-data.zip").stat().st_size < 400_000


# The command line


def test_every_documented_command_is_understood(tmp_path):
    commands = re.findall(
        r"^  python data/generate\.py (.*)$", generate.__doc__, flags=re.MULTILINE
    )
    assert len(commands) == 3
    for command in commands:
        generate.parse_args(shlex.split(command))


def test_help_lists_every_quirk_and_its_share(capsys):
    with pytest.raises(SystemExit):
        generate.parse_args(["--help"])
    told = capsys.readouterr().out
    for name, quirk in QUIRKS.items():
        assert re.search(rf"^  {name} +(all|1 in {quirk.one_in}) {quirk.of}: ", told, re.MULTILINE)


@pytest.mark.parametrize(
    ("text", "quirks"),
    [
        ("all", set(QUIRKS)),
        ("none", set()),
        ("twins,pretty", {"twins", "pretty"}),
        ("no-gzip,no-twins", set(QUIRKS) - {"gzip", "twins"}),
        ("all, no-gzip", set(QUIRKS) - {"gzip"}),
    ],
)
def test_quirks_can_be_named_or_left_out(text, quirks):
    assert generate.parse_quirks(text) == quirks


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--songs=0", "argument --songs: '0': expected a whole number from 1"),
        ("--events=many", "argument --events: 'many': expected a whole number from 0"),
        ("--match=1.5", "argument --match: '1.5': expected a share from 0 to 1"),
        ("--bad-lines=nan", "argument --bad-lines: 'nan': expected a share from 0 to 1"),
        ("--start=yesterday", "argument --start: 'yesterday': expected a day like 2018-11-01"),
        ("--quirks=twinz", "argument --quirks: no quirk 'twinz': expected some of blank-users,"),
        ("--days=9999999", "--days: they go beyond the year 9999; give less"),
        ("--skew-month=0.9", "--skew-month: the days lie in one month; give more --days"),
    ],
)
def test_a_wrong_argument_says_what_is_expected(argument, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        generate.parse_args(["--output=x", argument])
    assert stopped.value.code == 2
    assert f"generate.py: error: {told}" in capsys.readouterr().err


def test_a_large_log_gets_more_users():
    assert generate.parse_args(["--output=x"]).users == 240
    assert generate.parse_args(["--output=x", "--events=1000000"]).users == 2500
    assert generate.parse_args(["--output=x", "--events=1000000", "--users=7"]).users == 7


def test_plain_files_are_written_and_never_among_others(tmp_path, capsys):
    arguments = [f"--output={tmp_path}", "--events=500"]
    assert generate.main(arguments) == 0
    before = checksums(tmp_path)
    assert len(before) > 100
    capsys.readouterr()
    assert generate.main([*arguments, "--seed=9"]) == 1
    assert capsys.readouterr().err == (
        f"generate.py: error: {tmp_path}/song_data: is there already; name another --output\n"
    )
    assert checksums(tmp_path) == before


def test_an_output_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert generate.main([f"--output={tmp_path}/file", "--zip"]) == 1
    told = capsys.readouterr().err
    assert told == f"generate.py: error: {tmp_path}/file: File exists; name another --output\n"


# unpack-local.sh


@pytest.fixture
def folder(tmp_path):
    """A copy of data/ as it is in a fresh clone."""
    copy = tmp_path / "some where" / "data"
    copy.mkdir(parents=True)
    for name in ("song-data.zip", "log-data.zip", "unpack-local.sh"):
        shutil.copy(DATA / name, copy)
    return copy


def unpack(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(folder / "unpack-local.sh")],
        cwd="/",
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def path_with(folder: Path, *programs: str) -> str:
    """A PATH on which these programs are and no others."""
    folder.mkdir()
    for program in programs:
        (folder / program).symlink_to(shutil.which(program))
    return str(folder)


BASICS = ("cut", "dirname", "find", "mktemp", "mv", "rm", "sh", "tr", "wc")


def test_unpacking_lays_the_sample_out_as_in_s3(folder):
    done = unpack(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{folder}: unpacked song_data (98 files) log_data (30 files)\n"
    unpacked = [path for path in folder.rglob("*") if path.is_file() and path.parent != folder]
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in unpacked}
    assert {path: read(path, content) for path, content in files.items()} == unzipped(DATA)


def test_unpacking_twice_changes_nothing(folder):
    unpack(folder)
    own = folder / "log_data" / "own.json"
    own.touch()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = unpack(folder)
    assert done.stdout == f"{folder}: unpacked nothing; left as they were: song_data log_data\n"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_folder_that_is_missing_is_unpacked_again(folder):
    unpack(folder)
    shutil.rmtree(folder / "log_data")
    done = unpack(folder)
    assert done.stdout == (
        f"{folder}: unpacked log_data (30 files); left as they were: song_data\n"
    )


def test_a_folder_older_than_its_zip_is_named(folder):
    unpack(folder)
    later = time.time() + 10
    os.utime(folder / "song-data.zip", (later, later))
    assert "song_data (older than song-data.zip: delete it" in unpack(folder).stdout


def test_unpacking_needs_no_unzip(folder, tmp_path):
    done = unpack(folder, PATH=path_with(tmp_path / "bin", *BASICS, "python3"))
    assert done.stdout == f"{folder}: unpacked song_data (98 files) log_data (30 files)\n"


def test_without_any_tool_unpacking_says_what_to_install(folder, tmp_path):
    done = unpack(folder, PATH=path_with(tmp_path / "bin", *BASICS))
    assert done.returncode == 1
    assert done.stderr == (
        "unpack-local.sh: error: neither unzip nor python3 is installed: "
        "install one of them and run this again\n"
    )


def test_a_missing_zip_is_one_line(folder):
    (folder / "song-data.zip").unlink()
    done = unpack(folder)
    assert done.returncode == 1
    assert done.stderr == (
        f"unpack-local.sh: error: {folder}/song-data.zip is missing: "
        "git checkout -- data/song-data.zip restores it\n"
    )


@pytest.mark.parametrize("tool", ["unzip", "python3"])
def test_a_broken_zip_is_one_line_and_leaves_nothing(folder, tmp_path, tool):
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    whole = (folder / "song-data.zip").read_bytes()
    (folder / "song-data.zip").write_bytes(whole[: len(whole) // 2])
    done = unpack(folder, PATH=path_with(tmp_path / "bin", *BASICS, tool))
    assert done.returncode == 1
    told = f"unpack-local.sh: error: {folder}/song-data.zip cannot be unpacked: "
    assert done.stderr.startswith(told)
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == [
        "log-data.zip", "song-data.zip", "unpack-local.sh",
    ]  # fmt: skip


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_unpacking_cut_short_leaves_no_half_of_a_folder(folder, tmp_path, kill):
    bin_folder = Path(path_with(tmp_path / "bin", *BASICS, "mkdir", "touch", "sleep"))
    slow = bin_folder / "unzip"
    slow.write_text('#!/bin/sh\nmkdir "$4/song_data"\ntouch "$4/begun"\nexec sleep 60\n')
    slow.chmod(0o755)
    process = subprocess.Popen(
        [str(folder / "unpack-local.sh")],
        env={**os.environ, "PATH": str(bin_folder)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: list(folder.glob(".unpacking.*/begun")))
    finally:
        os.killpg(process.pid, kill)
    assert process.wait(timeout=20) != 0
    assert not (folder / "song_data").exists()
    if kill != signal.SIGKILL:
        assert list(folder.glob(".unpacking.*")) == []
    assert "unpacked song_data (98 files) log_data (30 files)" in unpack(folder).stdout


def wait_for(condition, seconds: float = 20) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)
