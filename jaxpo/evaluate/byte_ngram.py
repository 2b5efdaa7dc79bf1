"""A byte n-gram model with Witten-Bell smoothing: the yardstick of what counting alone achieves.

    p(x | h) = (c(h x) + T(h) p(x | h')) / (c(h) + T(h)),    T(h) = number of different bytes seen after h

h' is h without its oldest byte; below the empty context stands the uniform distribution over 256 bytes. A context that
was never seen gives p(x | h'). Witten and Bell, IEEE Trans. Information Theory 37(4), 1991, method C; interpolated as
in Chen and Goodman, 1999, section 2.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ORDER = 4
BYTES = 256


@dataclass(frozen=True)
class Level:
    """Counts for contexts of one length, as sorted keys (context bytes as a base-256 number).

    Attributes:
      grams, gram_counts: `context * 256 + byte` and how often it occurred.
      contexts, context_counts, context_types: how often each context occurred, and before how many different bytes.
    """

    grams: np.ndarray
    gram_counts: np.ndarray
    contexts: np.ndarray
    context_counts: np.ndarray
    context_types: np.ndarray


@dataclass(frozen=True)
class ByteNgram:
    """Fitted model; `levels[n]` conditions on n bytes."""

    levels: tuple[Level, ...]

    @classmethod
    def fit(cls, documents: list[bytes], order: int = ORDER) -> ByteNgram:
        """Count n-grams up to `order` bytes (order 4 conditions on 3); no n-gram reaches across documents."""
        if not 1 <= order <= 7:
            raise ValueError(f"order {order} must lie in 1..7: a gram is kept in one 64-bit integer")
        return cls(tuple(_count(documents, n) for n in range(order)))

    def probabilities(self, document: bytes) -> np.ndarray:
        """p(byte | the bytes before it in the document), float64 `[len(document)]`."""
        data = np.frombuffer(document, np.uint8)
        p = np.full(len(data), 1.0 / BYTES)
        for n, level in enumerate(self.levels):
            # The first n bytes of a document have no context of n bytes; they keep the shorter one's estimate.
            p[n:] = _interpolate(level, *_keys(data, n), p[n:])
        return p

    def distribution(self, context: bytes) -> np.ndarray:
        """p(. | context), float64 `[256]`, summing to 1."""
        p = np.full(BYTES, 1.0 / BYTES)
        every = np.arange(BYTES)
        for n, level in enumerate(self.levels):
            if n <= len(context):
                key = int.from_bytes(context[len(context) - n :], "big")
                p = _interpolate(level, np.full(BYTES, key), key * BYTES + every, p)
        return p

    def bits(self, document: bytes) -> float:
        """Bits that the document costs: -sum log2 p."""
        return float(-np.log2(self.probabilities(document)).sum())


def _keys(data: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Context of n bytes and context-with-byte of every position from n on, as integers."""
    size = max(len(data) - n, 0)
    context = np.zeros(size, np.int64)
    for i in range(n):
        context = context * BYTES + data[i : i + size]
    return context, context * BYTES + data[n:]


def _count(documents: list[bytes], n: int) -> Level:
    keys = [_keys(np.frombuffer(d, np.uint8), n)[1] for d in documents]
    grams, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *keys]), return_counts=True)
    contexts, where, types = np.unique(grams // BYTES, return_inverse=True, return_counts=True)
    totals = np.bincount(where, weights=counts, minlength=len(contexts)).astype(np.int64)
    return Level(grams, counts, contexts, totals, types)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 where it is absent."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def _interpolate(level: Level, contexts: np.ndarray, grams: np.ndarray, shorter: np.ndarray) -> np.ndarray:
    count = _look_up(level.grams, level.gram_counts, grams)
    total = _look_up(level.contexts, level.context_counts, contexts)
    types = _look_up(level.contexts, level.context_types, contexts)
    return np.where(total > 0, (count + types * shorter) / np.maximum(total + types, 1), shorter)
