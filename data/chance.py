"""Random choices of data/generate.py: invented names, and what gets which quirk."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from string import ascii_uppercase, digits
from typing import Any

HERE = Path(__file__).parent
WORDS: dict[str, Any] = json.loads((HERE / "words.json").read_bytes())
# When visits begin, how many events they have, which pages they are of, and what the log says.
VISITS: dict[str, Any] = json.loads((HERE / "visits.json").read_bytes())
# Of each quirk: about one in how many, of what, and what it looks like.
QUIRKS: dict[str, tuple[int, str, str]] = json.loads((HERE / "quirks.json").read_bytes())


def has(quirk: str, index: int) -> bool:
    """Whether the thing of this index has a quirk that goes by turns; the first has none."""
    one_in = QUIRKS[quirk][0]
    return index % one_in == one_in // 2


class Chance(Random):
    """Random choices; each part of the data has its own, so that a change in one stays there."""

    def happens(self, quirk: str) -> bool:
        """Whether a quirk that goes by chance happens this time."""
        return self.random() * QUIRKS[quirk][0] < 1

    def code(self, length: int) -> str:
        """Capitals and digits."""
        return "".join(self.choices(ascii_uppercase + digits, k=length))

    def duration(self) -> float:
        """Seconds, with five decimals."""
        return round(self.triangular(90, 450, 220), 5)

    def fill(self, template: str) -> str:
        """The template with a word of words.json for each {kind}."""
        return re.sub(r"{(\w+)}", lambda kind: self.choice(WORDS[kind[1]]), template)

    def person(self) -> str:
        """A first and a last name."""
        return f"{self.choice(WORDS['women'] + WORDS['men'])} {self.fill('{starts}{ends}')}"

    def title(self) -> str:
        """A song's title; odd ones come by chance."""
        return self._odd_name(self.happens) or self.fill("{adjectives} {nouns} of {starts}{ends}")

    def artist_name(self, index: int) -> str:
        """An artist's name; odd ones come by turns."""
        if has("number-names", index):
            return str(self.randrange(200, 10_000))
        if odd := self._odd_name(lambda quirk: has(quirk, index)):
            return odd
        return self.person() if self.random() < 0.4 else self.fill("The {starts}{ends} {nouns}")

    def _odd_name(self, is_odd: Callable[[str], bool]) -> str:
        if is_odd("non-ascii"):
            return " ".join(self.choice(words) for words in self.choice(WORDS["non_ascii"]))
        if is_odd("punctuation"):
            template: str = self.choice(WORDS["punctuated"])
            template = template.replace("ADJECTIVE", self.fill("{adjectives}"))
            return template.replace("NOUN", self.fill("{nouns}"))
        return ""
