"""Judges that compare an answer with a text that is no answer to be learnt, such as a post by somebody who knows.

Reference: Tan et al. 2025 (PUGC), arXiv:2506.04463: the post is the reference of the score, never a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxpo.data.rows.formats import Row
from jaxpo.judges.asking import Ask, Item, Reply
from jaxpo.judges.base import Judge, Networks
from jaxpo.judges.endpoint import ChatJudge, plain, question_text
from jaxpo.judges.words import word_overlap

RUBRIC = """You grade an assistant's answer against a reference text by somebody who knows what a good answer holds. \
Judge whether the answer says what the reference would tell the asker, correctly and clearly; it need not sound like \
it. Write one or two sentences of reasoning, then a last line of exactly this form, with a number from {low} (useless) \
to {high} (excellent):
Score: NUMBER"""


def check_reference(rows: Sequence[Row], column: str) -> None:
    """Every row has the text; DataError where one does not."""
    for row in rows:
        value = row.data.get(column)
        if not isinstance(value, str) or not value.strip():
            raise row.error(
                "there is no reference text to judge by.", field=column, remedy="Add it, or judge without a reference."
            )


@dataclass(frozen=True)
class OverlapJudge(Judge):
    """F1 of an answer's words and those of the reference, in [0, 1].

    Attributes:
      reference: column with the text.
      with_reference: False compares with the prompt instead, blind to the reference.
    """

    reference: str = "post"
    with_reference: bool = True

    NAME: ClassVar[str] = "overlap"
    BATCH: ClassVar[int] = 256

    def check(self, rows: Sequence[Row]) -> None:
        if self.with_reference:
            check_reference(rows, self.reference)

    def columns(self) -> tuple[str, ...]:
        return (self.reference,) if self.with_reference else ()

    def open(self, networks: Networks) -> Ask:
        def score(item: Item) -> Reply:
            text = item.row.data[self.reference] if self.with_reference else plain(item.prompt)
            return Reply(word_overlap(item.answer, text))

        return lambda items: [score(item) for item in items]


@dataclass(frozen=True)
class ReferenceChatJudge(ChatJudge):
    """A chat endpoint that grades an answer with the reference in sight.

    Attributes:
      endpoint: who is asked.
      rubric: instructions, as of `ChatJudge`.
      low, high: scores outside are failures.
      reference: column with the text.
      with_reference: False does not show it; nothing else changes.
    """

    rubric: str = RUBRIC
    low: float = 1.0
    high: float = 5.0
    reference: str = "post"
    with_reference: bool = True

    NAME: ClassVar[str] = "reference_chat"

    def check(self, rows: Sequence[Row]) -> None:
        super().check(rows)
        if self.with_reference:
            check_reference(rows, self.reference)

    def columns(self) -> tuple[str, ...]:
        return (self.reference,) if self.with_reference else ()

    def message(self, item: Item) -> str:
        asked = question_text(item)
        if not self.with_reference:
            return asked
        return f"<reference>\n{item.row.data[self.reference]}\n</reference>\n\n{asked}"
