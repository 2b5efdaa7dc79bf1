"""Keeps what stands in a conversation from being read as a template's own marks, on its way through that template.

Every special token inside given text is broken by a character that the conversation does not contain; it is taken out
of the rendered text again, after the template's own marks have been found.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PRIVATE_USE = range(0xE000, 0xF900)


@functools.lru_cache(maxsize=8)
def pattern_of(names: tuple[str, ...]) -> re.Pattern[str]:
    """Finds any of the names, the longest where several begin."""
    # Looking at the beginnings first is forty times as fast as trying hundreds of names at every character.
    beginnings = "|".join(sorted({re.escape(name[:2]) for name in names}))
    return re.compile(f"(?=(?:{beginnings}))({'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})")


@functools.lru_cache(maxsize=8)
def _ending(names: tuple[str, ...]) -> re.Pattern[str]:
    """Finds the beginning of a name at the end of a text, which what follows could complete."""
    parts = {re.escape(name[:k]) for name in names for k in range(1, len(name))}
    return re.compile(f"(?:{'|'.join(sorted(parts, key=len, reverse=True))})\\Z")


class Guard:
    """Breaks marks in one conversation.

    Attributes:
      start, end: two further characters that the conversation does not contain.
    """

    def __init__(self, names: Sequence[str], given: Any):
        # A mark of one character cannot be broken; it is never read as one.
        self._names = tuple(name for name in names if len(name) > 1)
        self._pattern, self._longest = pattern_of(self._names), max(map(len, self._names))
        texts = list(_texts(given))
        unused = (chr(code) for code in PRIVATE_USE if not any(_occurs(chr(code), text) for text in texts))
        self._break, self.start, self.end = (next(unused) for _ in range(3))
        self._ends = re.compile(f"([{self.start}{self.end}])")

    def broken(self, value: Any, trusted: Sequence[str] = ()) -> Any:
        """A copy in which no string holds a mark, those of `trusted` excepted."""
        if isinstance(value, str):
            return self._broken(value, trusted)
        if isinstance(value, Mapping):
            return {self.broken(key): self.broken(inner, trusted) for key, inner in value.items()}
        return [self.broken(inner, trusted) for inner in value] if isinstance(value, list | tuple) else value

    def parts(self, rendered: str) -> Iterator[tuple[str, bool]]:
        """The rendered text in order, as (text, whether it is a mark); `start` and `end` are marks as well."""
        for i, stretch in enumerate(self._ends.split(rendered)):
            for j, part in enumerate([stretch] if i % 2 else self._pattern.split(stretch)):
                if part:
                    mark = bool(i % 2 or j % 2)
                    yield part if mark else self.whole(part), mark

    def whole(self, text: str) -> str:
        """Text without what this has put in."""
        return text.replace(self._break, "").replace(_escaped(self._break), "")

    def _broken(self, text: str, trusted: Sequence[str]) -> str:
        text = self._pattern.sub(lambda m: m[0] if m[0] in trusted else f"{m[0][0]}{self._break}{m[0][1:]}", text)
        tail = text[-self._longest :]
        return text + self._break if _ending(self._names).search(tail) else text


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


def _occurs(character: str, text: str) -> bool:
    return character in text or _escaped(character) in text


def _escaped(character: str) -> str:
    """As `tojson` writes it when it is asked for ASCII."""
    return f"\\u{ord(character):04x}"
