"""Hard negatives of queries: documents that look like answers and are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxpo.config.places import DataFile
from jaxpo.construct.base import Construction, Tools, not_positive
from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.data.rows.retrieval import NEGATIVES, canonical_retrieval, document_of, texts_of_row

Scores = Callable[[str], np.ndarray]
"""Query -> the score of every document."""


@dataclass(frozen=True)
class Negatives(Construction):
    """Queries with documents that score high and below the positive: contrast and distillation learn from them.

    Attributes:
      by: who looks for them and scores: "bm25" (pip install bm25s), or "model", the retriever --model.
      corpus: file of the documents, with `text` and perhaps `title`; None = the positives of all rows.
      top: best documents that are looked at.
      count: negatives of a query.
      share: those that score more than this share of the positive's score are left out: they may answer the query too;
        where that is below 0, more than it less as much of its size.
      scored: write documents with the scores instead, the positive first.
    """

    by: Literal["bm25", "model"] = "bm25"
    corpus: DataFile | None = None
    top: int = 200
    count: int = 7
    share: float = 0.95
    scored: bool = False

    NAME = "negatives"
    READS = "query, positive"
    WRITES = "query, positive, negatives; or with `--scored` query, documents, scores"

    def problems(self) -> list[str]:
        return not_positive(top=self.top, count=self.count, share=self.share)

    def needed_networks(self) -> tuple[str, ...]:
        return ("model",) if self.by == "model" else ()

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        read = [self._pair(row) for row in rows]
        given = [] if self.corpus is None else [document_of(row, empty_ok=False) for row in read_rows([self.corpus])]
        documents = list(dict.fromkeys([*given, *(positive for _, positive in read)]))
        places = {text: i for i, text in enumerate(documents)}
        answers: dict[str, set[str]] = {}
        for query, positive in read:
            answers.setdefault(query, set()).add(positive)
        scores = self._scores(documents, [query for query, _ in read], tools)
        rng = np.random.default_rng(tools.seed)
        for query, positive in read:
            own = scores(query)
            right = float(own[places[positive]])
            best = np.argsort(-own, kind="stable")[: self.top]
            kept = [int(i) for i in best if documents[i] not in answers[query]]
            most = right - (1.0 - self.share) * abs(right)
            hard = [i for i in kept if own[i] < most]
            tools.count("too_near_the_positive", len(kept) - len(hard))
            if len(hard) < self.count:
                tools.count("dropped_too_few_negatives")
                continue
            chosen = sorted(int(i) for i in rng.choice(hard, self.count, replace=False))
            yield self._row(query, positive, [documents[i] for i in chosen], [right, *(float(own[i]) for i in chosen)])

    def _pair(self, row: Row) -> tuple[str, str]:
        found = Row(row.file, row.number, canonical_retrieval(row.data))
        if not {"query", "positive"} <= found.data.keys():
            raise row.error("there is no query with a positive document.", field="positive", remedy=self.READS)
        query, (positive, *_) = texts_of_row(found)
        return query, positive

    def _scores(self, documents: Sequence[str], queries: Sequence[str], tools: Tools) -> Scores:
        if self.by == "bm25":
            from jaxpo.evaluate.retrieval.lexical import BM25

            return BM25(documents).scores
        from jaxpo.evaluate.retrieval.embedder import embedder_of
        from jaxpo.evaluate.retrieval.index import make_index
        from jaxpo.evaluate.retrieval.search import all_scores

        embedder = embedder_of(tools.network("model"), say=tools.say)
        numbers = [str(i) for i in range(len(documents))]
        index = make_index(embedder.documents(documents), numbers, documents, {}, "float32")
        vectors = dict(zip(queries, embedder.queries(queries), strict=True))
        return lambda query: all_scores(index, vectors[query])

    def _row(self, query: str, positive: str, negatives: list[str], scores: list[float]) -> dict[str, Any]:
        if self.scored:
            return {"query": query, "documents": [positive, *negatives], "scores": scores}
        return {"query": query, "positive": positive, NEGATIVES: negatives}
