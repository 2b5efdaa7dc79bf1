"""Marked stretches of a response: phrases, steps, items, key phrases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxpo.data.rows.formats import Row

# Name of the marks -> the columns they are read from.
SOURCES: dict[str, tuple[str, ...]] = {
    "phrase": ("chosen_spans", "rejected_spans"),
    "keyword": ("chosen_keywords", "rejected_keywords"),
    "part": ("chosen_parts", "rejected_parts"),
    "step": ("steps",),
    "step_end": ("completions", "labels"),
    "item": ("items",),
    "tag": ("words", "tags", "spans"),
}
SPANS = ("phrase", "keyword", "part")  # marked by character spans
CALLS = 3
"""Tool calls that a response may have."""
_FORM = "Give [[start, end], ...] in characters of the response, the end exclusive, none of them overlapping."
_PARTS = (
    'Give [[start, end, kind], ...] in characters of the response, kind "tool", "observation", "rationale" or '
    f'"answer", none of them overlapping, and {CALLS} tools and observations at most.'
)


@dataclass(frozen=True)
class Mark:
    """Characters `start` to `end` (exclusive) of a response carry `number` (1, 2, ...) under `name`."""

    name: str
    number: int
    start: int
    end: int


def consecutive(name: str, parts: Sequence[str], separator: str = "") -> tuple[Mark, ...]:
    """Marks of the parts of `separator.join(parts)`, numbered from 1."""
    marks, start = [], 0
    for number, part in enumerate(parts, start=1):
        marks.append(Mark(name, number, start, start + len(part)))
        start += len(part) + len(separator)
    return tuple(marks)


def endings(name: str, parts: Sequence[str]) -> tuple[Mark, ...]:
    """Marks of the last character of each part of `"".join(parts)`, numbered from 1."""
    whole = consecutive(name, parts)
    return tuple(Mark(name, mark.number, mark.end - 1, mark.end) for mark in whole)


def span_marks(row: Row, column: str, name: str, *, length: int, shift: int) -> tuple[Mark, ...]:
    """Check a column of character spans; the k-th becomes number k, a part that of its kind.

    The parts of a response that calls tools have kinds: the k-th "tool" becomes 2k - 1, the k-th "observation" 2k,
    "rationale" 7 and "answer" 8.

    Args:
      length: characters of the column's text that belong to the response.
      shift: characters of the text before them (a prompt that was cut off its start).

    Raises:
      DataError: spans that are no pairs of integers, empty, out of range or overlapping.
    """
    given = _listed(row, column)
    numbers = part_numbers(row, column, given) if name == "part" else range(1, len(given) + 1)
    given = [span[:2] for span in given] if name == "part" else given
    spans = [_span(row, column, k, span, shift, length) for k, span in enumerate(given)]
    for (_, end, k), (start, _, other) in zip(sorted(spans), sorted(spans)[1:], strict=False):
        if start < end:
            raise row.error(f"spans {min(k, other)} and {max(k, other)} overlap.", field=column, remedy=_FORM)
    return tuple(Mark(name, numbers[k], start - shift, end - shift) for start, end, k in spans)


def part_numbers(row: Row, column: str, spans: list[Any]) -> list[int]:
    """The number of each part, by its kind and how many of the kind there were before."""
    seen: dict[str, int] = {}
    found = []
    for k, span in enumerate(spans):
        kind = span[2] if isinstance(span, list) and len(span) == 3 else None
        if kind not in _FIRST:
            raise row.error(f"part {k} is {span!r}, not [start, end, kind].", field=column, remedy=_PARTS)
        found.append(_FIRST[kind] + 2 * seen.get(kind, 0) if kind in ("tool", "observation") else _FIRST[kind])
        seen[kind] = seen.get(kind, 0) + 1
    if max(seen.get("tool", 0), seen.get("observation", 0)) > CALLS:
        raise row.error(f"there are more than {CALLS} tool calls.", field=column, remedy=_PARTS)
    return found


_FIRST = {"tool": 1, "observation": 2, "rationale": 2 * CALLS + 1, "answer": 2 * CALLS + 2}


def _listed(row: Row, column: str) -> list[Any]:
    value = row.data[column]
    if not isinstance(value, list):
        raise row.error(f"expected a list of spans, found {type(value).__name__}.", field=column, remedy=_FORM)
    return value


def _span(row: Row, column: str, k: int, span: Any, shift: int, length: int) -> tuple[int, int, int]:
    whole = isinstance(span, list) and len(span) == 2 and all(type(x) is int for x in span)
    if not whole:
        raise row.error(f"span {k} is {span!r}, not [start, end].", field=column, remedy=_FORM)
    start, end = span
    if start >= end:
        raise row.error(f"span {k}, {span}, is empty.", field=column, remedy=_FORM)
    if start < shift or end > shift + length:
        raise row.error(
            f"span {k}, {span}, reaches beyond the response (characters {shift} to {shift + length}).",
            field=column,
            remedy=_FORM,
        )
    return start, end, k
