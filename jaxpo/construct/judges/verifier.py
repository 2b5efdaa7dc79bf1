"""A reference answer as a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxpo.construct.asking import Ask, Reply
from jaxpo.construct.judges.base import Judge, Networks
from jaxpo.data.formats import Row
from jaxpo.evaluate.exact_match import final_answer, grade


@dataclass(frozen=True)
class VerifierJudge(Judge):
    """1 where the final answer of the text matches the row's reference exactly, else 0.

    Several right and several wrong answers are the rule: `ties` of the construction decides between them.

    Attributes:
      answer: the column with the reference; of a text like GSM8K's the final answer is what counts.
    """

    answer: str = "answer"

    NAME: ClassVar[str] = "verifier"
    BATCH: ClassVar[int] = 256

    def check(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if final_answer(self.reference(row)) is None:
                raise row.error(
                    f"column {self.answer!r} holds no number, which the verifier compares with.",
                    field=self.answer,
                    remedy="Add it to every row, or name another column (completion, say).",
                )

    def reference(self, row: Row) -> str:
        """The text that the right answer is read from; empty without the column."""
        value = row.data.get(self.answer, "")
        return str(value[-1].get("content", "")) if isinstance(value, list) and value else str(value)

    def columns(self) -> tuple[str, ...]:
        return (self.answer,)

    def open(self, networks: Networks) -> Ask:
        return lambda items: [Reply(float(grade(item.answer, self.reference(item.row)))) for item in items]
