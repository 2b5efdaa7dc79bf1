"""What a run measures of its retrievers: how well they find held-out documents, beside BM25 and chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.config.places import OtherFile
from jaxpo.evaluate.intervals import Measurement
from jaxpo.evaluate.probes import INITIAL

if TYPE_CHECKING:
    from jaxpo.evaluate.context import ProbeContext

SHOWN = ("ndcg@10", "mrr@10", "recall@10")


@dataclass(frozen=True)
class Finds:
    """NDCG@10, MRR@10 and recall@10 on a collection in BEIR's form; of the initial model the baselines instead.

    Attributes:
      collection: folder with corpus.jsonl, queries.jsonl and qrels/.
    """

    collection: OtherFile

    def measure(self, context: ProbeContext) -> dict[str, Measurement]:
        from jaxpo.evaluate.retrieval.beir import read_collection
        from jaxpo.evaluate.retrieval.collection_scores import lexical_run, quality, random_run, run_of
        from jaxpo.evaluate.retrieval.embedder import make_embedder
        from jaxpo.evaluate.retrieval.lexical import is_installed

        (folder,) = context.files((self.collection,))
        collection = read_collection(folder)
        if context.stage == INITIAL:
            runs = {"random": random_run(collection)} | ({"bm25": lexical_run(collection)} if is_installed() else {})
            return {f"{name} ndcg@10": quality(run, collection)["ndcg@10"] for name, run in runs.items()}
        if context.retriever is None:
            return {}
        params = {"model": context.params, **context.heads}
        embedder = make_embedder(context.scorer, params, context.retriever, context.tokenizer)
        found = quality(run_of(collection, embedder), collection)
        return {name: found[name] for name in SHOWN}
