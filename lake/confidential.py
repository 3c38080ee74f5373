"""Which settings hold a secret: no such setting may be shown, sent or stored.

Standard library only.
"""

from __future__ import annotations

import re

# The words that a name is made of: fs.s3a.secret.key, trustStorePassword, AWS_SESSION_TOKEN.
WORDS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+")
SECRET = re.compile(r"secret|passw|token|credential|access.?key")
KEY_OR_PASS = re.compile(r"(^|.*(?<!by)(?<!com)(?<!mon))(key|keys|pass|passphrase)")
NO_SECRET_NAME = re.compile(r".*(provider|provider\.path|algorithm|enabled|tokens?\.cancel)")
NO_SECRET_VALUE = re.compile(r"(true|false|yes|no|on|off|arn:\S+|)", re.IGNORECASE)
KEY_ID = re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b")
# user:password@ in a URL; a secret may hold a slash, and after a host's colon comes a port.
USER_AND_PASSWORD = re.compile(r"\w+://[^/@:\s]*:(?!\d+(/|$))[^@\s]*@")
PAIR = re.compile(r"([A-Za-z][\w.-]*)[ \t]*=[ \t]*(\S+)")
LINE = re.compile(r"[ \t]*([\w.-]+)[ \t]*[=:][ \t]*(\S+)")
COMMENT = re.compile(r"(?:^|\s)[#;]+(.*)")


def is_secret(name: str, value: str) -> bool:
    """Whether a setting of this name and value is a secret, by its name."""
    words = [word.lower() for word in WORDS.findall(name)]
    if not words or NO_SECRET_VALUE.fullmatch(value) or NO_SECRET_NAME.fullmatch(name.lower()):
        return False
    return bool(SECRET.search(".".join(words)) or KEY_OR_PASS.fullmatch(words[-1]))


def holds_secret(value: str) -> bool:
    """Whether a value holds a key's id, a URL with a password, or a setting that is a secret."""
    if KEY_ID.search(value) or USER_AND_PASSWORD.search(value):
        return True
    pairs = PAIR.findall(value)
    for line in value.splitlines()[1:]:  # continuation lines
        pairs += LINE.findall(line)
    return any(is_secret(*pair) for pair in pairs)


def find_secret_comment(text: str) -> int | None:
    """The number of the first line of a file whose comment holds a secret."""
    for number, line in enumerate(text.splitlines(), start=1):
        comment = COMMENT.search(line)
        if not comment:
            continue
        pair = LINE.fullmatch(comment[1].rstrip())
        if holds_secret(comment[1]) or (pair and is_secret(pair[1], pair[2])):
            return number
    return None
