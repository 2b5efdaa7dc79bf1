"""Solved examples before a question."""

from __future__ import annotations

from collections.abc import Iterable

SEPARATOR = "\n\n"


def after_shots(shots: Iterable[tuple[str, str]], question: str) -> str:
    """`QUESTION ANSWER`, an empty line, ..., `QUESTION`: the answer follows a blank, as lm-eval puts it.

    Args:
      shots: pairs of a question, as it is put to the model, and its answer.
      question: the one that is to be answered.
    """
    return SEPARATOR.join([*(f"{asked} {answer}" for asked, answer in shots), question])
