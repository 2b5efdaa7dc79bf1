"""How well a retriever finds what answers the queries of collections; see `jaxpo.evaluate.retrieval`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from jaxpo.errors import ConfigError, DataError
from jaxpo.evaluate.intervals import Measurement
from jaxpo.evaluate.retrieval.beir import collections_in, read_collection
from jaxpo.evaluate.retrieval.collection_scores import lexical_run
from jaxpo.evaluate.retrieval.lexical import INSTALL, is_installed
from jaxpo.evaluate.retrieval.measures import MEASURES, ranked
from jaxpo.evaluate.tasks.base import Ask, Reader, Reply, Scored, Search, Task
from jaxpo.evaluate.tasks.files import spaced
from jaxpo.evaluate.tasks.reading import Score

MAIN, BM25 = "ndcg@10", "bm25"


@dataclass(frozen=True)
class Judged:
    """A query with the documents that are judged for it.

    Attributes:
      collection: name of its folder; empty where there is one alone.
      search: its text, and the documents of the collection.
      grades: document -> grade; 0 = does not answer it.
      beside: the best documents by BM25, id -> score; empty where that is not measured.
    """

    collection: str
    search: Search
    grades: Mapping[str, int]
    beside: Mapping[str, float]


@dataclass(frozen=True)
class Retrieval(Task[Judged]):
    """NDCG, MRR, recall, MAP and accuracy as trec_eval computes them, and the mean NDCG@10 of several collections.

    Attributes:
      split: of the judgements, `qrels/SPLIT.tsv`.
      bm25: also what BM25 gets, where bm25s is installed.
    """

    NAME: ClassVar[str] = "retrieval"
    ABOUT: ClassVar[str] = "how well a retriever finds what answers a query (BEIR, NanoBEIR)"
    NEEDS: ClassVar[str] = "a folder with corpus.jsonl, queries.jsonl and qrels/, or one of such folders"
    SOURCE: ClassVar[str] = "FOLDER"

    split: str = "test"
    bm25: bool = True

    def examples(self) -> list[Judged]:
        folder = Path(self.source or "")
        folders = collections_in(folder)
        if not folders:
            raise DataError("there is no collection.", file=folder, remedy=f"The task {self.NAME} needs {self.NEEDS}.")
        parts = [self._judged(each, each.name if len(folders) > 1 else "") for each in folders]
        return [example for part in parts for example in spaced(part, self.limit)]

    def _judged(self, folder: Path, name: str) -> list[Judged]:
        collection = read_collection(folder, self.split)
        beside = lexical_run(collection) if self.bm25 and is_installed() else {}
        return [
            Judged(name, Search(text, collection.corpus), collection.qrels[query], beside.get(query, {}))
            for query, text in collection.queries.items()
            if any(grade > 0 for grade in collection.qrels[query].values())
        ]

    def ask(self, example: Judged, reader: Reader) -> Ask:
        if reader.retriever is None:
            raise ConfigError(f"--tasks {self.NAME}: the model is no retriever; give one of a Retrieval stage.")
        return Ask(searches=(example.search,), where=f"query {example.search.query[:40]!r}")

    def scores(self) -> Mapping[str, Score]:
        own = {name: Score(name, shares=True) for name in MEASURES}
        return own | {f"{name}_{BM25}": Score(f"{name} of BM25", shares=True) for name in MEASURES}

    def score(self, example: Judged, reply: Reply) -> Scored:
        (found,) = reply.found
        values = _measured(found, example.grades)
        if example.beside:
            values |= {f"{name}_{BM25}": value for name, value in _measured(example.beside, example.grades).items()}
        best = ranked(found)[:1]
        right = max(example.grades, key=lambda name: example.grades[name])
        texts = example.search.corpus
        return Scored(
            values,
            groups=(example.collection,) if example.collection else (),
            prompt=example.search.query,
            answer=texts[best[0]] if best else "",
            expected=texts.get(right, ""),
            worst=-values[MAIN],
        )

    def further(self, scored: Sequence[Scored]) -> Mapping[str, Measurement]:
        """The mean over collections, each counted once, as benchmarks of several report it."""
        of: dict[str, list[float]] = {}
        for one in scored:
            for name in one.groups:
                of.setdefault(name, []).append(one.values[MAIN])
        if not of:
            return {}
        return {f"mean_{MAIN}": Measurement(float(np.mean([np.mean(values) for values in of.values()])), len(of))}

    def notes(self, scored: Sequence[Scored]) -> Sequence[str]:
        return (f"BM25 is not measured: {INSTALL}.",) if self.bm25 and not is_installed() else ()

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.split.strip():
            yield f"{self.NAME}.split: must not be empty; `test` is usual."


def _measured(found: Mapping[str, float], grades: Mapping[str, int]) -> dict[str, float]:
    """Every measure of one query."""
    ranking = ranked(found)
    return {name: function(ranking, grades, k) for name, (function, k) in MEASURES.items()}
