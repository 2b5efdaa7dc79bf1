"""Rows of the output: the row's own columns, and those that hold its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxpo.construct.batch.best import Best
from jaxpo.construct.batch.draw import Answer
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.json_lines import as_json

ONE = {"text": "completion", "reason": "reason", "error": "error"}
SEVERAL = {"text": "responses", "reason": "reasons", "error": "errors"}
LOGPS = ("tokens", "logps", "sampling_logps")
BEST = ("score", "unscored")


def new_columns(*, n: int, best: bool, logps: bool) -> tuple[str, ...]:
    """The columns that are added, before the prefix."""
    texts = ONE if best or n == 1 else SEVERAL
    return (*texts.values(), *(LOGPS if logps else ()), *(BEST if best else ()))


def check_rows(rows: Sequence[Row], columns: Sequence[str], prefix: str) -> None:
    """DataError for a row that has one of the new columns already, or a value that no line of JSON can hold."""
    for row in rows:
        for name in columns:
            if prefix + name in row.data:
                raise row.error(
                    f"there is a column {prefix + name!r} already, and the answers would go there.",
                    field=prefix + name,
                    remedy="Rename it, or give the new columns a prefix: `--prefix new_`.",
                )
        as_json(row.data, row.number)


def one_row(row: Row, answer: Answer | None, *, logps: bool, prefix: str, best: Best | None = None) -> dict[str, Any]:
    """A row with its only answer, or with its best one; null where there is none."""
    usable = answer is not None and answer.reason != "error"
    new: dict[str, Any] = {
        ONE["text"]: _as_written(row, answer.text) if answer is not None and usable else None,
        ONE["reason"]: answer.reason if answer is not None else None,
    }
    if answer is not None and answer.error is not None:
        new[ONE["error"]] = answer.error
    if logps:
        new |= {name: getattr(answer, name, None) for name in LOGPS}
    if best is not None:
        new["score"] = best.score
        if best.unscored is not None:
            new["unscored"] = best.unscored
    return {**row.data, **{prefix + name: value for name, value in new.items()}}


def many_rows(row: Row, answers: Sequence[Answer], *, logps: bool, prefix: str) -> dict[str, Any]:
    """A row with all its answers, each column a list; null in the place of one that ended in an error.

    The texts are strings whatever the prompt is, as in data of type list.
    """
    new: dict[str, Any] = {
        SEVERAL["text"]: [None if a.reason == "error" else a.text for a in answers],
        SEVERAL["reason"]: [a.reason for a in answers],
    }
    if any(a.error is not None for a in answers):
        new[SEVERAL["error"]] = [a.error for a in answers]
    if logps:
        new |= {name: [getattr(a, name) for a in answers] for name in LOGPS}
    return {**row.data, **{prefix + name: value for name, value in new.items()}}


def _as_written(row: Row, text: str) -> Any:
    """An answer in the form of the prompt: a string, or an assistant's turn."""
    return [{"role": "assistant", "content": text}] if isinstance(row.data.get("prompt"), list) else text
