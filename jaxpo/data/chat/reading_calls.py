"""Calls that LFM2 writes, `[f(city="Oslo", n=1), g()]`, read back; the inverse of `jaxpo.data.chat.calls.call_list`.

Not by Python's own parser, to which `from` is no name of an argument and `get-weather` none of a function.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
"""Python's in calls, and JSON's inside lists and objects."""
LONGEST, DEEPEST = 100_000, 100
_NAME = re.compile(r"[^\W\d][\w-]*(?:\.[^\W\d][\w-]*)*")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"' r"|'(?:[^'\\]|\\.)*'", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "/": "/", "\\": "\\", '"': '"', "'": "'"}


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
      arguments: JSON of an object.
    """

    name: str
    arguments: str


def read_calls(text: str) -> tuple[Call, ...] | None:
    """The calls of what stands between the marks of a tool call; None where it is no list of calls by name.

    Arguments by position are none: which is which would have to be guessed from the tool's description.
    """
    if len(text) > LONGEST:
        return None
    reader = _Reader(text)
    try:
        found = reader.several("]", reader.call) if reader.skip("[") else [reader.call()]
        reader.end()
    except ValueError:
        return None
    return tuple(found) or None


class _Reader:
    """Goes through a text from left to right; ValueError where it does not fit."""

    def __init__(self, text: str):
        self._text, self._at, self._depth = text, 0, 0

    def call(self) -> Call:
        name = self._match(_NAME)
        self._expect("(")
        pairs = self.several(")", lambda: self._pair("=", lambda: self._match(_NAME)))
        return Call(name, json.dumps(_distinct(pairs), ensure_ascii=False, allow_nan=False))

    def several(self, close: str, item: Callable[[], Any]) -> list[Any]:
        """Items up to `close`, with commas between them."""
        found: list[Any] = []
        while not self.skip(close):
            if found:
                self._expect(",")
                if self.skip(close):
                    break
            found.append(item())
        return found

    def skip(self, mark: str) -> bool:
        """Whether this comes next; it is passed by."""
        self._blank()
        found = self._text.startswith(mark, self._at)
        self._at += len(mark) * found
        return found

    def end(self) -> None:
        self._blank()
        if self._at < len(self._text):
            raise ValueError("more behind it")

    def _value(self) -> Any:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ValueError("nested too deeply")
        found = self._nested()
        self._depth -= 1
        return found

    def _nested(self) -> Any:
        if self.skip("["):
            return self.several("]", self._value)
        if self.skip("{"):
            return _distinct(self.several("}", lambda: self._pair(":", self._string)))
        self._blank()
        if self._text[self._at : self._at + 1] in ('"', "'"):
            return self._string()
        if _NUMBER.match(self._text, self._at):
            return json.loads(self._match(_NUMBER))
        word = self._match(_NAME)
        if word not in WORDS:
            raise ValueError(f"{word} is no value")
        return WORDS[word]

    def _pair(self, between: str, key: Callable[[], str]) -> tuple[str, Any]:
        name = key()
        self._expect(between)
        return name, self._value()

    def _string(self) -> str:
        text = _ESCAPE.sub(_unescaped, self._match(_STRING)[1:-1])
        # JSON writes what lies beyond U+FFFF as two halves; a half alone is a UnicodeDecodeError, and so a ValueError.
        return text.encode("utf-16", "surrogatepass").decode("utf-16")

    def _match(self, pattern: re.Pattern[str]) -> str:
        self._blank()
        found = pattern.match(self._text, self._at)
        if found is None:
            raise ValueError(f"no {pattern.pattern}")
        self._at = found.end()
        return found[0]

    def _expect(self, mark: str) -> None:
        if not self.skip(mark):
            raise ValueError(f"no {mark}")

    def _blank(self) -> None:
        while self._text[self._at : self._at + 1].isspace():
            self._at += 1


def _unescaped(found: re.Match[str]) -> str:
    code = found[1] or found[2]
    if code:
        return chr(int(code, 16))
    if found[3] not in _ESCAPED:
        raise ValueError(f"{found[0]} is no character")
    return _ESCAPED[found[3]]


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice")
    return found
