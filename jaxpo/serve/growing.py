"""An answer while it grows: which of its text can be shown, and which calls are complete.

What was shown is never taken back: half a character, what may be the beginning of a stop string and an open call are
held until they are decided. Fed once with the finished answer, the same gives it whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxpo.data.chat.calls import CALL_END, CALL_START
from jaxpo.data.chat.reading_calls import Call, read_calls
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.sampling.request import Generation


@dataclass(frozen=True)
class Piece:
    """What an answer has more than before.

    Attributes:
      text: characters.
      calls: complete ones.
      first, last: its tokens are `tokens[first:last]`.
      offsets: where in the text each of them begins.
    """

    text: str
    calls: tuple[Call, ...]
    first: int
    last: int
    offsets: tuple[int, ...]


class Growing:
    """One answer.

    Args:
      stop: its stop strings.
      calls: whether tools may be called; otherwise what stands between the marks of a call is text.
      begins: where the answer begins, in a text that shows the prompt before it.

    Attributes:
      called: how many calls it made.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], *, calls: bool = False, begins: int = 0):
        self._stop, self._decoder, self._begins = tuple(stop), tokenizer.stream(), begins
        self._marks = {tokenizer.special_ids[mark]: mark for mark in (CALL_START, CALL_END)} if calls else {}
        self._seen = self._decoded = 0
        self._held = ""
        self._call: str | None = None
        self._calls: list[Call] = []
        self.called = 0

    def feed(self, generation: Generation) -> Piece:
        """What is new, of an answer that goes on or that has ended."""
        first, offsets = self._seen, []
        for token in generation.tokens[first:]:
            # The engine looks for stop strings, too; what it decodes beyond one is cut before it says so.
            if generation.reason is None and _first(self._held, self._stop) is not None:
                break
            offsets.append(self._begins + self._decoded)
            self._take(token)
            self._seen += 1
        if generation.reason is not None:
            self._finish(generation)
        text = self._showable(ended=generation.reason is not None)
        self._held = self._held[len(text) :]
        calls, self._calls = tuple(self._calls), []
        self.called += len(calls)
        return Piece(text, calls, first, self._seen, tuple(offsets))

    def _take(self, token: int) -> None:
        mark = self._marks.get(token)
        text = self._decoder.feed(token)
        self._decoded += len(text)
        if self._call is not None and mark == CALL_END:
            found, written = read_calls(self._call), f"{CALL_START}{self._call}{CALL_END}"
            self._call = None
            self._calls += found or ()
            # What cannot be read as calls is shown as it was written.
            self._held += "" if found else written
        elif self._call is None and mark == CALL_START:
            self._call = ""
        elif self._call is not None:
            self._call += text
        else:
            self._held += text

    def _finish(self, generation: Generation) -> None:
        """Half a character at the end, an open call, and what a stop string cuts off."""
        rest = self._decoder.finish()
        self._decoded += len(rest)
        if self._call is not None:
            self._held += CALL_START + self._call
            self._call = None
        self._held += rest
        if generation.text is None:
            raise RuntimeError("the engine gave no text")
        cut = self._decoded - len(generation.text)
        self._held = self._held[: max(0, len(self._held) - cut)] if cut else self._held

    def _showable(self, *, ended: bool) -> str:
        if ended:
            return self._held
        at = _first(self._held, self._stop)
        return self._held[: len(self._held) - _unfinished(self._held, self._stop) if at is None else at]


def _first(text: str, stop: Sequence[str]) -> int | None:
    """Where the earliest stop string starts."""
    return min((at for at in (text.find(s) for s in stop) if at >= 0), default=None)


def _unfinished(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of the text that is the beginning of a stop string."""
    return max((k for s in stop for k in range(1, len(s)) if text.endswith(s[:k])), default=0)
