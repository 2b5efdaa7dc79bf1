"""Words of captions as numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from jaxpo.corpora.scenes.scene import BACKGROUNDS, COLOURS, PLACES, SHAPES
from jaxpo.errors import DataError

VOCABULARY = (
    "",
    ".",
    "on",
    *COLOURS,
    *SHAPES,
    *dict.fromkeys(word for place in PLACES for word in place.split()),
    *BACKGROUNDS,
)
"""A word's number is its place; 0 is padding, and all there is of an empty caption."""
NUMBERS = {word: number for number, word in enumerate(VOCABULARY)}
_WORD = re.compile(r"\w+|[^\w\s]")


def encode(captions: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the words of captions, cut after `length`, and where there are words.

    Returns:
      int32 `[N, length]` and bool `[N, length]`. The mask of an empty caption is True at its first place, so that
      whoever attends to it finds something.

    Raises:
      DataError: a word that no scene's caption has.
    """
    tokens = np.zeros((len(captions), length), np.int32)
    for row, caption in enumerate(captions):
        for column, word in enumerate(_WORD.findall(caption)[:length]):
            if word not in NUMBERS:
                known = ", ".join(VOCABULARY[1:])
                raise DataError(f"the word '{word}' is none of a scene.", row=row, remedy=f"Known are: {known}.")
            tokens[row, column] = NUMBERS[word]
    mask = tokens > 0
    mask[:, 0] = True
    return tokens, mask
