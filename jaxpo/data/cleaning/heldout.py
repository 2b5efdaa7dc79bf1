"""A held-out split that shares nothing with training: whole groups by a hash of their name, then by paragraph.

Imports the standard library only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

SEQUENCE_WORDS = 8
LINE_CHARACTERS = 25
_BLANK_LINES = re.compile(r"\n[ \t]*\n\s*?(?=[ \t]*\S)")
_WORD = re.compile(r"\w+")


def is_held_out(name: str, one_in: int) -> bool:
    """True for about one name in `one_in`; depends on nothing but the name."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % one_in == 0


def paragraphs(text: str) -> list[str]:
    """Split at blank lines; indentation inside a paragraph is kept, empty ones are not."""
    return [p.rstrip() for p in _BLANK_LINES.split(text) if p.strip()]


def sequences(text: str) -> Iterator[str]:
    """Every run of 8 consecutive words, lower-cased, punctuation ignored."""
    words = _WORD.findall(text.lower())
    for i in range(len(words) - SEQUENCE_WORDS + 1):
        yield " ".join(words[i : i + SEQUENCE_WORDS])


def long_lines(text: str) -> Iterator[str]:
    """Every line of more than 25 characters, with runs of spaces counted as one."""
    for line in text.splitlines():
        squeezed = " ".join(line.split())
        if len(squeezed) > LINE_CHARACTERS:
            yield squeezed


@dataclass
class Seen:
    """The 8-word sequences and long lines of a text, to ask whether another text shares any."""

    _sequences: set[str] = field(default_factory=set)
    _lines: set[str] = field(default_factory=set)

    def add(self, texts: Iterable[str]) -> None:
        """Remember texts; give a document as one text, so that sequences across its paragraphs count."""
        for text in texts:
            self._sequences.update(sequences(text))
            self._lines.update(long_lines(text))

    def shares(self, text: str) -> bool:
        """True if the text has an 8-word sequence or a line of more than 25 characters that was seen."""
        return any(s in self._sequences for s in sequences(text)) or any(x in self._lines for x in long_lines(text))
