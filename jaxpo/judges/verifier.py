"""A reference answer as a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxpo.data.rows.formats import Row
from jaxpo.evaluate.final_answer import MARK, final_answer, grade
from jaxpo.judges.asking import Ask, Reply
from jaxpo.judges.base import Judge, Networks

ANSWER, COMPLETION = "answer", "completion"


@dataclass(frozen=True)
class VerifierJudge(Judge):
    """1 where the final answer of the text matches the row's reference exactly, else 0.

    Several right and several wrong answers are the rule: `ties` of the construction decides between them.

    Attributes:
      answer: the column with the reference; of a text like GSM8K's the final answer is what counts. Rows without a
        column `answer` may have a completion that ends in `#### NUMBER`.
    """

    answer: str = ANSWER

    NAME: ClassVar[str] = "verifier"
    BATCH: ClassVar[int] = 256

    def check(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if final_answer(self.reference(row)) is None:
                raise row.error(
                    f"column {self.answer!r} holds no number, which the verifier compares with.",
                    field=self.answer,
                    remedy="Add it to every row, give completions that end in `#### NUMBER`, or name another column.",
                )

    def reference(self, row: Row) -> str:
        """The text that the right answer is read from; empty where there is none."""
        if self.answer == ANSWER and ANSWER not in row.data:
            completion = _text(row.data.get(COMPLETION, ""))
            return completion if MARK in completion else ""
        return _text(row.data.get(self.answer, ""))

    def columns(self) -> tuple[str, ...]:
        return (ANSWER, COMPLETION) if self.answer == ANSWER else (self.answer,)

    def open(self, networks: Networks) -> Ask:
        return lambda items: [Reply(float(grade(item.answer, self.reference(item.row)))) for item in items]


def _text(value: Any) -> str:
    """A text, the last turn of a conversation, or a number as text."""
    return str(value[-1].get("content", "")) if isinstance(value, list) and value else str(value)
