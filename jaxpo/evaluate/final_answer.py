"""Is the final answer right: GSM8K's convention, as numbers. Imports no jax.

Reference: Cobbe et al. 2021 (arXiv 2110.14168), section 2: the final answer follows `####`.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from jaxpo.data.rows.rows import Record
from jaxpo.errors import DataError

MARK = "####"
# Thousands may be grouped by commas; a full stop that ends a sentence is not part of a number.
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")


def final_answer(text: str) -> Fraction | None:
    """The first number after the last `####`; without that mark the last number of the text; None without a number."""
    _, mark, after = text.rpartition(MARK)
    numbers = _NUMBER.findall(after)
    if not numbers:
        return None
    return Fraction((numbers[0] if mark else numbers[-1]).replace(",", ""))


def grade(text: str, answer: str | int | float) -> bool:
    """Whether a text gives the right final answer: 1 if final_answer(text) = answer, as numbers, else 0.

    Args:
      text: what a model wrote.
      answer: the number, or a text that holds it in the same convention (a GSM8K solution).

    Raises:
      ValueError: the right answer holds no number.
    """
    right = final_answer(str(answer))
    if right is None:
        raise ValueError(f"the right answer {answer!r} holds no number")
    return final_answer(text) == right


def right_answer(record: Record) -> str:
    """Column `answer` of a row, or else its completion, which must hold a number.

    Raises:
      DataError: neither does.
    """
    if "answer" in record.row.data:
        field, answer = "answer", str(record.row.data["answer"])
    else:
        field, answer = "completion", _text(record.sides[0].completion)
    if final_answer(answer) is None:
        raise DataError(
            f"{answer[:60]!r} holds no number to compare with.",
            file=record.row.file,
            row=record.row.number,
            field=field,
            remedy=f"Give a column `answer`, or completions that end in `{MARK} NUMBER`.",
        )
    return answer


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
