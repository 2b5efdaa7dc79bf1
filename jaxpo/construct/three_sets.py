"""Teacher scores in pylate's form of three sets, joined into one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxpo.config.places import DataFile
from jaxpo.construct.base import Construction, Tools
from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.data.rows.retrieval import titled


@dataclass(frozen=True)
class ThreeSets(Construction):
    """Rows of a query's id, documents' ids and scores with the texts that those ids have in two other files.

    Attributes:
      queries: file with query_id and text (or BEIR's queries.jsonl).
      documents: file with document_id and text (or BEIR's corpus.jsonl).
    """

    queries: DataFile | None = None
    documents: DataFile | None = None

    NAME = "three_sets"
    READS = "query_id, document_ids, scores"
    WRITES = "query, documents, scores"

    def problems(self) -> list[str]:
        return [f"--{name} is missing; give its file." for name in ("queries", "documents") if not getattr(self, name)]

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        assert self.queries is not None
        assert self.documents is not None
        queries = dict(_texts(self.queries, "query_id"))
        documents = dict(_texts(self.documents, "document_id"))
        for row in rows:
            for name in ("query_id", "document_ids", "scores"):
                if name not in row.data:
                    raise row.error(f"column {name!r} is missing.", field=name, remedy=self.READS)
            ids, scores = row.data["document_ids"], row.data["scores"]
            if not isinstance(ids, list) or not isinstance(scores, list) or len(ids) != len(scores):
                raise row.error("document_ids and scores must be lists of one length.", field="scores")
            texts = [_found(row, documents, name, "document_ids") for name in ids]
            query = _found(row, queries, row.data["query_id"], "query_id")
            yield {"query": query, "documents": texts, "scores": scores}


def _texts(file: str, own: str) -> Iterator[tuple[str, str]]:
    for row in read_rows([file]):
        name = row.data.get(own, row.data.get("_id"))
        if name is None or not isinstance(row.data.get("text"), str):
            raise row.error(f"expected {own} and text.", field=own, remedy="Give every row both.")
        yield str(name), titled(row.data)


def _found(row: Row, texts: dict[str, str], name: Any, field: str) -> str:
    if str(name) not in texts:
        raise row.error(f"no text has the id {name!r}.", field=field, remedy="Give the file that has it.")
    return texts[str(name)]
