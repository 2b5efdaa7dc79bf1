"""Answers of mathematics, compared as such: by math-verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxpo.data.rows.formats import Row
from jaxpo.evaluate.maths import Verifier, verifier
from jaxpo.online.rewards.base import Response, RewardFunction


@dataclass(frozen=True)
class MathReward(RewardFunction):
    """1 where what the answer boxes, or marks as its last, equals the row's reference as mathematics, else 0.

    Fractions, LaTeX, sets and intervals are compared by value; `\\boxed{...}`, `#### ...` and "the answer is ..." are
    marks. math-verify limits its time by signals, so that it runs in the main thread: not with `max_staleness`.

    Attributes:
      label: the name in metrics.
      answer: the column with the reference; text without marks is read as LaTeX or a number.
    """

    label: str = "correct"
    answer: str = "answer"

    NAME: ClassVar[str] = "maths"
    VERIFIES: ClassVar[bool] = True
    MAIN_THREAD: ClassVar[bool] = True

    def check(self, rows: Sequence[Row]) -> None:
        grader = _grader()
        for row in rows:
            if not grader.parse(_reference(row, self.answer)):
                raise row.error(
                    f"column {self.answer!r} holds nothing that math-verify reads, which answers are compared with.",
                    field=self.answer,
                    remedy="Give every row a number or an expression there, such as \\boxed{1/2}, or name another.",
                )

    def columns(self) -> tuple[str, ...]:
        return (self.answer,)

    def values(self, answers: Sequence[Response]) -> list[float | None]:
        grader = _grader()
        return [float(grader.flexible(_reference(a.row, self.answer), a.answer)) for a in answers]


def _grader() -> Verifier:
    return verifier("MathReward")


def _reference(row: Row, column: str) -> str:
    """The reference as math-verify reads it: an expression without a mark is one of LaTeX."""
    text = str(row.data.get(column, "")).strip()
    return text if not text or "\\boxed" in text or "$" in text or "####" in text else f"${text}$"
