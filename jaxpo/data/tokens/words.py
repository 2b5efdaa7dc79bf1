"""Which word each token of a text belongs to."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.encoded import Segment

WORD = "word"
"""Column: the number of a token's word in its segment, from 1; 0 at special tokens."""
_SPACE = b" \t\n\r\f\v"


def with_words(segments: Sequence[Segment], tokenizer: Tokenizer) -> tuple[Segment, ...]:
    """The segments with the column `WORD`: a word begins at white space, and behind a special token."""
    special, begins = _tables(tokenizer)
    return tuple(
        replace(one, per_token={**one.per_token, WORD: word_numbers(one.tokens, special, begins)}) for one in segments
    )


def word_numbers(tokens: np.ndarray, special: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """int32 `[n]`, of tables over the vocabulary: which ids are special, and which begin with white space."""
    here = special[tokens]
    before = np.concatenate([[True], here[:-1]])
    return np.where(here, 0, np.cumsum(~here & (begins[tokens] | before))).astype(np.int32)


@functools.lru_cache(maxsize=4)
def _tables(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    special = np.zeros(tokenizer.vocab_size, bool)
    special[list(tokenizer.special_ids.values())] = True
    begins = np.asarray([spelt[:1] in _SPACE if spelt else False for spelt in tokenizer.spelling()])
    return special, begins
