"""The data that data/generate.py makes, the sample that is shipped, and its unpacking."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import pytest

DATA = Path(__file__).parent.parent / "data"
QUIRKS = json.loads((DATA / "quirks.json").read_text())
UNPACKED = "unpacked song_data (98 files) log_data (30 files)\n"
SLOW_UNZIP = '#!/bin/sh\nmkdir "$4/song_data"\ntouch "$4/begun"\nexec sleep 60\n'


class Made:
    """Generated files by path, gunzipped, and what they hold, each event once."""

    def __init__(self, files):
        self.gzipped = [path for path in files if path.endswith(".gz")]
        self.files = {
            path.removesuffix(".gz"): gzip.decompress(text) if path.endswith(".gz") else text
            for path, text in files.items()
        }
        self.logs = {path: text for path, text in self.files.items() if path.startswith("log_")}
        self.song_files = [text for path, text in self.files.items() if path.startswith("song_")]
        self.songs = [json.loads(text) for text in self.song_files]
        self.lines = [line for text in self.logs.values() for line in text.split(b"\n")]
        self.bad_lines = [line for line in self.lines if not is_event(line)]
        self.events = [json.loads(line) for line in set(self.lines).difference(self.bad_lines)]
        self.plays = [event for event in self.events if event["page"] == "NextSong"]
        tracks = {(play["song"], play["artist"], play["length"]) for play in self.plays}
        self.names = [name for track in tracks for name in track[:2]]
        self.titles = {song["title"] for song in self.songs}
        self.catalogue = {key(song) for song in self.songs}
        self.played = {played_key(play) for play in self.plays}


def is_event(line):
    """Whether a line is one whole event with a time, and a play has a user."""
    try:
        event = json.loads(line)
        return event["ts"] < 253402300800000 and (event["page"] != "NextSong" or event["userId"])
    except (ValueError, TypeError, KeyError):
        return False


def key(song):
    return song["title"], str(song["artist_name"]), song["duration"]


def played_key(play):
    return repaired(play["song"]), repaired(play["artist"]), play["length"]


def repaired(name):
    try:
        return name.encode("latin-1").decode().encode("latin-1").decode()
    except UnicodeError:
        return name


def several(pairs):
    """The keys that come with more than one value."""
    return [name for name, times in Counter(name for name, _ in set(pairs)).items() if times > 1]


def near_misses(made):
    """The other tracks that equal a song but for one field."""
    known = [{(*k[:f], *k[f + 1 :]) for k in made.catalogue} for f in range(3)]
    others = made.played - made.catalogue
    return [k for k in others if any((*k[:f], *k[f + 1 :]) in known[f] for f in range(3))]


FOUND = {
    "blank-users": lambda m: [e for e in m.events if e["userId"] == ""],
    "level-changes": lambda m: several((e["sessionId"], e["level"]) for e in m.events),
    "equal-times": lambda m: several((e["ts"], e["userId"]) for e in m.plays),
    "repeated-lines": lambda m: [n for n, times in Counter(m.lines).items() if times > 1],
    "double-encoding": lambda m: [n for n in m.names if repaired(n) != n],
    "right-names": lambda m: [n for n in m.names if repaired(n) == n and not n.isascii()],
    "near-misses": near_misses,
    "two-names": lambda m: several((s["artist_id"], s["artist_name"]) for s in m.songs),
    "two-locations": lambda m: several((s["artist_id"], s["artist_location"]) for s in m.songs),
    "lost-coordinates": lambda m: several(
        ((s["artist_id"], s["artist_location"]), s["artist_latitude"]) for s in m.songs
    ),
    "number-names": lambda m: {s["artist_id"] for s in m.songs if type(s["artist_name"]) is int},
    "non-ascii": lambda m: [title for title in m.titles if not title.isascii()],
    "punctuation": lambda m: [t for t in m.titles if t.isascii() and re.search(r"[^\w ]", t)],
    "year-zero": lambda m: {s["song_id"] for s in m.songs if s["year"] == 0},
    "shared-titles": lambda m: several(k[:2] for k in m.catalogue if k[0].isascii()),
    "versions": lambda m: several((k[:2], k[2]) for k in m.catalogue),
    "twins": lambda m: several((key(s), s["song_id"]) for s in m.songs),
    "repeated-songs": lambda m: range(len(m.songs) - len({s["song_id"] for s in m.songs})),
    "pretty": lambda m: [text for text in m.song_files if b"\n" in text],
    "gzip": lambda m: m.gzipped,
}
ALL = {
    "events": lambda m: m.events,
    "visits": lambda m: {e["sessionId"] for e in m.events},
    "non-ASCII names in the log": lambda m: [n for n in m.names if not n.isascii()],
    "other tracks": lambda m: m.played - m.catalogue,
    "artists of several songs": lambda m: several((s["artist_id"], s["song_id"]) for s in m.songs),
    "artists": lambda m: {s["artist_id"] for s in m.songs},
    "names and titles": lambda m: m.titles,
    "songs": lambda m: {s["song_id"] for s in m.songs},
    "song files": lambda m: m.songs,
    "files": lambda m: m.files,
}


def run(*command, **environ):
    options = {"capture_output": True, "text": True, "check": False}
    return subprocess.run([*map(str, command)], env={**os.environ, **environ}, **options)


def generate(output, *flags, **environ):
    return run(sys.executable, DATA / "generate.py", *flags, "--output", output, **environ)


def tree(folder):
    """The files below a folder, by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def unzipped(folder):
    """What the two zips of a folder hold, by path."""
    zips = [zipfile.ZipFile(folder / f"{name}-data.zip") for name in ("song", "log")]
    return {path: archive.read(path) for archive in zips for path in archive.namelist()}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    def make(*flags):
        output = tmp_path_factory.mktemp("made")
        done = generate(output, *flags)
        assert (done.returncode, done.stderr) == (0, "")
        return Made(tree(output))

    return make


@pytest.fixture(scope="module")
def made(make):
    return make("--songs", 1000, "--events", 18_000, "--bad-lines", 0.002, "--seed", 3)


@pytest.fixture(scope="module")
def sample():
    return Made(unzipped(DATA))


@pytest.mark.parametrize("quirk", QUIRKS)
def test_each_quirk_comes_in_its_share_and_the_sample_shows_it(made, sample, quirk):
    one_in, of, _ = QUIRKS[quirk]
    expected = len(ALL[of](made)) / one_in
    assert 0.5 * expected < len(FOUND[quirk](made)) < 1.4 * expected
    assert len(FOUND[quirk](sample)) > 1


@pytest.mark.parametrize("events", [1, 6000])
def test_there_are_exactly_as_many_lines_as_asked_for(make, events):
    few = make("--songs", 97, "--events", events, "--bad-lines", 0.01)
    assert len(ALL["songs"](few)) == 97
    assert len({(e["sessionId"], e["itemInSession"]) for e in few.events}) == events
    assert len(few.bad_lines) == events // 100
    assert len(few.lines) == events + events // 500 + events // 100


def test_as_many_plays_as_asked_for_match_a_song_and_are_one_users(make):
    plays, catalogue = (skewed := make("--skew-user", 0.2)).plays, skewed.catalogue
    matches = sum(played_key(play) in catalogue for play in plays)
    (_, most), *_ = Counter(play["userId"] for play in plays).most_common()
    assert 0.2 < matches / len(plays) < 0.25
    assert 0.2 < most / len(plays) < 0.3


def test_the_same_arguments_make_the_same_bytes_and_another_seed_others(tmp_path):
    for name, zone, seed in (("a", "Asia/Tokyo", 4), ("b", "America/New_York", 4), ("c", "UTC", 5)):
        for flags in ([], ["--zip"]):
            flags += ["--bad-lines", 0.01, "--seed", seed]
            done = generate(tmp_path / name, *flags, TZ=zone, PYTHONHASHSEED=str(len(zone)))
            assert (done.returncode, done.stderr) == (0, "")
    one, same, other = (tree(tmp_path / name) for name in "abc")
    assert one == same
    assert not set(one.values()) & set(other.values())


def test_no_gzip_leaves_all_as_plain_text_with_the_same_content(make):
    plain, zipped = make("--no-gzip"), make()
    assert (plain.gzipped, plain.files) == ([], zipped.files)


def test_the_documented_command_makes_the_shipped_sample(tmp_path, sample):
    text = (DATA / "generate.py").read_text()
    (flags,) = re.findall(r"generate\.py (.* --zip) --output data\n", text)
    assert generate(tmp_path / "new", *flags.split()).returncode == 0
    assert Made(unzipped(tmp_path / "new")).files == sample.files


def test_no_day_is_made_before_the_one_before_is_written(monkeypatch):
    monkeypatch.syspath_prepend(DATA)
    module = importlib.import_module("generate")
    recipe = module.Recipe(events=100_000, days=1000)
    log = module.Log(recipe, module.build_songs(recipe))
    next(log.files())
    assert 0 < log.events < 1000


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--songs=0", "--songs and --days must be 1 or more, --events 0 or more"),
        ("--start=yesterday", "argument --start: invalid fromisoformat value: 'yesterday'"),
        ("--seed=1", "{} holds song_data or log_data already: name another --output"),
    ],
)
def test_a_refusal_says_why_and_writes_nothing(tmp_path, flag, told):
    (tmp_path / "log_data").mkdir()
    done = generate(tmp_path, flag)
    assert done.returncode == 2
    assert done.stderr.endswith(f"generate.py: error: {told.format(tmp_path)}\n")
    assert [*tmp_path.iterdir()] == [tmp_path / "log_data"]


@pytest.fixture
def folder(tmp_path):
    """A copy of data/ as it is in a fresh clone."""
    ignore = shutil.ignore_patterns("song_data", "log_data", "__pycache__")
    return shutil.copytree(DATA, tmp_path / "some where" / "data", ignore=ignore)


def unpack(folder, path=os.environ["PATH"]):
    return run(folder / "unpack-local.sh", PATH=path)


def path_with(folder, *programs):
    """A PATH on which these programs are, what the script always needs, and no others."""
    folder.mkdir()
    for program in ("cut", "dirname", "find", "mktemp", "mv", "rm", "sh", "tr", "wc", *programs):
        (folder / program).symlink_to(shutil.which(program))
    return str(folder)


@pytest.mark.parametrize("tool", ["unzip", "python3"])
def test_unpacking_lays_the_sample_out_as_in_s3(folder, tmp_path, tool):
    done = unpack(folder, path_with(tmp_path / "bin", tool))
    assert (done.stdout, done.stderr) == (f"{folder}: {UNPACKED}", "")
    files = {path: content for path, content in tree(folder).items() if "/" in path}
    assert files == unzipped(DATA)


def test_unpacking_again_leaves_what_is_there_and_names_what_is_old(folder):
    unpack(folder)
    (folder / "song_data" / "own.json").touch()
    shutil.rmtree(folder / "log_data")
    told = "unpacked log_data (30 files); left as they were: song_data\n"
    assert unpack(folder).stdout == f"{folder}: {told}"
    before = tree(folder)
    os.utime(folder / "song-data.zip", (time.time() + 10,) * 2)
    told = "unpacked nothing; left as they were: song_data (older than song-data.zip"
    assert told in unpack(folder).stdout
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("tools", "size", "told"),
    [
        ([], 9000, "neither unzip nor python3 is installed: install one of them"),
        (["unzip"], 0, "song-data.zip is missing: git checkout -- data/song-data.zip restores it"),
        (["unzip"], 9000, "song-data.zip cannot be unpacked: "),
        (["python3"], 9000, "song-data.zip cannot be unpacked: "),
    ],
)
def test_what_cannot_be_unpacked_leaves_nothing(folder, tmp_path, tools, size, told):
    whole = (folder / "song-data.zip").read_bytes()
    (folder / "song-data.zip").unlink()
    if size:
        (folder / "song-data.zip").write_bytes(whole[:size])
    before = sorted(folder.iterdir())
    done = unpack(folder, path_with(tmp_path / "bin", *tools))
    assert done.returncode == 1
    assert re.fullmatch(f"unpack-local.sh: error: (/.*/)?{re.escape(told)}.*\n", done.stderr)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_unpacking_cut_short_leaves_no_half_of_a_folder(folder, tmp_path, kill):
    env = {"PATH": path_with(tmp_path / "bin", "mkdir", "touch", "sleep")}
    (tmp_path / "bin" / "unzip").write_text(SLOW_UNZIP)
    (tmp_path / "bin" / "unzip").chmod(0o755)
    process = subprocess.Popen([str(folder / "unpack-local.sh")], env=env, start_new_session=True)
    try:
        limit = time.monotonic() + 20
        while not list(folder.glob(".unpacking.*/begun")):
            assert time.monotonic() < limit
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, kill)
    assert process.wait(timeout=20) != 0
    assert not (folder / "song_data").exists()
    assert kill == signal.SIGKILL or not list(folder.glob(".unpacking.*"))
    assert unpack(folder).stdout == f"{folder}: {UNPACKED}"
