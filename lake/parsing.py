r"""How a line of JSON is parsed: fast where it is plainly right, else strictly.

Spark's own JSON reader is not enough. It takes the first of two objects on a line and forgets the
second, reads a key in another case as null, and what it calls corrupt depends on the columns that
are selected. So lines are read as text and judged here, one by one.

Every line is parsed once with the declared types. Only an odd line is parsed again, in full:

- The line, an array around it and a hash of it behind: `[<line>,"<hash>"]`. It is one JSON value
  exactly if this is an array of two whose last element is the hash. Spark ignores what follows a
  value, but it cannot take anything else for the hash.
- Its strings marked, `{"ts": "5"}` as `{"_ts": "_5"}`, and all fields read as text. Spark gives a
  number, a truth value or an object as text too: the mark tells them from strings.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

JSON_OPTIONS = (
    "map('mode', 'PERMISSIVE', 'columnNameOfCorruptRecord', '_corrupt',"
    " 'allowSingleQuotes', 'false', 'allowNonNumericNumbers', 'false')"
)


def parse_lines(lines: DataFrame, schema: str) -> DataFrame:
    """One row per line that is not blank: file, line, the schema's fields, converted and its fault.

    The fault is a reason and a field, or null. These are the faults of any JSON line; the callers
    add those of their source. `converted` counts the values that were given in another spelling.
    """
    trimmed = F.expr(f"IF({LOOKS_TRIMMED}, line, {TRIMMED})")
    texts = lines.select("file", trimmed.alias("line")).filter("line != ''")
    # The parsed objects stay columns here: Spark would parse the line again for each field.
    parsed = texts.selectExpr("file", "line", f"{_from_json('line', _typed(schema))} AS json")
    judged = parsed.selectExpr(
        *("file", "line", "json"),
        f"CASE WHEN {_is_odd(schema)} THEN {_parse_strictly(schema)} END AS strict",
    )
    return judged.selectExpr(
        *("file", "line"),
        *(f"IF(strict IS NULL, json.{name}, strict.{name}) AS {name}" for name in columns(schema)),
        "coalesce(strict.converted, 0) AS converted",
        "strict.fault AS fault",
    )


def columns(schema: str) -> dict[str, str]:
    """The columns of a schema with their types, in order."""
    name_and_type = (column.split() for column in schema.split(","))
    return {name: kind for name, kind in name_and_type}  # noqa: C416 (dict() loses the types)


def fault(reason: str, field: str | None = None) -> str:
    """A fault as SQL: why a line is rejected, and the field if it is about one."""
    text = f"'{field}'" if field else "CAST(NULL AS STRING)"
    return f"named_struct('reason', '{reason}', 'field', {text})"


def _typed(schema: str) -> str:
    return f"{' '.join(schema.split())}, _corrupt STRING"


def _from_json(text: str, schema: str) -> str:
    return f"from_json({text}, '{schema}', {JSON_OPTIONS})"


# ---- Whether a line is odd -----------------------------------------------------------------------

# This runs for every line of the log. Each condition first tests bytes (startswith, contains) or
# compares; only a line that looks suspicious is matched with a pattern. To parse a line strictly
# takes ten times as long as to parse it once, so that names with braces must not lead there.

# White space and the byte order mark are not part of an object.
TRIMMED = r"trim(BOTH ' \t\r\n\uFEFF' FROM line)"
LOOKS_TRIMMED = "startswith(line, '{') AND endswith(line, '}')"

# Spark reads the first of several objects and forgets the others.
ENDS_AT_FIRST_BRACE = "endswith({0}, '}}') AND split({0}, '}}', 2)[1] = ''"

# The same of a line, and that it is UTF-8: what split gives was decoded and encoded again.
IS_PLAIN = "concat(split(line, '}', 2)[0], '}') = line"

# A text with an x for each string.
BARE = r"""regexp_replace(regexp_replace({0}, r'\\.|#', 'x'), r'"[^"]*+"', 'x')"""

# A Spark string is raw bytes: invalid UTF-8 does not survive being decoded and encoded again.
INVALID_UTF8 = "encode({0}, 'UTF-8') != CAST({0} AS BINARY)"

# Half of a character of two UTF-16 units, such as \ud83c alone: Spark would make a ? of it.
MAY_BE_HALF = r"contains({0}, r'\u') AND (contains({0}, r'\ud') OR contains({0}, r'\uD'))"
HALF = functools.reduce(
    lambda text, pattern: f"regexp_replace({text}, r'{pattern}', ' ')",
    [r"\\[^u]", r"\\u[dD][89abAB][0-9a-fA-F]{{2}}\\u[dD][c-fC-F][0-9a-fA-F]{{2}}"],
    "{0}",
)
IS_HALF = rf"({MAY_BE_HALF}) AND {HALF} RLIKE r'\\u[dD][89a-fA-F]'"

# A number with a fraction or an exponent, as Spark gives it as text. A string may begin so too.
FRACTION = r"^(?:-0|-?[0-9]++[.eE])"


def _is_odd(schema: str) -> str:
    """Whether a line's text or its parsed fields hold a sign that Spark may have misread it."""
    fields = columns(schema)
    texts = [name for name, kind in fields.items() if kind == "STRING"]
    doubles = [name for name, kind in fields.items() if kind == "DOUBLE"]
    # The bare text is named once: of an expression that stands twice Spark computes the value for
    # every line, even behind AND and OR.
    is_flat = rf"{BARE.format('line')} RLIKE r'^[^}}]*+\}}\z'"
    is_utf8 = f"NOT {INVALID_UTF8.format('line')}"
    return _any(
        [
            f"NOT (startswith(line, '{{') AND ({IS_PLAIN} OR {is_flat} AND {is_utf8}))",
            IS_HALF.format("line"),
            "json._corrupt IS NOT NULL",
            f"({_any(map(_may_be_no_string, texts))}) AND {_gives_no_string(texts)}",
            *(_may_be_in_another_case(name) for name in fields),
            *(f"abs(json.{name}) = double('infinity')" for name in doubles),
        ]
    )


def _may_be_no_string(name: str) -> str:
    """Whether a text may be an object, an array, a truth value or a number with a fraction."""
    value = f"json.{name}"
    # Most text begins with none of these: a few comparisons tell. Spark 3.5 gives a number that is
    # no double as the text "Infinity", with its quotes.
    return (
        f"""{value} IN ('true', 'false', '"Infinity"', '"-Infinity"')"""
        f" OR startswith({value}, '{{') OR startswith({value}, '[')"
        f" OR {value} < ':' AND {value} >= '-' AND {value} RLIKE r'{FRACTION}'"
    )


def _gives_no_string(names: Iterable[str]) -> str:
    r"""Whether a line gives one of these keys, or one with an escape such as \u0061, no string."""
    key = rf'(?:"(?:{"|".join(names)})"|\\u[^"\\]*+")'
    return rf"""line RLIKE r'{key}\s*+:\s*+[^"n\s]'"""  # n as in null


def _may_be_in_another_case(name: str) -> str:
    """Whether a field is null because its key is there in another case, which Spark ignores."""
    is_null = " OR ".join(f"""contains(line, '"{name}":{space}null')""" for space in ("", " "))
    others = f"""contains(lower(replace(line, '"{name}"', '')), '"{name.lower()}"')"""
    return rf"json.{name} IS NULL AND NOT ({is_null}) AND ({others} OR contains(line, r'\u'))"


def _any(conditions: Iterable[str]) -> str:
    """Whether one of the conditions is true; a condition that is null counts as false."""
    return " OR ".join(f"({condition}) IS TRUE" for condition in conditions)


# ---- The text of an odd line ---------------------------------------------------------------------

# Each object of a bare text (up to a hundred deep) is replaced by a #, step by step: one pattern
# for it all would overflow Java's stack on a long line.
SKELETON = (
    f"aggregate(sequence(1, 100), {BARE},"
    r" (bare, step) -> regexp_replace(bare, r'\{{[^{{}}]*+\}}', '#'))"
)

# A text with its strings marked, and the same without the marks: Spark 3.5 gives a number that is
# too large for a double as the string "Infinity", which has no mark.
MARKED = r"""regexp_replace({0}, r'"((?:[^"\\]++|\\.)*+)"', '"_$1"')"""
TOO_LARGE = r"""regexp_replace({0}, r'(?<=[:,\[])"-?Infinity"', '1e999')"""
UNMARKED = rf"""regexp_replace({TOO_LARGE}, r'"_((?:[^"\\]++|\\.)*+)"', '"$1"')"""


def _count_values(text: str) -> str:
    """How many JSON values a text is, separated by commas; 0 if it is anything else."""
    parsed = _from_json(f"""concat('[', {text}, ',"', md5({text}), '"]')""", "ARRAY<STRING>")
    is_whole = f"element_at(values, -1) = md5({text})"
    return let("values", parsed, f"IF(size(values) > 1 AND {is_whole}, size(values) - 1, 0)")


def let(name: str, value: str, expression: str) -> str:
    """An expression in which a name stands for a value that is computed once."""
    return f"transform(array({value}), {name} -> {expression})[0]"


def find_text_fault(text: str) -> str:
    """Why a text is not exactly one object in UTF-8 as SQL: a reason, or null."""
    is_one = f"{_count_values(text)} = 1"
    # Spark parses the first object of several. It has to be whole, and another has to follow.
    first_is_whole = f"{_from_json(text, 'MAP<STRING, STRING>')} IS NOT NULL"
    another_follows = rf"{SKELETON.format(text)} RLIKE r'^#[\s,]*[#{{]'"
    return f"""CASE
        WHEN {INVALID_UTF8.format(text)} THEN 'not_json'
        WHEN {IS_HALF.format(text)} THEN 'not_json'
        WHEN substring({text}, 1, 1) IN ('{{', '[') AND {is_one}
            THEN IF(startswith({text}, '{{'), NULL, 'several_objects')
        WHEN startswith({text}, '{{') AND {first_is_whole} AND {another_follows}
            THEN 'several_objects'
        ELSE 'not_json' END"""


def build_objects_of_array(text: str) -> str:
    """The elements of an array, each as text, as SQL; null unless all of them are objects."""
    objects = _from_json(text, "ARRAY<STRUCT<a: STRING>>")
    all_are = "size(objects) > 0 AND forall(objects, element -> element IS NOT NULL)"
    marked = _from_json(MARKED.format(text), "ARRAY<STRING>")
    elements = f"transform({marked}, element -> {UNMARKED.format('element')})"
    return let("objects", objects, f"CASE WHEN {all_are} THEN {elements} END")


# ---- The fields of an odd line -------------------------------------------------------------------

WHOLE = r"^-?(0|[1-9][0-9]*+)\z"
NUMBER = r"^-?(0|[1-9][0-9]*+)(\.[0-9]++)?([eE][+-]?[0-9]++)?\z"
EXACT = 2**53  # doubles up to this are exact whole numbers


def _parse_strictly(schema: str) -> str:
    """A struct of the fields, how many of them were converted, and the line's fault or null."""
    fields = columns(schema)
    marked = ", ".join(f"_{name} STRING" for name in fields)
    given_fields = _from_json(MARKED.format("line"), marked)
    parsed = f"named_struct('given', {given_fields}, 'keys', json_object_keys(line))"
    kinds: dict[str, list[str]] = {}
    for name, kind in fields.items():
        kinds.setdefault(kind, []).append(name)
    judged = ", ".join(f"'{kind}', {_judge(kind, names)}" for kind, names in kinds.items())
    of_field = {
        name: f"judged.{kind}[{position}]"
        for kind, names in kinds.items()
        for position, name in enumerate(names)
    }
    text_fault = let(
        "reason",
        find_text_fault("line"),
        "IF(reason IS NULL, NULL, named_struct('reason', reason, 'field', CAST(NULL AS STRING)))",
    )
    values = ", ".join(f"'{name}', {of_field[name]}.value" for name in fields)
    converted = " + ".join(f"{of_field[name]}.converted" for name in fields)
    faults = ", ".join(f"{of_field[name]}.fault" for name in fields)
    record = (
        f"named_struct({values}, 'converted', {converted},"
        f" 'fault', coalesce({text_fault}, {faults}))"
    )
    return let("odd", parsed, let("judged", f"named_struct({judged})", record))


def _judge(kind: str, names: Sequence[str]) -> str:
    """The fields of one kind, each as its value, whether that was converted, and its fault or null.

    One expression for them all: one for each would be the largest part of the job's plan, and Spark
    plans it anew in each run.
    """
    fields = ", ".join(
        f"named_struct('name', '{name}', 'text', odd.given._{name})" for name in names
    )
    verdict = f"""named_struct(
        'value', value,
        'converted', {_is_converted(kind)},
        'fault', {_find_fault(kind)})"""
    verdict = let("value", _convert("field.text", kind), verdict)
    return f"transform(array({fields}), field -> {verdict})"


def _convert(given: str, kind: str) -> str:
    """A field's value in its declared type, or null if it is not given or of another type."""
    is_string = f"startswith({given}, '_')"
    if kind == "STRING":
        return f"""CASE
            WHEN {is_string} THEN substring({given}, 2)
            WHEN {given} = '-0' THEN '0'
            WHEN {given} RLIKE r'{WHOLE}' THEN {given}
            WHEN {_is_whole(given)} THEN CAST({_as_whole(given)} AS STRING)
            WHEN {given} RLIKE r'{NUMBER}' THEN CAST(try_cast({given} AS DOUBLE) AS STRING) END"""
    if kind == "DOUBLE":
        return f"CASE WHEN {given} RLIKE r'{NUMBER}' THEN try_cast({given} AS DOUBLE) END"
    text = _unmarked(given)
    return f"""CASE
        WHEN {text} RLIKE r'{WHOLE}' THEN try_cast({text} AS {kind})
        WHEN {_is_whole(text)} THEN {_as_whole(text)} END"""


def _unmarked(given: str) -> str:
    return f"IF(startswith({given}, '_'), substring({given}, 2), {given})"


def _is_whole(text: str) -> str:
    number = f"try_cast({text} AS DOUBLE)"
    return f"{text} RLIKE r'{NUMBER}' AND abs({number}) <= {EXACT} AND {number} % 1 = 0"


def _as_whole(text: str) -> str:
    return f"CAST(try_cast({text} AS DOUBLE) AS BIGINT)"


def _is_converted(kind: str) -> str:
    """1 if a whole number is given in another spelling than its digits, else 0."""
    is_digits = f"field.text RLIKE r'{WHOLE}'"
    if kind == "DOUBLE":
        return "0"
    if kind == "STRING":
        return f"IF({_is_whole('field.text')} AND NOT {is_digits}, 1, 0)"
    return f"IF(value IS NOT NULL AND NOT {is_digits}, 1, 0)"


def _find_fault(kind: str) -> str:
    """What is wrong with a field as it is given, or null."""
    text = _unmarked("field.text") if kind == "BIGINT" else "field.text"
    is_number = f"{text} RLIKE r'{NUMBER}'"
    if kind == "STRING":
        is_number += f" AND NOT {text} RLIKE r'{WHOLE}'"
    is_infinite = f"{is_number} AND abs(try_cast({text} AS DOUBLE)) = double('infinity')"
    # Spark 3.5 gives a number that is too large for a double as this text.
    is_too_large = f"""{is_infinite} OR field.text IN ('"Infinity"', '"-Infinity"')"""
    is_in_another_case = (
        "NOT array_contains(odd.keys, field.name)"
        " AND exists(odd.keys, key -> lower(key) = lower(field.name))"
    )
    return f"""CASE
        WHEN field.text IS NULL
            THEN IF({is_in_another_case}, {_fault("key_in_another_case")}, NULL)
        WHEN {is_too_large} THEN {_fault("number_out_of_range")}
        WHEN value IS NULL THEN {_fault("wrong_type")} END"""


def _fault(reason: str) -> str:
    return f"named_struct('reason', '{reason}', 'field', field.name)"
