"""No terminal ends what runs in it: one that knows few characters, one that is closed, one that goes away."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

PLAIN = {"⟦": "[", "⟧": "]", "→": "->", "·": "*", "…": "...", "–": "-", "—": "-", "−": "-", "‘": "'", "’": "'"}
"""What stands for a character of ours that a terminal does not know; "?" for all others."""


def plain(error: UnicodeError) -> tuple[str, int]:
    """Error handler of encodings: what can be shown in the place of characters that cannot."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end


codecs.register_error("jaxpo.plain", plain)


def open_streams() -> None:
    """Make stdout and stderr take every character; where one is closed, nothing is shown."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # This takes the descriptor's number too: else the next file would, and get what is printed.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="jaxpo.plain")


class Lasting(io.TextIOBase):
    """A stream whose reader may go away: what is written from then on is dropped."""

    def __init__(self, stream: TextIO):
        self._stream, self.lost = stream, False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def isatty(self) -> bool:
        return not self.lost and self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str, /) -> int:
        if not self.lost:
            with self._surviving():
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        if not self.lost:
            with self._surviving():
                self._stream.flush()

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):
            self.lost = True
            drop(self._stream)


def drop(stream: TextIO) -> None:
    """Send what a stream still holds nowhere: the interpreter must not complain while flushing at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Within the block nothing that is printed can fail."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Lasting(before[0]), Lasting(before[1])
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = before
