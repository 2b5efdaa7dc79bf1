"""Candidates from a library of nearest neighbours, ranked again exactly: for corpora where exact search is too slow."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from jaxpo.errors import ConfigError
from jaxpo.evaluate.retrieval.index import Index
from jaxpo.evaluate.retrieval.search import Found, best, scores_of, search

Library = Literal["faiss", "usearch"]
Nearest = Callable[[np.ndarray, int], np.ndarray]
"""`(queries [Q, E], n) -> [Q, n]`, the numbers of the nearest vectors; -1 = none."""
NEAREST = 128
"""Vectors that are looked up for each row of a query."""


def nearest(index: Index, library: Library) -> Nearest:
    """The approximate neighbours of a vector among all of an index.

    Raises:
      ConfigError: the library is not installed; names the command that installs it.
    """
    return {"faiss": _faiss, "usearch": _usearch}[library](index)


def search_candidates(index: Index, near: Nearest, query: np.ndarray, top: int, each: int = NEAREST) -> Found:
    """The documents of the nearest vectors of each row of the query, by their exact scores."""
    rows = np.unique(near(query.astype(np.float32), min(each, len(index.vectors))))
    places = np.unique(np.searchsorted(index.offsets, rows[rows >= 0], side="right") - 1)
    return best(places, scores_of(index, query, places), top)


def recall(index: Index, near: Nearest, queries: Sequence[np.ndarray], top: int, each: int = NEAREST) -> float:
    """Share of the exact best documents that the candidates hold, over all queries."""
    shares = [
        np.isin(search(index, query, top).places, search_candidates(index, near, query, top, each).places).mean()
        for query in queries
    ]
    return float(np.mean(shares))


def _library(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"--candidates {name} needs {package}: pip install {package}.") from error


def _faiss(index: Index) -> Nearest:
    """Inverted lists over all vectors; inner products, of which an eighth of the lists are looked through."""
    faiss = _library("faiss", "faiss-cpu")
    vectors = np.ascontiguousarray(index.floats())
    count, size = vectors.shape
    lists = max(1, min(int(4 * np.sqrt(count)), count // 39))
    made = faiss.IndexIVFFlat(faiss.IndexFlatIP(size), size, lists, faiss.METRIC_INNER_PRODUCT)
    made.cp.min_points_per_centroid = 1  # of the few lists of a small index nothing is said
    made.train(vectors)
    made.add(vectors)
    made.nprobe = max(1, lists // 8)
    return lambda query, n: made.search(np.ascontiguousarray(query), n)[1]


def _usearch(index: Index) -> Nearest:
    """A graph of neighbours (HNSW); inner products."""
    usearch = _library("usearch.index", "usearch")
    made = usearch.Index(ndim=index.vectors.shape[1], metric="ip", dtype="f32")
    made.add(np.arange(len(index.vectors)), np.ascontiguousarray(index.floats()))

    def near(query: np.ndarray, n: int) -> np.ndarray:
        found = made.search(np.ascontiguousarray(query), n)
        return np.asarray(found.keys, np.int64).reshape(len(query), -1)

    return near
