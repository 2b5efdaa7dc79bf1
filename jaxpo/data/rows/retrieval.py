"""Rows of retrieval: a query with the documents that answer it, and those that do not, or with scored documents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.texts import string

RETRIEVAL = ("query_positive", "query_documents")
"""The dataset types of this room, whose texts are no prompts and answers."""
NEGATIVES = "negatives"
_NEGATIVE = re.compile(r"negative(_\d+)?")
_SENTENCES = ("sentence1", "sentence2")


def canonical_retrieval(data: dict[str, Any]) -> dict[str, Any]:
    """The columns of other libraries by ours.

    `anchor` is the query; `negative`, `negative_1`, ... are one list `negatives`, in their order; `label` or `labels`
    of documents are their scores; two sentences and how alike they are, a query and one scored document.
    """
    if data.keys() >= {*_SENTENCES} and data.keys() & {"score", "label"}:
        data = dict(data)
        score = data.pop("score" if "score" in data else "label")
        first, second = (data.pop(name) for name in _SENTENCES)
        return {**data, "query": first, "documents": [second], "scores": [score]}
    if "anchor" in data and "positive" in data and "query" not in data:
        data = {("query" if name == "anchor" else name): value for name, value in data.items()}
    if "query" not in data:
        return data
    if "documents" in data and "scores" not in data:
        data = {("scores" if name in ("label", "labels") else name): value for name, value in data.items()}
    if "positive" in data and NEGATIVES not in data:
        names = sorted((name for name in data if _NEGATIVE.fullmatch(name)), key=_order)
        if names:
            kept = {name: value for name, value in data.items() if name not in names}
            data = {**kept, NEGATIVES: [data[name] for name in names]}
    return data


def _order(name: str) -> int:
    return int(name.rpartition("_")[2]) if "_" in name else 0


def texts_of_row(row: Row) -> tuple[str, list[str]]:
    """The query and the documents of a row, a positive one first.

    Raises:
      DataError: an empty text, no document, or negatives among which the positive is; names the field.
    """
    query = string(row, "query", row.data["query"], empty_ok=True)
    if not query.strip():
        raise row.empty("the query is empty.", field="query")
    if "documents" in row.data:
        return query, _strings(row, "documents", row.data["documents"])
    positive = string(row, "positive", row.data["positive"], empty_ok=True)
    if not positive.strip():
        raise row.empty("the positive document is empty.", field="positive")
    negatives = _strings(row, NEGATIVES, row.data.get(NEGATIVES, []))
    if positive in negatives:
        raise row.error(
            "a negative document is the positive one.", field=NEGATIVES, remedy="Remove it: it would be pushed away."
        )
    return query, [positive, *negatives]


def _strings(row: Row, column: str, value: Any) -> list[str]:
    if not isinstance(value, list):
        raise row.error(f"`{column}` must be a list of texts.", field=column)
    for k, text in enumerate(value):
        if not isinstance(text, str):
            raise row.error(f"document {k} is {type(text).__name__}, not a text.", field=column)
        if not text.strip():
            raise row.error(f"document {k} is empty.", field=column, remedy="Remove it, and its score.")
    return value


def check_scores(row: Row, documents: list[str]) -> None:
    """DataError unless there is a number for each document."""
    scores = row.data["scores"]
    if not isinstance(scores, list):
        raise row.error("`scores` must be a list of numbers.", field="scores")
    if not documents:
        raise row.empty("there is no document.", field="documents")
    if len(scores) != len(documents) or any(score is None for score in scores):
        there = sum(score is not None for score in scores)
        raise row.error(
            f"{len(documents)} documents but {there} scores.", field="scores", remedy="Give one per document."
        )


def titled(document: Mapping[str, Any]) -> str:
    """A document's text with its title before it, where it has one."""
    return f"{document.get('title') or ''} {document.get('text') or ''}".strip()
