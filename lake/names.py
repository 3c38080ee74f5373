r"""Names of artists and songs in the log, repaired where their characters are wrong.

The log's non-ASCII names are UTF-8 that was decoded as Latin-1, twice: "BeyoncÃ\x83Â©" is
"Beyoncé". It is a known fault of this data; the song files have the right names.
"""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F

# Text whose characters, taken as bytes, are well-formed UTF-8 (table 3-7 of the Unicode standard).
UTF8_AS_LATIN1 = (
    r"^(?:[\x00-\x7F]++|[\xC2-\xDF][\x80-\xBF]|\xE0[\xA0-\xBF][\x80-\xBF]"
    r"|[\xE1-\xEC\xEE\xEF][\x80-\xBF]{2}|\xED[\x80-\x9F][\x80-\xBF]|\xF0[\x90-\xBF][\x80-\xBF]{2}"
    r"|[\xF1-\xF3][\x80-\xBF]{3}|\xF4[\x80-\x8F][\x80-\xBF]{2})*+$"
)
LONGEST_NAME = 1_000  # characters: Java's regular expressions overflow the stack on long text


def undo_latin1(name: str) -> Column:
    """A name decoded as UTF-8 where it was decoded as Latin-1; a right name stays as it is.

    Only where the repair is exact: every character is a byte, and the bytes are UTF-8.
    """
    value = F.col(name)
    is_suspect = (F.octet_length(value) != F.length(value)) & (F.length(value) <= LONGEST_NAME)
    decoded = F.encode(value, "ISO-8859-1").cast("string")
    return F.when(is_suspect & value.rlike(UTF8_AS_LATIN1), decoded).otherwise(value)
