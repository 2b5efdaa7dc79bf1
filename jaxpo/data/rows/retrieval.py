"""Rows of retrieval: a query with the documents that answer it, and those that do not, or with scored documents."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.data.rows.texts import string
from jaxpo.errors import DataError

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
        # Of both one is read, and the other told as a column that is not.
        given = "labels" if "labels" in data else "label"
        data = {("scores" if name == given else name): value for name, value in data.items()}
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


def document_of(row: Row, *, empty_ok: bool = True) -> str:
    """A document's text with its title before it, where it has one.

    Raises:
      DataError: there is no text, a title that is none, or both are empty and that is no document; names the field.
    """
    title, text = row.data.get("title"), row.data.get("text")
    if not isinstance(title, str | None):
        raise row.error(f"the title is {type(title).__name__}, not a text.", field="title", remedy="Use a string.")
    if not isinstance(text, str):
        raise row.error("there is no text.", field="text", remedy="Documents have a text, perhaps a title and _id.")
    whole = f"{title or ''} {text}".strip()
    if not whole and not empty_ok:
        raise row.error("the document is empty.", field="text", remedy="Remove it.")
    return whole


def id_of_row(row: Row, *names: str) -> str:
    """What a row calls itself: in the first of these columns that it has, by default `_id` or `id`.

    Raises:
      DataError: it has none of them, or one that is neither a word nor a number; names the field.
    """
    names = names or ("_id", "id")
    name = next((name for name in names if name in row.data), names[0])
    own = row.data.get(name)
    if isinstance(own, bool) or not isinstance(own, str | int) or own == "":
        what = "there is no id." if own is None else f"{own!r} is no id."
        raise row.error(what, field=name, remedy=f"Give every row a {name}: a word or a number.")
    return str(own)


def texts_by_id(file: str | Path, read: Callable[[Row], str], *names: str) -> dict[str, str]:
    """What `read` says of every row of a file, by what the row calls itself; see `id_of_row`.

    Raises:
      DataError: as of both, and an id that was there before.
    """
    found: dict[str, str] = {}
    for row in read_rows([file]):
        own = id_of_row(row, *names)
        if own in found:
            field = next(name for name in names or ("_id", "id") if name in row.data)
            raise row.error(f"the id {own!r} was there before.", field=field, remedy="Ids must be unique.")
        found[own] = read(row)
    return found


def grade_of(value: Any, error: Callable[..., DataError]) -> int:
    """How well a document answers a query, a whole number; else what `error` makes of a message is raised."""
    try:
        grade = float(value)
    except (TypeError, ValueError) as why:
        raise error("there is no number.", field="score", remedy=_GRADES) from why
    if not grade.is_integer():
        raise error(f"{grade:g} is no grade.", field="score", remedy=_GRADES)
    return int(grade)


_GRADES = "Use whole numbers: 0 = no answer, 1 or more = an answer."
