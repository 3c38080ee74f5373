"""Makes Sparkify-shaped data: song files and daily event logs, every name and id in them invented.

The same arguments give the same bytes. Memory holds the songs and one day of events, no more.

Song files are one object each, the log is one event a line and one file a day, laid out as in S3.
The quirks that such data has in the field are on unless --quirks switches them off; QUIRKS lists
them with their shares. Lines delivered again and bad lines come on top of --events.

Examples:
  # the sample in this folder
  python data/generate.py --songs 96 --events 6000 --bad-lines 0.001 --zip --output data

  # a large input for a benchmark: no gzipped files, a fifth of all visits by one user
  python data/generate.py --songs 15000 --events 1000000 --quirks no-gzip --skew-user 0.2 \
--output /tmp/large

  # only two quirks, half a year, nine tenths of it in one month
  python data/generate.py --quirks two-names,twins --days 180 --skew-month 0.9 --output /tmp/skewed
"""

from __future__ import annotations

import argparse
import errno
import gzip
import io
import json
import sys
import time
import zipfile
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import date, timedelta
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Optional

WORDS: dict[str, Any] = json.loads(
    Path(__file__).with_name("words.json").read_text(encoding="utf-8")
)

HOUR = 3_600_000
DAY = 24 * HOUR
# How many visits begin in each hour (UTC), from midnight on: a quiet night and a busy evening.
HOURS = [3, 2, 2, 1, 1, 2, 3, 4, 5, 6, 6, 7, 7, 7, 8, 9, 10, 12, 13, 12, 10, 8, 6, 4]
WEEKDAYS = [10, 11, 11, 12, 11, 6, 5]  # from Monday on
VISIT_LENGTHS = [1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 35, 60]
LONGEST_PAUSE = 455_000  # milliseconds between two events: the longest song, and a moment
PLAY_SHARE = 0.9  # of the pages of a visit, after its opening


class Quirk(NamedTuple):
    """An oddity of such data: of what it befalls about one in how many, and what it looks like."""

    one_in: int
    of: str
    looks: str


QUIRKS = {
    "blank-users": Quirk(30, "events", "signed-out Home, Login and About pages, with no user"),
    "level-changes": Quirk(30, "visits", "the user goes from free to paid, or back"),
    "equal-times": Quirk(30, "visits", "starts in the very millisecond of another user's play"),
    "double-encoding": Quirk(1, "non-ASCII names in the log", "UTF-8 read as Latin-1, twice over"),
    "right-names": Quirk(10, "non-ASCII names in the log", "right in spite of double-encoding"),
    "near-misses": Quirk(
        8, "other tracks", "a song of the catalogue but for its title, artist or duration"
    ),
    "two-names": Quirk(6, "artists of several songs", '"X" and "X feat. Y"'),
    "two-locations": Quirk(6, "artists of several songs", "two places"),
    "lost-coordinates": Quirk(6, "artists of several songs", "with coordinates and without"),
    "number-names": Quirk(30, "artists", "the name is a number, in song files a JSON number"),
    "non-ascii": Quirk(5, "names and titles", "accents, other scripts, a sign beyond 16 bits"),
    "punctuation": Quirk(9, "names and titles", "quotes, braces, brackets, slashes, a tab"),
    "year-zero": Quirk(3, "songs", "the year is unknown"),
    "shared-titles": Quirk(19, "songs", "the title of another artist's song"),
    "versions": Quirk(23, "songs", "title and artist of another song, another duration"),
    "twins": Quirk(
        31, "songs", "title, artist name and duration of another song, maybe of a namesake"
    ),
    "repeated-songs": Quirk(60, "songs", "stands in a second file as well"),
    "pretty": Quirk(10, "song files", "printed over several lines, in UTF-8 without escapes"),
    "gzip": Quirk(15, "files", "gzipped"),
}

Member = tuple[str, bytes]  # a file's path below the output folder, and its content
Place = tuple[str, Optional[float], Optional[float]]  # its name, latitude and longitude
Key = tuple[str, str, float]  # what a play matches a song on: title, artist name, duration
Event = tuple[int, str]  # when it was delivered, in milliseconds, and its line


@dataclass(frozen=True)
class Recipe:
    """What to make; equal recipes make equal bytes."""

    songs: int = 96
    events: int = 6000
    seed: int = 2018
    start: date = date(2018, 11, 1)
    days: int = 30
    users: int = 240
    match: float = 0.22
    quirks: frozenset[str] = frozenset(QUIRKS)
    duplicates: float = 0.002
    bad_lines: float = 0.0
    skew_user: float = 0.0
    skew_month: float = 0.0

    def has(self, quirk: str, index: int) -> bool:
        """Whether the thing of this index has a quirk, if it goes by turns; the first has none."""
        one_in = QUIRKS[quirk].one_in
        return quirk in self.quirks and index % one_in == one_in // 2

    def happens(self, quirk: str, random: Random) -> bool:
        """Whether this time a quirk happens, if it goes by chance."""
        return quirk in self.quirks and random.random() * QUIRKS[quirk].one_in < 1

    def random(self, part: str) -> Random:
        """A generator of its own for each part, so that one part's changes leave the others."""
        return Random(f"{self.seed}/{part}")


class Song(NamedTuple):
    """One song file's fields, in their order there."""

    num_songs: int
    artist_id: str
    artist_latitude: float | None
    artist_longitude: float | None
    artist_location: str
    artist_name: str
    song_id: str
    title: str
    duration: float
    year: int


class Track(NamedTuple):
    """What the log says of a song, as JSON text, and the milliseconds until the next event."""

    artist: str
    title: str
    length: str
    pause: int


class Visitor(NamedTuple):
    """What the log says of a user, as JSON text."""

    auth: str
    first_name: str
    gender: str
    last_name: str
    location: str
    registration: str
    user_agent: str
    user_id: str


class Page(NamedTuple):
    """A page of the service; new_level is what a visit to it makes of the user."""

    name: str
    method: str = "GET"
    status: int = 200
    signed_in: bool = True
    new_level: str = ""


@dataclass
class User:
    """A user as of the latest event made."""

    visitor: Visitor
    level: str
    busy_until: int = 0


NO_TRACK = Track("null", "null", "null", 0)
GUEST = Visitor('"Logged Out"', "null", "null", "null", "null", "null", "null", '""')

PLAY = Page("NextSong", "PUT")
HOME = Page("Home")
LOGOUT = Page("Logout", "PUT", 307)
GUEST_HOME = Page("Home", signed_in=False)
GUEST_ABOUT = Page("About", signed_in=False)
LOGIN = Page("Login", "PUT", 307, signed_in=False)
SUBMIT_UPGRADE = Page("Submit Upgrade", "PUT", 307, new_level="paid")
SUBMIT_DOWNGRADE = Page("Submit Downgrade", "PUT", 307, new_level="free")
CHANGES = {
    "free": (Page("Upgrade"), SUBMIT_UPGRADE),
    "paid": (Page("Downgrade"), SUBMIT_DOWNGRADE),
}
SIDE_TRIPS: tuple[tuple[Page, ...], ...] = (
    *[(HOME,)] * 10,
    (Page("Settings"),),
    (Page("Settings"), Page("Save Settings", "PUT", 307)),
    (Page("Help"),),
    (Page("About"),),
    (Page("Error", status=404),),
)
OPENINGS: tuple[tuple[Page, ...], ...] = (
    *[()] * 12,
    *[(HOME,)] * 5,
    (GUEST_HOME, LOGIN, HOME),
    (GUEST_HOME, GUEST_ABOUT, LOGIN, HOME),
)

# Each damages a play's line so that no reader should take it for a play.
BAD_LINES: tuple[Callable[[str], str], ...] = (
    lambda line: line[: len(line) // 2],  # cut off
    lambda line: line + line,  # two objects with no newline between
    lambda line: line.replace('"ts":', '"ts":"noon","was":'),
    lambda line: line.replace('"ts":', '"when":'),
    lambda line: f'{line.rpartition(",")[0]},"userId":""}}',
    lambda line: f"WARN rotated after {len(line)} bytes",
    lambda line: line.replace('"song":"', '"song":"\xff'),  # a byte that is not UTF-8
    lambda line: f"[{line}]",
    lambda line: line.replace('"ts":', '"ts":999'),  # in the year 318 thousand
)


# Songs


def build_songs(recipe: Recipe) -> list[Song]:
    """The catalogue: one song per song_id, an artist's songs side by side."""
    random = recipe.random("songs")
    songs: list[Song] = []
    artists = 0
    while len(songs) < recipe.songs:
        songs.extend(_artist_songs(recipe, random, artists))
        artists += 1
    del songs[recipe.songs :]
    for index in range(1, recipe.songs):
        songs[index] = _related(recipe, random, songs, index)
    return songs


def build_song_files(recipe: Recipe, songs: Sequence[Song]) -> Iterator[Member]:
    """One song a file, by path: the folders are the third to fifth letter of the file's name."""
    random = recipe.random("song files")
    repeated = [s for index, s in enumerate(songs) if recipe.has("repeated-songs", index)]
    files = [*songs, *repeated]
    names = sorted(f"TR{_folder(index)}{_code(random, 13)}" for index in range(len(files)))
    for index, (name, song) in enumerate(zip(names, files)):
        path = f"song_data/{name[2]}/{name[3]}/{name[4]}/{name}.json"
        text = _song_json(recipe, song, pretty=recipe.has("pretty", index))
        yield _member(path, text.encode(), gzipped=recipe.has("gzip", index))


def _artist_songs(recipe: Recipe, random: Random, number: int) -> Iterator[Song]:
    songs = (1, 1, 2, 1, 3, 1)[number % 6]
    known_place = songs > 1 or random.random() < 0.5
    place = random.choice(WORDS["places"]) if known_place else ("", None, None)
    name = _artist_name(recipe, random, number)
    artist = _at(place, Song(1, f"AR{_code(random, 16)}", None, None, "", name, "", "", 0.0, 0))
    for nth in range(songs):
        told = _told_later(recipe, random, artist, number // 3) if nth else artist
        yield told._replace(
            song_id=f"SO{_code(random, 16)}",
            title=_title(recipe, random),
            duration=_duration(random),
            year=0 if recipe.has("year-zero", number + nth) else random.randrange(1955, 2019),
        )


def _told_later(recipe: Recipe, random: Random, artist: Song, rank: int) -> Song:
    """An artist as a later song's file tells of them; rank numbers the artists of several songs."""
    if recipe.has("two-names", rank):
        return artist._replace(artist_name=f"{artist.artist_name} feat. {_person(random)}")
    if recipe.has("two-locations", rank + 1):
        elsewhere = [place for place in WORDS["places"] if place[0] != artist.artist_location]
        return _at(random.choice(elsewhere), artist)
    if recipe.has("lost-coordinates", rank + 2):
        return _at((artist.artist_location, None, None), artist)
    return artist


def _at(place: Place, artist: Song) -> Song:
    location, latitude, longitude = place
    return artist._replace(
        artist_location=location, artist_latitude=latitude, artist_longitude=longitude
    )


def _related(recipe: Recipe, random: Random, songs: Sequence[Song], index: int) -> Song:
    song, before = songs[index], songs[index - 1]
    if recipe.has("twins", index):
        namesake = f"AR{_code(random, 16)}" if index // 31 % 2 else before.artist_id
        return before._replace(song_id=song.song_id, artist_id=namesake)
    if recipe.has("versions", index):
        return before._replace(song_id=song.song_id, duration=song.duration, year=song.year)
    if recipe.has("shared-titles", index):
        return song._replace(title=songs[index - 5].title)  # no artist has more than three songs
    return song


def _song_json(recipe: Recipe, song: Song, *, pretty: bool) -> str:
    fields = song._asdict()
    if "number-names" in recipe.quirks and song.artist_name.isdigit():
        fields["artist_name"] = int(song.artist_name)
    return json.dumps(fields, indent=4 if pretty else None, ensure_ascii=not pretty)


def _folder(index: int) -> str:
    """Three letters, AAA first; 24 song files share a folder."""
    number = index // 24
    return "".join(chr(ord("A") + number // 26**place % 26) for place in (2, 1, 0))


def _code(random: Random, length: int) -> str:
    return "".join(random.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=length))


# Names


def _artist_name(recipe: Recipe, random: Random, number: int) -> str:
    if recipe.has("number-names", number):
        return str(random.randrange(200, 10_000))
    if recipe.has("non-ascii", number):
        return _non_ascii(random)
    if recipe.has("punctuation", number):
        return _punctuated(random)
    if random.random() < 0.4:
        return _person(random)
    return f"The {_town(random)} {random.choice(WORDS['nouns'])}"


def _title(recipe: Recipe, random: Random) -> str:
    if recipe.happens("non-ascii", random):
        return _non_ascii(random)
    if recipe.happens("punctuation", random):
        return _punctuated(random)
    adjective, noun = random.choice(WORDS["adjectives"]), random.choice(WORDS["nouns"])
    return f"{adjective} {noun} of {_town(random)}"


def _duration(random: Random) -> float:
    return round(random.triangular(90, 450, 220), 5)


def _person(random: Random) -> str:
    return f"{random.choice(WORDS['women'] + WORDS['men'])} {_town(random)}"


def _town(random: Random) -> str:
    return f"{random.choice(WORDS['starts'])}{random.choice(WORDS['ends'])}"


def _non_ascii(random: Random) -> str:
    return " ".join(random.choice(words) for words in random.choice(WORDS["non_ascii"]))


def _punctuated(random: Random) -> str:
    template: str = random.choice(WORDS["punctuated"])
    adjective, noun = random.choice(WORDS["adjectives"]), random.choice(WORDS["nouns"])
    return template.replace("ADJECTIVE", adjective).replace("NOUN", noun)


# Tracks and users


def build_tracks(recipe: Recipe, songs: Sequence[Song]) -> tuple[list[Track], list[Track]]:
    """The catalogue's songs and others, popular ones first, as the log tells of them."""
    random = recipe.random("tracks")
    catalogue = [(song.title, song.artist_name, song.duration) for song in songs]
    count = max(4_000, min(4 * len(songs), 20_000))
    others = (_other_key(recipe, random, songs, index) for index in range(count))
    taken = set(catalogue)
    return (
        [_track(recipe, random, key) for key in catalogue],
        [_track(recipe, random, key) for key in others if key not in taken],
    )


def _other_key(recipe: Recipe, random: Random, songs: Sequence[Song], index: int) -> Key:
    title, artist = _title(recipe, random), _artist_name(recipe, random, index)
    duration = _duration(random)
    if recipe.has("near-misses", index):
        song = random.choice(songs)
        return (
            (title, song.artist_name, song.duration),
            (song.title, artist, song.duration),
            (song.title, song.artist_name, round(song.duration + 0.00001, 5)),
        )[index // 8 % 3]
    return title, artist, duration


def _track(recipe: Recipe, random: Random, key: Key) -> Track:
    title, artist, duration = key
    return Track(
        artist=_json_text(_misread(recipe, random, artist)),
        title=_json_text(_misread(recipe, random, title)),
        length=repr(duration),
        pause=int(1000 * duration),
    )


def _misread(recipe: Recipe, random: Random, name: str) -> str:
    """The name as the log has it; pure ASCII reads the same in either encoding."""
    if "double-encoding" not in recipe.quirks or recipe.happens("right-names", random):
        return name
    return name.encode().decode("latin-1").encode().decode("latin-1")


def _json_text(value: str) -> str:
    return json.dumps(value).replace("/", "\\/")  # the log escapes slashes; JSON allows both


def build_users(recipe: Recipe) -> list[User]:
    """The users, busiest first."""
    random = recipe.random("users")
    ids = list(range(2, recipe.users + 2))
    random.shuffle(ids)
    return [
        User(
            visitor=_visitor(recipe, random, user_id),
            level="paid" if random.random() < (0.6 if rank < len(ids) // 8 else 0.2) else "free",
        )
        for rank, user_id in enumerate(ids)
    ]


def _visitor(recipe: Recipe, random: Random, user_id: int) -> Visitor:
    gender, names = random.choice((("F", WORDS["women"]), ("M", WORDS["men"])))
    registered = _milliseconds(recipe.start) - random.randrange(90 * DAY)
    return Visitor(
        auth='"Logged In"',
        first_name=_json_text(random.choice(names)),
        gender=_json_text(gender),
        last_name=_json_text(_town(random)),
        location=_json_text(random.choice(WORDS["metros"])),
        registration=f"{registered}.0",
        user_agent=_json_text(random.choice(WORDS["user_agents"])),
        user_id=f'"{user_id}"',
    )


# The log


class Log:
    """The log of one recipe, made day by day; counts tells what has been made so far."""

    def __init__(self, recipe: Recipe, songs: Sequence[Song]) -> None:
        self.recipe = recipe
        self.counts: Counter[str] = Counter()
        self._random = recipe.random("log")
        self._matching, self._others = build_tracks(recipe, songs)
        self._users = build_users(recipe)
        self._shares = list(accumulate(1 / (rank + 3) for rank in range(recipe.users)))
        self._end = _milliseconds(recipe.start) + recipe.days * DAY
        self._session = 0
        self._last_play = 0

    def files(self) -> Iterator[Member]:
        """One event a line, one file a day, in the order of delivery; a day of none has no file."""
        waiting: list[Event] = []  # visits that went on after midnight
        for index, events in enumerate(build_quotas(self.recipe)):
            day = self.recipe.start + timedelta(days=index)
            midnight = _milliseconds(day)
            waiting.extend(self._day(midnight, events))
            waiting.sort()
            today = bisect(waiting, (midnight + DAY,))
            text = "\n".join(line for _, line in waiting[:today])
            del waiting[:today]
            if text:
                path = f"log_data/{day.year:04}/{day.month:02}/{day}-events.json"
                content = text.encode("latin-1")  # ASCII, but for one kind of bad line
                yield _member(path, content, gzipped=self.recipe.has("gzip", index))

    def _day(self, midnight: int, quota: int) -> list[Event]:
        """The events of the visits that start on a day, exactly the quota, and the extra lines."""
        visits = sorted(self._arrivals(midnight, quota))
        events = [
            event for start, length in visits for event in self._visit(midnight, start, length)
        ]
        return events + self._extras(events)

    def _arrivals(self, midnight: int, quota: int) -> Iterator[tuple[int, int]]:
        while quota:
            length = min(quota, self._random.choice(VISIT_LENGTHS))
            hour = self._random.choices(range(24), HOURS)[0]
            start = midnight + hour * HOUR + self._random.randrange(HOUR)
            yield min(start, self._latest_start(length)), length
            quota -= length

    def _latest_start(self, length: int) -> int:
        return self._end - length * LONGEST_PAUSE

    def _visit(self, midnight: int, start: int, length: int) -> Iterator[Event]:
        random = self._random
        at_once = self.recipe.happens(
            "equal-times", random
        ) and midnight <= self._last_play <= self._latest_start(length)
        start = self._last_play if at_once else start
        user = self._free_user(start)
        pages = self._pages(user.level, (PLAY,) if at_once else random.choice(OPENINGS), length)
        self._session += random.randrange(1, 4)
        return self._events(user, start, pages)

    def _free_user(self, start: int) -> User:
        """A user whose last visit is over, unless they are too few to find one."""
        random = self._random
        if random.random() < self.recipe.skew_user:
            return self._users[0]
        for _ in range(10):
            user = self._users[bisect(self._shares, random.random() * self._shares[-1])]
            if user.busy_until < start:
                break
        return user

    def _pages(self, level: str, opening: Iterable[Page], length: int) -> list[Page]:
        random = self._random
        pages = list(opening)
        while len(pages) < length:
            pages += (PLAY,) if random.random() < PLAY_SHARE else random.choice(SIDE_TRIPS)
        if self.recipe.happens("level-changes", random):
            middle = 1 + length // 2
            pages[middle:middle] = CHANGES[level]
        if length > 2 and random.random() < 0.2:
            pages[length - 2 :] = [LOGOUT, GUEST_HOME]
        if "blank-users" not in self.recipe.quirks:
            pages = [page if page.signed_in else HOME for page in pages]
        return pages[:length]

    def _events(self, user: User, start: int, pages: Iterable[Page]) -> Iterator[Event]:
        session, ts, random = self._session, start, self._random.random
        for item, page in enumerate(pages):
            track = NO_TRACK
            if page is PLAY:
                track = self._next_track()
                self._last_play = ts
            who = user.visitor if page.signed_in else GUEST
            yield (
                ts,
                f'{{"artist":{track.artist},"auth":{who.auth},"firstName":{who.first_name}'
                f',"gender":{who.gender},"itemInSession":{item},"lastName":{who.last_name}'
                f',"length":{track.length},"level":"{user.level}","location":{who.location}'
                f',"method":"{page.method}","page":"{page.name}","registration":{who.registration}'
                f',"sessionId":{session},"song":{track.title},"status":{page.status},"ts":{ts}'
                f',"userAgent":{who.user_agent},"userId":{who.user_id}}}',
            )
            user.level = page.new_level or user.level
            ts += track.pause + 1 + int(5000 * random())
        user.busy_until = ts

    def _next_track(self) -> Track:
        random = self._random.random
        self.counts["plays"] += 1
        tracks = self._others
        if random() < self.recipe.match:
            self.counts["matches"] += 1
            tracks = self._matching
        return tracks[int(len(tracks) * random() * random())]  # the first ones most often

    def _extras(self, events: Sequence[Event]) -> list[Event]:
        """Lines delivered again up to an hour later, and damaged copies of plays."""
        recipe, random, counts = self.recipe, self._random, self.counts
        counts["events"] += len(events)
        extras = []
        while counts["duplicates"] < int(counts["events"] * recipe.duplicates):
            ts, line = random.choice(events)
            extras.append((min(ts + random.randrange(HOUR), self._end - 1), line))
            counts["duplicates"] += 1
        plays = [event for event in events if recipe.bad_lines and '"NextSong"' in event[1]]
        while plays and counts["bad lines"] < int(counts["events"] * recipe.bad_lines):
            ts, line = random.choice(plays)
            damage = BAD_LINES[counts["bad lines"] % len(BAD_LINES)]
            extras.append((ts, damage(line)))
            counts["bad lines"] += 1
        return extras


def build_quotas(recipe: Recipe) -> list[int]:
    """How many events each day's visits hold; they add up to recipe.events."""
    random = recipe.random("days")
    days = [recipe.start + timedelta(days=index) for index in range(recipe.days)]
    weights = [WEEKDAYS[day.weekday()] * (0.8 + 0.4 * random.random()) for day in days]
    if recipe.skew_month:
        weights = _skewed(days, weights, recipe.skew_month)
    sums = list(accumulate(weights))
    limits = [round(recipe.events * part / sums[-1]) for part in sums]
    return [after - before for before, after in zip([0, *limits], limits)]


def _skewed(days: Sequence[date], weights: Sequence[float], share: float) -> list[float]:
    """The weights with one month, the first of the longest, given its share of their sum."""
    months = [day.replace(day=1) for day in days]
    longest = max(dict.fromkeys(months), key=months.count)
    inside = sum(weight for weight, month in zip(weights, months) if month == longest)
    factors = {True: share / inside, False: (1 - share) / (sum(weights) - inside)}
    return [weight * factors[month == longest] for weight, month in zip(weights, months)]


def _milliseconds(day: date) -> int:
    return (day - date(1970, 1, 1)).days * DAY


# Files


def write_folder(members: Iterable[Member], output: Path) -> int:
    """Write each file below the output folder; returns how many."""
    written = 0
    for path, content in members:
        target = output / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        written += 1
    return written


def write_zip(members: Iterable[Member], target: Path) -> int:
    """Write the files into a zip, with no times in it, that replaces the old; returns how many."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unfinished")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path, content in members:
            entry = zipfile.ZipInfo(path)  # of 1980-01-01
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, wherever this runs
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
        written = len(archive.infolist())
    unfinished.replace(target)
    return written


def _refuse(*folders: Path) -> None:
    """Raise a FileExistsError if there is one: files of two recipes in one folder are of none."""
    for folder in folders:
        if folder.exists():
            raise FileExistsError(errno.EEXIST, "is there already", str(folder))


def _member(path: str, content: bytes, *, gzipped: bool) -> Member:
    if not gzipped:
        return path, content
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", fileobj=packed, mtime=0) as file:
        file.write(content)
    return f"{path}.gz", packed.getvalue()


# The command line


def main(argv: Sequence[str] | None = None) -> int:
    """Make what the command line asks for; tells on stderr what that was and how long it took."""
    args = parse_args(argv)
    recipe = Recipe(**{field.name: getattr(args, field.name) for field in fields(Recipe)})
    started = time.perf_counter()
    try:
        summary = write(recipe, args.output, zipped=args.zip)
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}"
        print(f"generate.py: error: {problem}; name another --output", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - started
    rate = (recipe.songs + recipe.events) / seconds
    print(f"{args.output}: {summary}; {seconds:.1f} s, {rate:,.0f} records/s", file=sys.stderr)
    return 0


def write(recipe: Recipe, output: Path, *, zipped: bool) -> str:
    """Write song_data and log_data, or a zip of each, to a folder; returns what they hold."""
    if not zipped:
        _refuse(output / "song_data", output / "log_data")
    songs = build_songs(recipe)
    log = Log(recipe, songs)
    if zipped:
        song_files = write_zip(build_song_files(recipe, songs), output / "song-data.zip")
        log_files = write_zip(log.files(), output / "log-data.zip")
    else:
        song_files = write_folder(build_song_files(recipe, songs), output)
        log_files = write_folder(log.files(), output)
    counts = log.counts
    return (
        f"{recipe.songs} songs in {song_files} files; {recipe.events} events in {log_files} files, "
        f"{counts['plays']} of them plays, of which {counts['matches']} match a song; besides, "
        f"{counts['duplicates']} lines delivered again and {counts['bad lines']} bad lines"
    )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """A recipe's fields, output and zip; a wrong one ends the program with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="generate.py",
        description=__doc__,
        epilog=_quirks_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_recipe(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="to write into")
    parser.add_argument("--zip", action="store_true", help="write song-data.zip and log-data.zip")
    args = parser.parse_args(argv)
    args.users = args.users or max(Recipe.users, args.events // 400)
    if args.days > (date.max - args.start).days:
        parser.error("--days: they go beyond the year 9999; give less")
    if args.skew_month and len(_months(args.start, args.days)) == 1:
        parser.error("--skew-month: the days lie in one month; give more --days")
    return args


def parse_quirks(text: str) -> frozenset[str]:
    """The quirks of "all", "none", a list of some, or a list of those to leave out ("no-gzip")."""
    words = {word.strip() for word in text.split(",")}
    without = {quirk for quirk in QUIRKS if f"no-{quirk}" in words}
    unknown = words - {"all", "none", *QUIRKS} - {f"no-{quirk}" for quirk in without}
    if unknown:
        known = ", ".join(QUIRKS)
        raise argparse.ArgumentTypeError(f"no quirk {min(unknown)!r}: expected some of {known}")
    named = set() if "none" in words else words.intersection(QUIRKS) or set(QUIRKS)
    return frozenset(named - without)


def _quirks_help() -> str:
    lines = ["quirks and their shares, roughly:"]
    for name, quirk in QUIRKS.items():
        share = "all" if quirk.one_in == 1 else f"1 in {quirk.one_in}"
        lines.append(f"  {name:<17} {share} {quirk.of}: {quirk.looks}")
    return "\n".join(lines)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    def add(flag: str, parse: Callable[[str], object], says: str) -> None:
        default = getattr(Recipe, flag.replace("-", "_"))
        parser.add_argument(
            f"--{flag}",
            type=parse,
            default=default,
            metavar="X",
            help=f"{says} (default: {default})",
        )

    add("songs", _whole(1), "how many songs")
    add("events", _whole(0), "how many events")
    add("seed", int, "any whole number")
    add("start", _day, "the first day")
    add("days", _whole(1), "how many days")
    add("match", _share, "share of the plays that match a song")
    add("duplicates", _share, "lines delivered again, as a share of the events")
    add("bad-lines", _share, "bad lines, as a share of the events")
    add("skew-user", _share, "share of the visits that one user makes")
    add("skew-month", _share, "share of the events in one month; 0 for no skew")
    users = f"how many users (default: {Recipe.users}, or one for every 400 events if more)"
    parser.add_argument("--users", type=_whole(1), metavar="X", help=users)
    quirks = "all, none, some (twins,pretty), or all but some (no-gzip,no-pretty); default: all"
    parser.add_argument("--quirks", type=parse_quirks, default="all", metavar="X", help=quirks)


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from {least}")
        return int(text)

    return parse


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a share from 0 to 1")
    return share


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a day like 2018-11-01") from None


def _months(start: date, days: int) -> set[date]:
    return {(start + timedelta(days=index)).replace(day=1) for index in range(days)}


if __name__ == "__main__":
    sys.exit(main())
