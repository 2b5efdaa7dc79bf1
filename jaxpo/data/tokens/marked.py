"""The tokens that belong to the marked stretches of a response, as per-token columns of their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from jaxpo.data.rows.marks import Mark
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.errors import DataError


def marked_tokens(
    tokens: np.ndarray, first: int, text: str, marks: Sequence[Mark], tokenizer: Tokenizer
) -> dict[str, np.ndarray]:
    """Per-token numbers of a segment, int32 `[n]` for each name among the marks; 0 = unmarked.

    A token belongs to a mark when it holds a byte of one of its characters; of several marks, to the one with the
    smallest number.

    Args:
      first: index of the response's first token; from there on the tokens spell `text`.
    """
    places = token_places(tokens[first:], text, [(mark.start, mark.end) for mark in marks], tokenizer)
    columns = {mark.name: np.zeros(len(tokens), np.int32) for mark in marks}
    for mark, (start, last) in sorted(zip(marks, places, strict=True), key=lambda pair: pair[0].number):
        here = columns[mark.name][first + start : first + last + 1]
        here[here == 0] = mark.number
    return columns


def token_places(
    tokens: np.ndarray, text: str, stretches: Sequence[tuple[int, int]], tokenizer: Tokenizer
) -> list[tuple[int, int]]:
    """For stretches of characters (start, end) of a text the token with the first byte, and the one with the last.

    Args:
      tokens: those that spell the text, and perhaps more behind it.

    Raises:
      DataError: they spell something else.
    """
    pieces = tokenizer.token_bytes(tokens)
    if not b"".join(pieces).startswith(text.encode()):
        raise DataError(
            f"the text {text[:40]!r} is not what its tokens spell from the first on, so characters cannot be found "
            "again in them.",
            remedy="Marks and words with classes need a byte-level tokenizer without a normalizer, and answers without "
            "reasoning or calls.",
        )
    ends = np.cumsum([len(piece) for piece in pieces])
    byte_of = [0, *accumulate(len(character.encode()) for character in text)]
    borders = [(byte_of[start], byte_of[end] - 1) for start, end in stretches]
    found = np.searchsorted(ends, np.asarray(borders, np.int64).reshape(-1, 2), side="right")
    return [(int(first), int(last)) for first, last in found]
