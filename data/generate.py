"""Makes Sparkify-shaped data: song files and daily event logs, every name and id in them invented.

The same arguments make the same bytes. Memory holds the songs and one day of events, no more.
A song file holds one song, a log file one day with an event a line; they lie as in S3.
quirks.json lists the oddities of real data that are in it, with their shares.

The sample in this folder, and a large input for a benchmark with no gzipped files:
  python data/generate.py --songs 96 --events 6000 --bad-lines 0.001 --zip --output data
  python data/generate.py --songs 15000 --events 3000000 --days 180 --no-gzip --output /tmp/large
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import accumulate, product
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from chance import QUIRKS, VISITS, WORDS, Chance, has

File = tuple[str, bytes]  # its path below the output folder, and its content
Song = dict[str, Any]  # the fields of a song file, in their order there
Key = tuple[str, str, float]  # what a play matches a song on: title, artist name, duration
Track = tuple[str, str, str, int]  # artist, title and length as JSON text, and milliseconds
Line = tuple[int, str]  # when it was delivered, in milliseconds, and its text

HOUR = 3_600_000  # milliseconds, as every time in the log
DAY = 24 * HOUR
LONGEST_PAUSE = 455_000  # between two events: the longest song, and a moment
MATCH_SHARE = 0.22  # of the plays: those of a song that has a song file
PLAY_SHARE = 0.9  # of the pages of a visit, after its opening

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


@dataclass(frozen=True)
class Recipe:
    """What to make; equal recipes make equal bytes."""

    songs: int = 96
    events: int = 6000
    seed: int = 2018
    start: date = date(2018, 11, 1)
    days: int = 30
    bad_lines: float = 0.0
    skew_user: float = 0.0
    no_gzip: bool = False


def build_songs(recipe: Recipe) -> list[Song]:
    """The catalogue: one song per song_id, an artist's songs side by side."""
    chance = Chance(f"{recipe.seed}/songs")
    songs: list[Song] = []
    artists = 0
    while len(songs) < recipe.songs:
        songs.extend(_artist_songs(chance, artists))
        artists += 1
    del songs[recipe.songs :]
    for index in range(1, recipe.songs):
        songs[index] = _related(chance, songs, index)
    return songs


def _artist_songs(chance: Chance, index: int) -> Iterator[Song]:
    count = (1, 1, 2, 1, 3, 1)[index % 6]
    known_place = count > 1 or chance.random() < 0.5
    place: Song = chance.choice(WORDS["places"]) if known_place else WORDS["nowhere"]
    name = chance.artist_name(index)
    artist = {"num_songs": 1, "artist_id": f"AR{chance.code(16)}", **place, "artist_name": name}
    for nth in range(count):
        yield {
            **(_told_later(chance, artist, index // 3) if nth else artist),
            "song_id": f"SO{chance.code(16)}",
            "title": chance.title(),
            "duration": chance.duration(),
            "year": 0 if has("year-zero", index + nth) else chance.randrange(1955, 2019),
        }


def _told_later(chance: Chance, artist: Song, rank: int) -> Song:
    """An artist as a later song's file tells of them; rank numbers the artists of several songs."""
    if has("two-names", rank):
        return {**artist, "artist_name": f"{artist['artist_name']} feat. {chance.person()}"}
    if has("two-locations", rank + 1):
        here = artist["artist_location"]
        elsewhere = [place for place in WORDS["places"] if place["artist_location"] != here]
        return {**artist, **chance.choice(elsewhere)}
    if has("lost-coordinates", rank + 2):
        return {**artist, "artist_latitude": None, "artist_longitude": None}
    return artist


def _related(chance: Chance, songs: Sequence[Song], index: int) -> Song:
    """The song of this index, made to resemble one before it if it has such a quirk."""
    song, before = songs[index], songs[index - 1]
    if has("twins", index):
        artist_id = f"AR{chance.code(16)}" if index // 31 % 2 else before["artist_id"]
        return {**before, "song_id": song["song_id"], "artist_id": artist_id}
    if has("versions", index):
        return {**before, **{field: song[field] for field in ("song_id", "duration", "year")}}
    if has("shared-titles", index):
        return {**song, "title": songs[index - 5]["title"]}  # none has more than three songs
    return song


def build_song_files(recipe: Recipe, songs: Sequence[Song]) -> Iterator[File]:
    """One song a file, 24 a folder; a path's folders are the third to fifth letter of its name."""
    chance = Chance(f"{recipe.seed}/song files")
    files = [*songs, *(song for index, song in enumerate(songs) if has("repeated-songs", index))]
    letters = list(product(ascii_uppercase, repeat=3))
    names = sorted(f"TR{''.join(letters[i // 24])}{chance.code(13)}" for i in range(len(files)))
    for index, (name, song) in enumerate(zip(names, files)):
        artist = song["artist_name"]
        fields = {**song, "artist_name": int(artist) if artist.isdigit() else artist}
        pretty = has("pretty", index)
        text = json.dumps(fields, indent=4 if pretty else None, ensure_ascii=not pretty)
        path = f"song_data/{name[2]}/{name[3]}/{name[4]}/{name}.json"
        yield _file(recipe, index, path, text.encode())


def build_tracks(recipe: Recipe, songs: Sequence[Song]) -> tuple[list[Track], list[Track]]:
    """The catalogue's songs and others, as the log tells of them; the first are played most."""
    chance = Chance(f"{recipe.seed}/tracks")
    catalogue = [(song["title"], song["artist_name"], song["duration"]) for song in songs]
    count = max(4_000, min(4 * len(songs), 20_000))
    others = (_other_key(chance, catalogue, index) for index in range(count))
    taken = set(catalogue)
    matching = [_track(chance, *key) for key in catalogue]
    return matching, [_track(chance, *key) for key in others if key not in taken]


def _other_key(chance: Chance, catalogue: Sequence[Key], index: int) -> Key:
    title, artist, duration = chance.title(), chance.artist_name(index), chance.duration()
    if not has("near-misses", index):
        return title, artist, duration
    song = chance.choice(catalogue)
    near = (title, *song[1:]), (song[0], artist, song[2]), (*song[:2], round(song[2] + 0.00001, 5))
    return near[index // 8 % 3]


def _track(chance: Chance, title: str, artist: str, duration: float) -> Track:
    artist, title = _log_name(chance, artist), _log_name(chance, title)
    return artist, title, _json(duration), int(1000 * duration)


def _log_name(chance: Chance, name: str) -> str:
    """The name as JSON text; most that are not ASCII are UTF-8 read as Latin-1, twice over."""
    if not chance.happens("right-names"):
        name = name.encode().decode("latin-1").encode().decode("latin-1")
    return _json(name)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":")).replace("/", "\\/")  # as the log does


def _line(user: dict[str, object]) -> str:
    """A user's log line: %s for what each event fills in, and a guest's values for what is left."""
    return _json({**VISITS["event"], **user}).replace('"%"', "%s")


@dataclass
class User:
    """A user as of the latest event made; line has %s for what each event fills in."""

    line: str
    level: str
    busy_until: int = 0


def build_users(recipe: Recipe) -> list[User]:
    """The users, busiest first; a large log has more of them."""
    chance = Chance(f"{recipe.seed}/users")
    ids = list(range(2, 2 + max(240, recipe.events // 400)))
    chance.shuffle(ids)
    return [
        _user(chance, recipe.start, user_id, paid_share=0.6 if rank < len(ids) // 8 else 0.2)
        for rank, user_id in enumerate(ids)
    ]


def _user(chance: Chance, start: date, user_id: int, paid_share: float) -> User:
    gender, names = chance.choice((("F", "{women}"), ("M", "{men}")))
    user = {
        "auth": "Logged In",
        "gender": gender,
        "registration": float(_milliseconds(start) - chance.randrange(90 * DAY)),
        "firstName": chance.fill(names),
        "lastName": chance.fill("{starts}{ends}"),
        "location": chance.fill("{metros}"),
        "userAgent": chance.fill("{user_agents}"),
        "userId": str(user_id),
    }
    return User(_line(user), "paid" if chance.random() < paid_share else "free")


def _milliseconds(day: date) -> int:
    return (day - date(1970, 1, 1)).days * DAY


class Log:
    """The log of one recipe, made day by day."""

    def __init__(self, recipe: Recipe, songs: Sequence[Song]) -> None:
        self.recipe = recipe
        self.chance = Chance(f"{recipe.seed}/log")
        self.matching, self.others = build_tracks(recipe, songs)
        self.users = build_users(recipe)
        self.shares = list(accumulate(1 / (rank + 3) for rank in range(len(self.users))))
        self.guest_line = _line({})
        self.end = _milliseconds(recipe.start) + recipe.days * DAY
        self.session = self.last_play = 0
        self.events = self.repeated = self.bad_lines = 0  # counts so far

    def files(self) -> Iterator[File]:
        """One event a line, one file a day, in the order of delivery; a day of none has no file."""
        waiting: list[Line] = []  # of visits that went on after midnight
        for index, events in enumerate(build_quotas(self.recipe)):
            day = self.recipe.start + timedelta(days=index)
            midnight = _milliseconds(day)
            waiting.extend(self._day(midnight, events))
            waiting.sort()
            today = bisect(waiting, (midnight + DAY,))
            text = "\n".join(line for _, line in waiting[:today])
            del waiting[:today]
            if text:
                path = f"log_data/{day:%Y/%m}/{day}-events.json"
                content = text.encode("latin-1")  # ASCII, but for one kind of bad line
                yield _file(self.recipe, index, path, content)

    def _day(self, midnight: int, quota: int) -> list[Line]:
        """The events of the visits that start on a day, exactly the quota, and the extra lines."""
        visits = []
        while quota:
            length = min(quota, self.chance.choice(VISITS["lengths"]))
            hour = self.chance.choices(range(24), VISITS["hours"])[0]
            start = midnight + hour * HOUR + self.chance.randrange(HOUR)
            visits.append((min(start, self.end - length * LONGEST_PAUSE), length))
            quota -= length
        lines = [line for visit in sorted(visits) for line in self._visit(midnight, *visit)]
        return [*lines, *self._extras(lines)]

    def _visit(self, midnight: int, start: int, length: int) -> Iterator[Line]:
        latest_start = self.end - length * LONGEST_PAUSE
        at_once = self.chance.happens("equal-times") and midnight <= self.last_play <= latest_start
        start = self.last_play if at_once else start
        user = self._free_user(start)
        opening = ["NextSong"] if at_once else self.chance.choice(VISITS["openings"])
        pages = self._pages(user.level, opening, length)
        self.session += self.chance.randrange(1, 4)
        return self._events(user, start, pages)

    def _free_user(self, start: int) -> User:
        """A user whose last visit is over, unless they are too few to find one."""
        if self.chance.random() < self.recipe.skew_user:
            return self.users[0]
        for _ in range(10):
            user = self.users[bisect(self.shares, self.chance.random() * self.shares[-1])]
            if user.busy_until < start:
                break
        return user

    def _pages(self, level: str, opening: Iterable[str], length: int) -> list[str]:
        chance, side_trips = self.chance, VISITS["side_trips"]
        pages = list(opening)
        while len(pages) < length:
            pages += ["NextSong"] if chance.random() < PLAY_SHARE else chance.choice(side_trips)
        if chance.happens("level-changes"):
            middle = 1 + length // 2
            pages[middle:middle] = VISITS["level_changes"][level]
        if length > 2 and chance.random() < 0.2:
            pages[length - 2 :] = ["Logout", "Guest Home"]
        return pages[:length]

    def _events(self, user: User, ts: int, pages: Iterable[str]) -> Iterator[Line]:
        session, random = self.session, self.chance.random
        for item, page in enumerate(pages):
            artist, title, length, pause = "null", "null", "null", 0
            if page == "NextSong":
                tracks = self.matching if random() < MATCH_SHARE else self.others
                artist, title, length, pause = tracks[int(len(tracks) * random() * random())]
                self.last_play = ts
            method, name, status, signed_in, new_level = VISITS["pages"][page]
            line = user.line if signed_in else self.guest_line
            values = (artist, item, length, user.level, method, name, session, title, status, ts)
            yield ts, line % values
            user.level = new_level or user.level
            ts += pause + 1 + int(5000 * random())
        user.busy_until = ts

    def _extras(self, lines: Sequence[Line]) -> Iterator[Line]:
        """Lines delivered again up to an hour later, and damaged copies of plays."""
        self.events += len(lines)
        while self.repeated < self.events // QUIRKS["repeated-lines"][0]:
            ts, line = self.chance.choice(lines)
            yield min(ts + self.chance.randrange(HOUR), self.end - 1), line
            self.repeated += 1
        plays = [line for line in lines if self.recipe.bad_lines and '"NextSong"' in line[1]]
        while plays and self.bad_lines < int(self.events * self.recipe.bad_lines):
            ts, line = self.chance.choice(plays)
            yield ts, BAD_LINES[self.bad_lines % len(BAD_LINES)](line)
            self.bad_lines += 1


def build_quotas(recipe: Recipe) -> list[int]:
    """How many events each day's visits hold; they add up to recipe.events."""
    random, weights = Chance(f"{recipe.seed}/days").random, VISITS["weekdays"]
    days = [recipe.start + timedelta(days=index) for index in range(recipe.days)]
    sums = list(accumulate(weights[day.weekday()] * (0.8 + 0.4 * random()) for day in days))
    limits = [round(recipe.events * part / sums[-1]) for part in sums]
    return [after - before for before, after in zip([0, *limits], limits)]


def _file(recipe: Recipe, index: int, path: str, content: bytes) -> File:
    if recipe.no_gzip or not has("gzip", index):
        return path, content
    zipped = io.BytesIO()
    with gzip.GzipFile("", "wb", fileobj=zipped, mtime=0) as file:  # no name and no time in it
        file.write(content)
    return f"{path}.gz", zipped.getvalue()


def write_folder(files: Iterable[File], folder: Path) -> None:
    """Write each file below a folder."""
    for path, content in files:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def write_zip(files: Iterable[File], target: Path) -> None:
    """Write the files into a zip that replaces the old; equal files make equal bytes."""
    with zipfile.ZipFile(target, "w") as archive:
        for path, content in files:
            entry = zipfile.ZipInfo(path)  # of 1980, whenever it is made
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)


def main() -> None:
    """Make what the command line asks for."""
    recipe, output, zipped = parse_arguments()
    songs = build_songs(recipe)
    output.mkdir(parents=True, exist_ok=True)
    sources = {"song": build_song_files(recipe, songs), "log": Log(recipe, songs).files()}
    for name, files in sources.items():
        if zipped:
            write_zip(files, output / f"{name}-data.zip")
        else:
            write_folder(files, output)


def parse_arguments() -> tuple[Recipe, Path, bool]:
    """The recipe, the folder to write into, and whether to write zips."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--songs", type=int, help="how many songs")
    add("--events", type=int, help="how many events; repeated and bad lines come on top")
    add("--seed", type=int, help="any whole number")
    add("--start", type=date.fromisoformat, help="the first day")
    add("--days", type=int, help="how many days")
    add("--bad-lines", type=float, help="bad lines, as a share of the events")
    add("--skew-user", type=float, help="share of the visits that one user makes")
    add("--no-gzip", action="store_true", help="leave every file as plain text")
    add("--zip", action="store_true", help="write song-data.zip and log-data.zip")
    add("--output", type=Path, required=True, help="the folder to write into")
    parser.set_defaults(**vars(Recipe()))
    options = vars(parser.parse_args())
    output, zipped = options.pop("output"), options.pop("zip")
    recipe = Recipe(**options)
    if recipe.songs < 1 or recipe.events < 0 or recipe.days < 1:
        parser.error("--songs and --days must be 1 or more, --events 0 or more")
    if not zipped and [*output.glob("song_data"), *output.glob("log_data")]:
        parser.error(f"{output} holds song_data or log_data already: name another --output")
    return recipe, output, zipped


if __name__ == "__main__":
    main()
