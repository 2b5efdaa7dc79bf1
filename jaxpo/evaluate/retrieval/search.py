"""Exact search: every document's score, a block of vectors at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxpo.evaluate.retrieval.index import Index

BLOCK = 1 << 16
"""Vectors that are compared at once."""


class Found(NamedTuple):
    """The best documents of a query, best first: their places in the index, and their scores."""

    places: np.ndarray
    scores: np.ndarray


def all_scores(index: Index, query: np.ndarray) -> np.ndarray:
    """`sum_i max_j <q_i, d_j>` of every document, float32 `[N]`; 0 for one without vectors."""
    scores = np.zeros(len(index), np.float32)
    for first, last in _blocks(index.offsets):
        scores[first:last] = _scores(
            index.floats(slice(*index.offsets[[first, last]])), index.offsets[first : last + 1], query
        )
    return scores


def scores_of(index: Index, query: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The same of some documents alone."""
    starts, ends = index.offsets[places], index.offsets[places + 1]
    own = [np.arange(a, b) for a, b in zip(starts, ends, strict=True)]
    rows = np.concatenate([np.zeros(0, np.int64), *own])
    offsets = np.concatenate([[0], np.cumsum(ends - starts)])
    return _scores(index.floats(rows), offsets, query)


def search(index: Index, query: np.ndarray, top: int) -> Found:
    """The best documents of all."""
    return best(np.arange(len(index)), all_scores(index, query), top)


def best(places: np.ndarray, scores: np.ndarray, top: int) -> Found:
    """The best of some documents; of equal scores the first in the index."""
    order = np.argsort(-scores, kind="stable")[:top]
    return Found(places[order], scores[order])


def search_all(index: Index, queries: Sequence[np.ndarray], top: int) -> Iterator[Found]:
    """`search` of many queries."""
    return (search(index, query, top) for query in queries)


def _blocks(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of whole documents with about `BLOCK` vectors each."""
    first, count = 0, len(offsets) - 1
    while first < count:
        last = int(np.searchsorted(offsets, offsets[first] + BLOCK, side="right")) - 1
        last = min(max(last, first + 1), count)
        yield first, last
        first = last


def _scores(own: np.ndarray, offsets: np.ndarray, query: np.ndarray) -> np.ndarray:
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    scores = np.zeros(len(lengths), np.float32)
    if len(own):
        there = lengths > 0
        similar = own @ query.astype(np.float32).T
        scores[there] = np.maximum.reduceat(similar, starts[there], axis=0).sum(axis=1)
    return scores
