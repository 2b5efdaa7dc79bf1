"""Solved examples before a question."""

from __future__ import annotations

from collections.abc import Iterable

SEPARATOR = "\n\n"


def after_shots(solved: Iterable[str], question: str) -> str:
    """Solved examples, then the question, an empty line between: as lm-eval puts them."""
    return SEPARATOR.join([*solved, question])
