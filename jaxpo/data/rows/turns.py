"""The turns of a text that was already rendered with the chat template, found without a tokenizer.

    [BOS] (<|im_start|>role LF body <|im_end|> LF)* [<|im_start|>role LF body]

Only a text that is so from its first character on is a rendered conversation; one that mentions such marks is a text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from jaxpo.data.rows.messages import ROLES

BOS, IM_START, IM_END = "<|startoftext|>", "<|im_start|>", "<|im_end|>"
MARKS = (BOS, IM_START, IM_END)
_MARK = re.compile("|".join(map(re.escape, MARKS)))
# White space around a role, as in files with CRLF, is an error and not another text.
_BEGINNING = re.compile(rf"(?:{re.escape(BOS)})*\s*{re.escape(IM_START)}[ \t]*\w+[ \t\r]*\n")
_HEADER = re.compile(rf"{re.escape(IM_START)}(.*)\n")
_SPACE = re.compile(r"\s*")


class Malformed(ValueError):
    """A text that begins like a rendered conversation and is none; says why."""


@dataclass(frozen=True)
class Turn:
    """One turn, as places in the text.

    Attributes:
      start: of its first mark.
      body: where its body starts.
      end: where its body ends: at the last mark, or at the text's end where the turn is left open.
      after: where what follows it starts; the white space behind the last mark is still its own.
    """

    role: str
    start: int
    body: int
    end: int
    after: int

    @property
    def closed(self) -> bool:
        """Whether the turn has its last mark."""
        return self.after > self.end


def is_rendered(text: str) -> bool:
    """Whether a text begins as a rendered conversation does."""
    return _BEGINNING.match(text) is not None


def mentions(text: str) -> bool:
    """Whether a mark of a turn or of a beginning stands anywhere in the text."""
    return BOS in text or IM_START in text or IM_END in text


def turns_of(text: str) -> list[Turn]:
    """The turns of a rendered conversation, one behind the other.

    Raises:
      Malformed: something stands between two turns, a turn begins inside another, or a role is none.
    """
    place = _space(text, len(BOS) if text.startswith(BOS) else 0)
    turns: list[Turn] = []
    while place < len(text):
        if turns and not turns[-1].closed:
            raise Malformed(f"{IM_START} stands inside the turn before it")
        turns.append(_turn(text, place))
        place = turns[-1].after
    return turns


def _turn(text: str, start: int) -> Turn:
    header = _HEADER.match(text, start)
    if text.startswith(BOS, start):
        raise Malformed("a second conversation begins in it; a row holds one")
    if header is None:
        raise Malformed(f"{text[start : start + 30]!r} stands where a turn should start with {IM_START} and its role")
    role = header.group(1)
    if role not in ROLES:
        raise Malformed(f"there is a turn of {role!r}; the roles are {', '.join(ROLES)}")
    mark = _MARK.search(text, header.end())
    if mark is None:
        return Turn(role, start, header.end(), len(text), len(text))
    if mark.group() != IM_END:
        raise Malformed(f"{mark.group()} stands inside the turn of {role!r}")
    return Turn(role, start, header.end(), mark.start(), _space(text, mark.end()))


def _space(text: str, start: int) -> int:
    """The end of the white space that starts here."""
    found = _SPACE.match(text, start)
    return found.end() if found else start
