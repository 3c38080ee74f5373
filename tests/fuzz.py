"""Lines of the log that are damaged in every way, judged by the job and by plain Python.

`python -m tests.fuzz --lines 20000 --seeds 1 2 3` prints a table of what they disagree on.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lake.lines import build_log_data
from lake.spark import create_session, set_what_results_depend_on
from tests.classifier import ALL_FIELDS, Verdict, classify
from tests.factories import TS, event

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Disagreement = tuple[bytes, Verdict, Verdict]
Pairs = list[tuple[str, str]]  # the keys and values of an object, as JSON text

VALUES = (
    *("null", "true", "false", "{}", "[]", '{"a": 1}', '["x", {"y": [2]}]', '""', '" "', '"\\t"'),
    *("0", "-0", "7", "-7", "12.0", "12.50", "1e2", "1E+2", "1.5e1", "-0.0", "100.5", "1e400"),
    *("-1e400", "1e-400", "1e22", "9007199254740993.0", "9223372036854775807", "1" * 25, "1" * 400),
    *("9223372036854775808", "1" * 1100, "01", "1.", ".5", "+1", "0x1F", "NaN", "Infinity"),
    *(f"{TS}", f"{TS}.0", f"{TS}.5", f'"{TS}"', f'"{TS}.0"', "1.541105830796E12", f"{TS // 1000}"),
    *('"7"', '"12.0"', '"1e2"', '"1e400"', '"100.5"', '"007"', '"-0"', '" 7"', '"7 "', '"_7"'),
    *('"NaN"', '"Infinity"', '"-Infinity"', '"true"', '"false"', '"{}"', '"[x]"', '"{"', '"}"'),
    *('"free"', '"paid"', '"Paid"', '"NextSong"', '"Home"', '"nextsong"', '"null"', '"_"', '"__x"'),
    *('"\\ud83c"', '"\\udf00"', '"\\ud83c\\udf00"', '"\\ud83c\\n\\udf00"', '"\\\\ud83c"'),
    *('"\\u0041"', '"\\ud83cx"', '"\\uD83C\\uDF00"', '"\\\\\\ud83c"', '"\\"ts\\":null"', '"\\x"'),
    *('"a\\"b"', '"\\\\"', '"\\""', '"É日本🎵"', '"\ufeff"', '"\ufffd"', '"caf\x7f"', '"a\x01b"'),
)
NESTED = (
    '{"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}}',
    '{"userid": 1, "Location": "x", "ts": null}',
    '[{"Level": "x"}, [[[]]], "}{", {"level": true}]',
    '{"x": "}", "y": "{\\"ts\\": 1}"}',
    '{"artist": true, "song": [1]}',
)
NOISE = (b"\xff", b"\xe9", b"\x92", b"\xed\xa0\xbc", b"\x00", b"\xef\xbb\xbf", b"\xc3\xa9")
PIECES = ("{", "}", "[", "]", ",", ":", '"', "\\", " ", "\t", "0", "x", "null", "{}", "/**/", "'")


# ---- One kind of damage each ---------------------------------------------------------------------


def change_value(pairs: Pairs, dice: random.Random) -> None:
    """Give a field another value."""
    at = dice.randrange(len(pairs))
    pairs[at] = (pairs[at][0], dice.choice(VALUES))


def change_key(pairs: Pairs, dice: random.Random) -> None:
    """Write a key in another case, with an escape, or as another word."""
    at = dice.randrange(len(pairs))
    key, value = pairs[at]
    name = json.loads(key)
    other = dice.choice([name.lower(), name.upper(), name.title(), name + "s", "_" + name])
    escaped = f'"\\u{ord(name[0]):04x}{name[1:]}"'
    pairs[at] = (dice.choice([json.dumps(other), escaped]), value)


def drop_key(pairs: Pairs, dice: random.Random) -> None:
    """Leave a key out."""
    del pairs[dice.randrange(len(pairs))]


def repeat_key(pairs: Pairs, dice: random.Random) -> None:
    """Give a key a second time, before or after, with another value."""
    key, value = dice.choice(pairs)
    pairs.insert(dice.randrange(len(pairs) + 1), (key, dice.choice([value, *VALUES])))


def name_a_key(pairs: Pairs, dice: random.Random) -> None:
    """Use the name of a key as a value, or of a key in another case as a key that is not used."""
    name = dice.choice(ALL_FIELDS)
    written = json.dumps(dice.choice([name, name.lower(), name.title(), f'"{name}":null']))
    pairs.insert(0, (json.dumps(dice.choice(["note", "song", name.upper()])), written))


def nest(pairs: Pairs, dice: random.Random) -> None:
    """Add an unused field with objects and arrays in it, or use one as a value."""
    value = dice.choice(NESTED)
    for _ in range(dice.choice([0, 0, 1, 5, 30])):
        value = dice.choice(['{{"n": {0}}}', "[{0}]", '[1, {0}, "]"]']).format(value)
    pairs.insert(dice.randrange(len(pairs) + 1), (dice.choice(['"more"', '"song"']), value))


CHANGES: tuple[Callable[[Pairs, random.Random], None], ...] = (
    *(change_value, change_value, change_value),
    *(change_key, drop_key, repeat_key, name_a_key, nest),
)


def damage(line: bytes, other: bytes, dice: random.Random) -> bytes:
    """Truncate a line, merge it with another, or put bytes into it."""
    at, upto = dice.randrange(len(line) + 1), dice.randrange(len(line) + 1)
    noise = dice.choice([*NOISE, *(piece.encode() for piece in PIECES)])
    between = dice.choice([b"", b" ", b",", b", ", b"\t,,", b"x", b"["])
    return dice.choice(
        [
            line[:at],
            line[at:],
            line[:at] + noise + line[at:],
            line[:at] + line[at + 1 :],
            line[: min(at, upto)] + line[max(at, upto) :],
            line + between + other,
            line + between + other[:at],
            b"[" + line + b", " + other + b"]",
            b"[" + line + dice.choice([b"]", b"", b",]", b"]]"]),
            b'"' + line + b'"',
            noise + line,
            line + noise,
            b" \t" + line + b"\t ",
            line[:at] + noise + line[at:upto] + noise + line[upto:],
        ]
    )


def build_line(dice: random.Random) -> bytes:
    """One line: an event, changed a few times, and then perhaps damaged as text."""
    page = dice.choice(["NextSong", "NextSong", "NextSong", "Home"])
    pairs = [(json.dumps(key), json.dumps(value)) for key, value in event(page=page).items()]
    for _ in range(dice.choice([0, 1, 1, 1, 2, 3])):
        dice.choice(CHANGES)(pairs, dice)
    colon, comma = dice.choice([(": ", ", "), (":", ","), (" : ", " ,\t")])
    line = "{" + comma.join(f"{key}{colon}{value}" for key, value in pairs) + "}"
    return line.encode()


def build_lines(count: int, seed: int) -> list[bytes]:
    """Lines of which about a third are damaged as text; none holds a line break."""
    dice = random.Random(seed)
    lines = []
    for _ in range(count):
        line = build_line(dice)
        for _ in range(dice.choice([0, 0, 0, 0, 1, 1, 2])):
            line = damage(line, build_line(dice), dice)
        lines.append(line.replace(b"\n", b" ").replace(b"\r", b" "))
    return lines


# ---- Comparing -----------------------------------------------------------------------------------

VALUE_NAMES = {  # in the job -> in the log
    **{"user_id": "userId", "session_id": "sessionId", "item_in_session": "itemInSession"},
    **{"gender": "gender", "length": "length", "location": "location", "user_agent": "userAgent"},
}


def find_disagreements(spark: SparkSession, lines: Sequence[bytes]) -> list[Disagreement]:
    """The lines that the job judges or reads in another way than the classifier, in one query."""
    rows = [(str(number), bytearray(line)) for number, line in enumerate(lines)]
    frame = spark.createDataFrame(rows, "file STRING, line BINARY")
    texts = frame.selectExpr("file", "CAST(line AS STRING) AS line", "file AS number")
    judged = build_log_data(texts.drop("number"))
    # The job keeps the order of the lines here.
    found = judged.collect()
    due = [(line, verdict) for line in lines if (verdict := classify(line)) is not None]
    if len(found) != len(due):
        raise AssertionError(f"the job read {len(found)} lines, {len(due)} are not blank")
    disagreements = []
    for row, (line, verdict) in zip(found, due):
        values = {theirs: row[ours] for ours, theirs in VALUE_NAMES.items()}
        field = None if row["outcome"] == "filtered" else row["detail"]
        job = Verdict(row["outcome"], field, row["converted"], values)
        if not is_same(job, verdict):
            disagreements.append((line, verdict, job))
    return disagreements


def is_same(job: Verdict, due: Verdict) -> bool:
    """Whether two verdicts are the same; what a rejected line holds does not matter."""
    if (job.outcome, job.field) != (due.outcome, due.field):
        return False
    if due.outcome not in ("loaded", "filtered"):
        return True
    return job.converted == due.converted and all(
        is_same_value(value, due.values[name]) for name, value in job.values.items()
    )


def is_same_value(job: object, due: object) -> bool:
    """Whether two values are the same; a number that is taken as text may be spelt otherwise."""
    if job == due:
        return True
    try:
        return "." in str(job) and float(str(job)) == float(str(due))
    except ValueError:
        return False


def main() -> int:
    """Judge lines at each seed, and print what the job and the classifier disagree on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    spark = create_session()
    set_what_results_depend_on(spark)
    total = 0
    for seed in arguments.seeds:
        lines = build_lines(arguments.lines, seed)
        outcomes = Counter(v.outcome for line in lines if (v := classify(line)))
        found = find_disagreements(spark, lines)
        total += len(found)
        print(f"seed {seed}: {len(lines):,} lines, {len(found)} disagreements; {dict(outcomes)}")
        for line, due, job in found[:20]:
            print(f"  {due.outcome} {due.field} {due.converted} here,", end=" ")
            print(f"{job.outcome} {job.field} {job.converted} in the job: {line!r}")
            print(
                "   ",
                {
                    n: (v, due.values.get(n))
                    for n, v in job.values.items()
                    if v != due.values.get(n)
                },
            )
    return min(total, 1)


if __name__ == "__main__":
    sys.exit(main())
