"""Queries, documents and what is known of both in three files, joined into rows: pylate's sets, BEIR's folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxpo.config.places import DataFile
from jaxpo.construct.base import Construction, Tools
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.retrieval import document_of, grade_of, texts_by_id

QUERY, DOCUMENT = "query-id", "corpus-id"
"""Columns of BEIR's qrels."""


@dataclass(frozen=True)
class ThreeSets(Construction):
    """Rows of a query's id, documents' ids and scores with the texts that those ids have in two other files.

    BEIR's judgements (`qrels/train.tsv`) become a row of every document that answers a query; those that do not, of
    score 0, are left out and counted. `negatives` looks for others.

    Attributes:
      queries: file with query_id and text (or BEIR's queries.jsonl).
      documents: file with document_id and text (or BEIR's corpus.jsonl).
    """

    queries: DataFile | None = None
    documents: DataFile | None = None

    NAME = "three_sets"
    READS = "query_id, document_ids, scores; or query-id, corpus-id, score (BEIR's qrels)"
    WRITES = "query, documents, scores; or query, positive"

    def problems(self) -> list[str]:
        return [f"--{name} is missing; give its file." for name in ("queries", "documents") if not getattr(self, name)]

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        assert self.queries is not None
        assert self.documents is not None
        queries = texts_by_id(self.queries, document_of, "query_id", "_id")
        documents = texts_by_id(self.documents, document_of, "document_id", "_id")
        for row in rows:
            if QUERY not in row.data:
                yield self._scored(row, queries, documents)
            elif grade_of(row.data.get("score"), row.error) > 0:
                yield {"query": _found(row, queries, QUERY), "positive": _found(row, documents, DOCUMENT)}
            else:
                tools.count("no_answer")

    def _scored(self, row: Row, queries: Mapping[str, str], documents: Mapping[str, str]) -> dict[str, Any]:
        for name in ("query_id", "document_ids", "scores"):
            if name not in row.data:
                raise row.error(f"column {name!r} is missing.", field=name, remedy=f"Rows have {self.READS}.")
        ids, scores = row.data["document_ids"], row.data["scores"]
        if not isinstance(ids, list) or not isinstance(scores, list) or len(ids) != len(scores):
            raise row.error("document_ids and scores must be lists of one length.", field="scores")
        for i, name in enumerate(ids):
            if name in ids[:i]:
                raise row.error(f"{name!r} is there twice.", field="document_ids", remedy="Keep one, and its score.")
        texts = [_named(row, documents, name, "document_ids") for name in ids]
        return {"query": _found(row, queries, "query_id"), "documents": texts, "scores": scores}


def _found(row: Row, texts: Mapping[str, str], field: str) -> str:
    """The text whose id a column holds."""
    return _named(row, texts, row.data.get(field), field)


def _named(row: Row, texts: Mapping[str, str], name: Any, field: str) -> str:
    if str(name) not in texts:
        raise row.error(f"no text has the id {name!r}.", field=field, remedy="Give the file that has it.")
    return texts[str(name)]
