"""Classes of the words of many texts by a classifier of words, packed into batches of few shapes."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxpo.data.packing.batch import Batch
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.tagged import Word
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.tagged import laid
from jaxpo.evaluate.score import each_segment
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.methods.token_classification import TokenClassification

Tree = Any


def tokens_and_places(
    texts: Sequence[tuple[Row, str, Sequence[Word]]], tokenizer: Tokenizer, max_length: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each text its first `max_length` tokens, and of each word the place of its first one, -1 where it has none.

    Args:
      texts: with the row that each comes from, for messages.

    Raises:
      DataError: tokens that do not spell their text; names file and row.
    """
    found = []
    encoded = tokenizer.encode_batch([text for _, text, _ in texts])
    for (row, text, words), ids in zip(texts, encoded, strict=True):
        # Numbered as if each word were a class of its own.
        tokens, column = laid(row, text, words, range(len(words)), ids, tokenizer, Counter())
        places = np.full(len(words), -1)
        first = np.flatnonzero(column[:max_length] > 0)
        places[column[first] - 1] = first
        found.append((tokens[:max_length], places))
    return found


def word_classes(
    scorer: Scorer,
    method: TokenClassification,
    params: Mapping[str, Tree],
    read: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    rows: int,
    row_length: int,
) -> list[list[np.ndarray | None]]:
    """For each word of each text the probabilities of the classes, `[C]`; None where it has no token.

    Args:
      read: as `tokens_and_places` gives it.
    """
    run = functools.partial(_probabilities, scorer, method, params)
    placed = each_segment(run, [tokens for tokens, _ in read], rows, row_length)
    found = {place.segment: row[place.span] for place, row in placed}
    return [[None if at < 0 else found[i][at] for at in places] for i, (_, places) in enumerate(read)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _probabilities(scorer: Scorer, method: TokenClassification, params: Tree, batch: Batch) -> jax.Array:
    hidden = scorer.hidden(params["model"], batch)
    return jax.nn.softmax(method.logits(params, hidden), axis=-1)
