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
    pieces = tokenizer.token_bytes(tokens[first:])
    if not b"".join(pieces).startswith(text.encode()):
        raise DataError(
            f"the text {text[:40]!r} is not what the answer's tokens spell from the first on, so characters cannot be "
            "found again in them.",
            remedy="Marks need a byte-level tokenizer without a normalizer, and answers without reasoning or calls.",
        )
    ends = np.cumsum([len(piece) for piece in pieces])
    byte_of = [0, *accumulate(len(character.encode()) for character in text)]
    columns = {mark.name: np.zeros(len(tokens), np.int32) for mark in marks}
    for mark in sorted(marks, key=lambda m: m.number):
        # The token that holds the first byte, and the one that holds the last.
        start, last = np.searchsorted(ends, [byte_of[mark.start], byte_of[mark.end] - 1], side="right")
        here = columns[mark.name][first + start : first + last + 1]
        here[here == 0] = mark.number
    return columns
