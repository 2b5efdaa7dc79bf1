"""`.json`: a list of objects, or objects one after another; never the whole file in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from jaxpo.data.rows.files.encoding import characters
from jaxpo.data.rows.files.json_text import DECODER, checked, explained
from jaxpo.errors import DataError

CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_REMEDY = "A .json file holds a list of objects, or objects one after another."


def read(file: Path) -> Iterator[tuple[int, Any]]:
    """The number of every element, from 1, and its value."""
    with characters(file, guess=json.detect_encoding) as stream:
        text = _Text(stream, file)
        listed = text.next() == "["
        text.at += listed
        number = 1
        while (character := text.next()) and not (listed and character == "]"):
            if listed and number > 1:
                text.expect(",", number)
            yield number, text.value(number)
            number += 1
        if listed:
            if not text.next():
                raise DataError("the list is not closed.", file=file, row=number - 1, remedy=_REMEDY)
            text.at += 1
            if text.next():
                raise DataError("something stands behind the end of the list.", file=file, remedy=_REMEDY)


class _Text:
    """A window on the characters of a file, which grows until a whole value is in it.

    Attributes:
      at: of the next character.
    """

    def __init__(self, stream: IO[str], file: Path):
        self.stream, self.file, self.window, self.at = stream, file, "", 0

    def next(self) -> str:
        """The next character that is no white space; "" at the end of the file."""
        while True:
            space = _SPACE.match(self.window, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.window):
                return self.window[self.at]
            if not self.more():
                return ""

    def more(self) -> bool:
        """Read on; False at the end of the file."""
        kept = self.window[self.at :]
        chunk = self.stream.read(max(CHUNK, len(kept)))
        self.window, self.at = kept + chunk, 0
        return bool(chunk)

    def expect(self, character: str, number: int) -> None:
        if self.next() != character:
            raise DataError(f"{character!r} is missing before this row.", file=self.file, row=number, remedy=_REMEDY)
        self.at += 1

    def value(self, number: int) -> Any:
        """The value that starts at the next character."""
        self.next()
        while True:
            try:
                value, end = DECODER.raw_decode(self.window, self.at)
            except (ValueError, RecursionError) as error:
                if _cut_off(error, self.window) and self.more():
                    continue
                raise explained(error, self.window[self.at :], self.file, number, "not valid JSON") from error
            source, self.at = self.window[self.at : end], end
            return checked(value, source, self.file, number)


def _cut_off(error: Exception, window: str) -> bool:
    """Whether the text may be right but for its end, which is not in the window yet."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos > len(window) - 16
