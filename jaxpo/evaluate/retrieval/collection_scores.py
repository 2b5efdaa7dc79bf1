"""How well a retriever, or BM25, finds the judged documents of a collection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from jaxpo.evaluate.intervals import Measurement, mean
from jaxpo.evaluate.retrieval.beir import Collection
from jaxpo.evaluate.retrieval.embedder import Embedder
from jaxpo.evaluate.retrieval.index import make_index
from jaxpo.evaluate.retrieval.lexical import BM25
from jaxpo.evaluate.retrieval.measures import measured
from jaxpo.evaluate.retrieval.search import search
from jaxpo.evaluate.score import Progress

DEPTH = 100
"""Documents of a ranking."""
Rankings = dict[str, dict[str, float]]


def best_of_corpus(
    corpus: Mapping[str, str], queries: Sequence[str], embedder: Embedder, progress: Progress = lambda *_: None
) -> Iterator[dict[str, float]]:
    """The best documents of every query, id -> score, by exact search.

    Args:
      corpus: id -> text.
    """
    texts = list(corpus.values())
    index = make_index(embedder.documents(texts, progress), list(corpus), texts, {"model": embedder.hash}, "float32")
    for vectors in embedder.queries(queries):
        best = search(index, vectors, DEPTH)
        yield {index.ids[i]: float(s) for i, s in zip(best.places, best.scores, strict=True)}


def run_of(collection: Collection, embedder: Embedder) -> Rankings:
    """The best documents of every judged query, by exact scores."""
    found = best_of_corpus(collection.corpus, list(collection.queries.values()), embedder)
    return dict(zip(collection.queries, found, strict=True))


def lexical_run(collection: Collection) -> Rankings:
    """The same by BM25; ConfigError where bm25s is not installed."""
    engine, ids = BM25(list(collection.corpus.values())), list(collection.corpus)
    return _run(collection, engine.scores, ids)


def random_run(collection: Collection, seed: int = 0) -> Rankings:
    """The same by chance."""
    rng, ids = np.random.default_rng(seed), list(collection.corpus)
    return _run(collection, lambda query: rng.random(len(ids)), ids)


def _run(collection: Collection, scores: Callable[[str], np.ndarray], ids: list[str]) -> Rankings:
    found: Rankings = {}
    for name, query in collection.queries.items():
        own = scores(query)
        best = np.argsort(-own, kind="stable")[:DEPTH]
        found[name] = {ids[i]: float(own[i]) for i in best}
    return found


def quality(run: Mapping[str, Mapping[str, float]], collection: Collection) -> dict[str, Measurement]:
    """Each measure with its mean over queries and a bootstrap interval."""
    return {name: mean(values) for name, values in measured(run, collection.qrels).items()}
