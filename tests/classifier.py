r"""What becomes of one line of the log, in plain Python and from the rules of docs/lines.md alone.

It shares no code with the job: Python's json module parses where the job has Spark's. A test lets
both judge the same lines. The job's parser refuses numbers of more than 1,000 characters.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any

WHOLE_NUMBERS = ("ts", "sessionId", "itemInSession")
NUMBERS = ("length",)
ALL_FIELDS = (
    *("ts", "page", "userId", "firstName", "lastName", "gender", "level", "song", "artist"),
    *("length", "sessionId", "itemInSession", "location", "userAgent"),
)
WHITE = " \t\r\n"
FIRST_TS, LAST_TS = 946_684_800_000, 4_102_444_800_000


class NotJsonError(ValueError):
    """The text is not JSON."""


class BadFieldError(ValueError):
    """A field is not what it should be: reason and field."""


@dataclasses.dataclass(frozen=True)
class Number:
    """A number as it is spelt."""

    spelling: str

    @property
    def is_plain(self) -> bool:
        """Whether it is only digits and perhaps a sign."""
        return re.fullmatch("-?[0-9]+", self.spelling) is not None

    @property
    def whole(self) -> int | None:
        """The whole number that it is, however it is spelt; doubles count up to 2 ** 53."""
        if self.is_plain:
            return int(self.spelling)
        number = float(self.spelling)
        exact = math.isfinite(number) and number.is_integer() and abs(number) <= 2**53
        return int(number) if exact else None


@dataclasses.dataclass
class Verdict:
    """What becomes of a line: its outcome or reason, the field, and the values it gives."""

    outcome: str
    field: str | None = None
    converted: int = 0
    values: dict[str, Any] = dataclasses.field(default_factory=dict)


def classify(line: bytes) -> Verdict | None:
    """The verdict on a line of the log; None if it is blank."""
    try:
        text = line.decode("utf-8").strip(f"{WHITE}\ufeff")
        if not text:
            return None
        document = parse_object(text)
    except NotJsonError as error:
        return Verdict(str(error))
    except UnicodeDecodeError:
        return Verdict("not_json")
    verdict = Verdict("loaded")
    try:
        for name in ALL_FIELDS:
            verdict.values[name] = convert(name, document, verdict)
        judge(verdict)
    except BadFieldError as error:
        verdict.outcome, verdict.field = error.args
    return verdict


# ---- The text ------------------------------------------------------------------------------------


def parse_object(text: str) -> dict[str, Any]:
    """The one object that a text is; of a key that is given twice the last value counts."""
    if has_half_character(text):
        raise NotJsonError("not_json")
    decoder = json.JSONDecoder(
        parse_float=parse_number, parse_int=parse_number, parse_constant=refuse
    )
    try:
        document, end = decoder.raw_decode(text)
    except (ValueError, RecursionError):
        raise NotJsonError("not_json") from None
    rest = text[end:].strip(WHITE)
    if isinstance(document, dict) and not rest:
        return document
    is_array = isinstance(document, list) and not rest
    is_followed = isinstance(document, dict) and rest.lstrip(WHITE + ",").startswith("{")
    raise NotJsonError("several_objects" if is_array or is_followed else "not_json")


def parse_number(spelling: str) -> Number:
    if len(spelling) > 1000:
        raise NotJsonError("not_json")
    return Number(spelling)


def refuse(constant: str) -> None:
    raise NotJsonError(f"{constant} is not JSON")


def has_half_character(text: str) -> bool:
    r"""Whether an escape such as \ud83c stands without its other half."""
    at, half = 0, False
    while at < len(text):
        unit = 0
        if text[at] == "\\":
            escape = re.compile(r"\\u([0-9a-fA-F]{4})").match(text, at)
            unit = int(escape[1], 16) if escape else 0
            at += 6 if escape else 2
        else:
            at += 1
        is_second = 0xDC00 <= unit < 0xE000
        if half != is_second:
            return True
        half = 0xD800 <= unit < 0xDC00
    return half


# ---- The fields ----------------------------------------------------------------------------------


def convert(name: str, document: dict[str, Any], verdict: Verdict) -> Any:
    """A field's value; raises BadFieldError if it is not of the declared type."""
    value = document.get(name)
    if value is None:
        if name not in document and name.lower() in map(str.lower, document):
            raise BadFieldError("key_in_another_case", name)
        return None
    if name in WHOLE_NUMBERS:
        return convert_whole_number(name, value, verdict)
    if name in NUMBERS:
        if not isinstance(value, Number):
            raise BadFieldError("wrong_type", name)
        return finite(name, value)
    return convert_text(name, value, verdict)


def convert_whole_number(name: str, value: Any, verdict: Verdict) -> int:
    number = value
    if isinstance(value, str) and re.fullmatch(
        r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", value
    ):
        number = Number(value)
    if not isinstance(number, Number):
        raise BadFieldError("wrong_type", name)
    finite(name, number)
    if number.whole is None or not -(2**63) <= number.whole < 2**63:
        raise BadFieldError("wrong_type", name)
    verdict.converted += isinstance(value, str) or not number.is_plain
    return number.whole


def convert_text(name: str, value: Any, verdict: Verdict) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, Number):
        raise BadFieldError("wrong_type", name)
    if value.is_plain:
        return str(value.whole)
    number = finite(name, value)
    if value.whole is None:
        return repr(number)
    verdict.converted += 1
    return str(value.whole)


def finite(name: str, number: Number) -> float:
    found = float(number.spelling)
    if math.isinf(found):
        raise BadFieldError("number_out_of_range", name)
    return found


# ---- The event -----------------------------------------------------------------------------------


def judge(verdict: Verdict) -> None:
    """Enter what becomes of an event whose fields have the right types."""
    values = verdict.values
    is_play = values["page"] == "NextSong"
    if values["ts"] is None or not FIRST_TS <= values["ts"] <= LAST_TS:
        raise BadFieldError("impossible_ts", "ts")
    if is_play and not (values["userId"] or "").strip(WHITE):
        raise BadFieldError("blank_user_id", "userId")
    if is_play and values["level"] not in ("free", "paid"):
        raise BadFieldError("wrong_value", "level")
    verdict.outcome = "loaded" if is_play else "filtered"
