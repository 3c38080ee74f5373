"""How durations, sizes and tables are written for people, and what time it is.

Standard library only: the job and the scripts on the laptop share it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence


def utc_now() -> dt.datetime:
    """This moment in UTC, with its time zone."""
    return dt.datetime.now(dt.timezone.utc)


def duration(seconds: float) -> str:
    """A time span for people: 45 s, 12 min 5 s, 3 h 10 min."""
    minutes, seconds_left = divmod(int(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {seconds_left} s" if minutes else f"{seconds_left} s"


def size(count: float) -> str:
    """A number of bytes for people: 512 B, 12 KiB, 340 MiB, 1.2 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def aligned(rows: Sequence[Sequence[str]], to_the_right: Sequence[bool]) -> list[str]:
    """The lines of a table of text, whose first row is its header."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, to_the_right)
        ).rstrip()
        for row in rows
    ]
