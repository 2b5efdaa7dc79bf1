"""An answer's text while it is written: whole characters, and nothing behind a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxpo.data.tokenizer.tokenizer import Tokenizer


class Spoken:
    """Text of the tokens so far.

    Args:
      stop: strings that end the answer and are cut from it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._decoder, self._stop = tokenizer.stream(), tuple(stop)
        self._text, self._ended = "", False
        self._longest = max(map(len, self._stop), default=0)

    def feed(self, token: int) -> bool:
        """Whether this token completes a stop string; the text is cut before the first one."""
        new = self._decoder.feed(token)
        seen = max(0, len(self._text) - self._longest + 1)
        self._text += new
        at = min((at for s in self._stop if (at := self._text.find(s, seen)) >= 0), default=None)
        if at is None:
            return False
        self._text, self._ended = self._text[:at], True
        return True

    def whole(self) -> str:
        """The text of an answer that has ended."""
        if not self._ended:
            self._text += self._decoder.finish()
            self._ended = True
        return self._text

    def safe(self) -> str:
        """What the whole text certainly begins with: an end that may become a stop string is held back."""
        if self._ended:
            return self._text
        begun = (k for s in self._stop for k in range(1, len(s)) if self._text.endswith(s[:k]))
        return self._text[: len(self._text) - max(begun, default=0)]
