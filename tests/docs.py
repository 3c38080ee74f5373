"""The parts of README.md and docs/ that are generated from the code; cog puts them in place.

`python -m cogapp -r README.md docs/*.md` writes them, and test_docs.py fails where one is outdated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from configs import load_etl_config
from exploration.report_page import REASONS
from lake import exit_codes
from lake.tables import Table, partitioned_tables

ROOT = Path(__file__).parents[1]
SETTING = re.compile(r"(?P<key>[\w.]+) *=(?P<default>[^#]*)(?:# (?P<why>.*))?")
EXIT_CODE = re.compile(r"^    (?P<name>[A-Z_]+) = (?P<code>\d+)  # (?P<meaning>.*)$", re.MULTILINE)
# keys.cfg has no comment beside a value, which could hold a part of one.
WHY_KEYS = {
    "access_key_id": "of an IAM user, if you use neither a profile nor SSO nor a role",
    "secret_access_key": "of the same user",
    "session_token": "only for temporary keys",
}
GRAIN = {
    "songs": "song",
    "artists": "artist",
    "users": "user",
    "time": "start of a play, to the millisecond",
    "songplays": "play",
}
MEANING = {
    "songs.song_id": "as in the song files",
    "songs.title": "",
    "songs.artist_id": "who plays it: a row of `artists`",
    "songs.duration": "seconds",
    "songs.year": "of release; 0 where it is unknown",
    "artists.artist_id": "as in the song files",
    "artists.name": "",
    "artists.location": "as written in the song files; may be null",
    "artists.latitude": "degrees; may be null",
    "artists.longitude": "degrees; may be null",
    "users.user_id": "as in the log",
    "users.first_name": "",
    "users.last_name": "",
    "users.gender": "F or M",
    "users.level": "`free` or `paid`, as of the user's latest play",
    "time.start_time": "when a play began, in UTC, to the millisecond",
    "time.hour": "0 to 23",
    "time.day": "of the month",
    "time.week": "of the year, ISO 8601",
    "time.weekday": "1 is Sunday, 7 is Saturday",
    "time.year": "",
    "time.month": "1 to 12",
    "songplays.songplay_id": "a hash of ts, userId, sessionId and itemInSession",
    "songplays.start_time": "when the play began: a row of `time`",
    "songplays.user_id": "who listened: a row of `users`",
    "songplays.level": "`free` or `paid`, at the time of the play",
    "songplays.song_id": "a row of `songs`; null where no song matches",
    "songplays.artist_id": "a row of `artists`; null where no song matches",
    "songplays.session_id": "as in the log",
    "songplays.location": "of the listener, as in the log",
    "songplays.user_agent": "of the listener's browser, as in the log",
    "songplays.year": "of start_time",
    "songplays.month": "of start_time",
}


def build_table_overview() -> str:
    """A row per published table: grain, key, partitions, and the columns as readers meet them."""
    rows = [
        [
            f"`{table.name}`",
            GRAIN[table.name],
            _code(table.key),
            _code(table.partition_by) or "none",
            _code(stored_columns(table)),
        ]
        for table in shipped_tables()
    ]
    return build_markdown(["table", "one row per", "key", "partitions", "columns"], rows)


def build_columns(name: str) -> str:
    """A row per column of a table: its type and its meaning."""
    (table,) = (table for table in shipped_tables() if table.name == name)
    rows = [
        [f"`{column}`", kind.lower(), MEANING[f"{name}.{column}"]]
        for column, kind in stored_columns(table).items()
    ]
    return build_markdown(["column", "type", "meaning"], rows)


def shipped_tables() -> list[Table]:
    """The tables, partitioned as the shipped dl.cfg says."""
    return partitioned_tables(load_etl_config(environ={}).partitions)


def stored_columns(table: Table) -> dict[str, str]:
    """The columns of a table with their types, in the order in which Spark and DuckDB show them."""
    own = {name: kind for name, kind in table.columns.items() if name not in table.partition_by}
    return own | {name: table.columns.get(name, "INT") for name in table.partition_by}


def build_reasons() -> str:
    """A row per reason for which a line is rejected."""
    return build_markdown(["reason", "the line"], [[f"`{r}`", why] for r, why in REASONS.items()])


def build_exit_codes() -> str:
    """A row per exit code, with the comment beside it."""
    source = Path(exit_codes.__file__).read_text(encoding="utf-8")
    rows = [[m["code"], m["meaning"]] for m in EXIT_CODE.finditer(source)]
    return build_markdown(["exit code", "meaning"], rows)


def build_settings(file: str) -> str:
    """All sections of a configuration file with its own comments, and a row per key."""
    parts: list[str] = []
    rows: list[list[str]] = []
    # A comment of several lines is one paragraph.
    text = re.sub(r"(?<=\n)(# .*(?:\n# .*)+)", join_comment, (ROOT / file).read_text("utf-8"))
    for line in text.splitlines():
        if line.startswith("["):
            parts += [*_flush(rows), f"### `{line.strip()}`", ""]
        elif parts and line.startswith("# "):
            parts += [*_flush(rows), line[2:], ""]
        elif match := SETTING.fullmatch(line):
            default = match["default"].strip()
            why = match["why"] or WHY_KEYS[match["key"]]
            rows.append([f"`{match['key']}`", f"`{default}`" if default else "blank", why])
    return "\n".join([*parts, *_flush(rows)]).strip()


def join_comment(lines: re.Match[str]) -> str:
    """The lines of a comment as one line."""
    return lines[0].replace("\n# ", " ")


def _flush(rows: list[list[str]]) -> list[str]:
    """The rows so far as a table, if there are any; the list is empty afterwards."""
    if not rows:
        return []
    table = build_markdown(["key", "default", "meaning"], rows)
    rows.clear()
    return [table, ""]


def build_markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; a cell may hold | and <."""
    escaped = ([cell.replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in rows)
    lines = [head, ["---"] * len(head), *escaped]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
