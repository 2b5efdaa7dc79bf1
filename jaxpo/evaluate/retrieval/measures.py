"""Measures of rankings against judged documents, as trec_eval computes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Run = Mapping[str, Mapping[str, float]]
"""Query -> document -> score."""
Qrels = Mapping[str, Mapping[str, int]]
"""Query -> document -> grade of relevance, 0 = not relevant."""


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Documents best first; of equal scores the later id, as trec_eval orders them.

    Scores are compared as float32, in which trec_eval keeps them.
    """
    return sorted(scores, key=lambda name: (np.float32(scores[name]), name), reverse=True)


def ndcg(ranking: Sequence[str], grades: Mapping[str, int], k: int = 10) -> float:
    """`DCG_k / ideal DCG_k` with `DCG_k = sum_{i <= k} rel_i / log2(i + 1)`; Jarvelin and Kekalainen 2002."""
    ideal = _dcg(sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:k])
    return _dcg([max(grades.get(name, 0), 0) for name in ranking[:k]]) / ideal if ideal else 0.0


def _dcg(grades: Sequence[int]) -> float:
    return float(sum(grade / np.log2(i + 2) for i, grade in enumerate(grades)))


def reciprocal_rank(ranking: Sequence[str], grades: Mapping[str, int], k: int = 10) -> float:
    """1 / rank of the first relevant document among the first k; 0 if none is."""
    places = (i for i, name in enumerate(ranking[:k]) if grades.get(name, 0) > 0)
    return 1.0 / (next(places, np.inf) + 1)


def recall(ranking: Sequence[str], grades: Mapping[str, int], k: int = 100) -> float:
    """Share of the relevant documents among the first k."""
    relevant = {name for name, grade in grades.items() if grade > 0}
    return len(relevant & set(ranking[:k])) / len(relevant) if relevant else 0.0


def average_precision(ranking: Sequence[str], grades: Mapping[str, int], k: int = 100) -> float:
    """Mean over the relevant documents of the precision at each one's rank; 0 for those not among the first k."""
    hits = np.asarray([grades.get(name, 0) > 0 for name in ranking[:k]], bool)
    relevant = sum(grade > 0 for grade in grades.values())
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].sum() / relevant) if relevant else 0.0


def accuracy(ranking: Sequence[str], grades: Mapping[str, int], k: int = 1) -> float:
    """Whether one of the first k is relevant."""
    return float(any(grades.get(name, 0) > 0 for name in ranking[:k]))


Measure = Callable[[Sequence[str], Mapping[str, int], int], float]
MEASURES: dict[str, tuple[Measure, int]] = {
    "ndcg@10": (ndcg, 10),
    "mrr@10": (reciprocal_rank, 10),
    "recall@10": (recall, 10),
    "recall@100": (recall, 100),
    "map@100": (average_precision, 100),
    "accuracy@1": (accuracy, 1),
    "accuracy@3": (accuracy, 3),
    "accuracy@5": (accuracy, 5),
    "accuracy@10": (accuracy, 10),
}


def measured(run: Run, qrels: Qrels) -> dict[str, np.ndarray]:
    """Each measure of every query that has a relevant document, float64 `[n]`, in the order of the qrels.

    A query that the run lacks has found nothing.
    """
    judged = {query: grades for query, grades in qrels.items() if any(grade > 0 for grade in grades.values())}
    rankings = {query: ranked(run.get(query, {})) for query in judged}
    return {
        name: np.asarray([function(rankings[query], grades, k) for query, grades in judged.items()])
        for name, (function, k) in MEASURES.items()
    }
