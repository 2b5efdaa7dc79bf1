"""Final numbers of greedy answers, by the recipe's own rule; see `jaxpo.evaluate.exact_match`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxpo.data.rows.rows import Record
from jaxpo.evaluate.final_answer import MARK, grade, right_answer
from jaxpo.evaluate.perplexity import read_records
from jaxpo.evaluate.tasks.base import Reply, Scored
from jaxpo.evaluate.tasks.files import place, present, spaced
from jaxpo.evaluate.tasks.generative import Generative
from jaxpo.evaluate.tasks.ranking import shown
from jaxpo.evaluate.tasks.reading import Score
from jaxpo.sampling.prompts import Prompt, prompt_of


@dataclass(frozen=True)
class ExactMatch(Generative[Record]):
    """The number after the last `####`, else the last of the text, is the right one; per level where rows have one."""

    NAME: ClassVar[str] = "exact_match"
    ABOUT: ClassVar[str] = "the final number of an answer is the right one"
    NEEDS: ClassVar[str] = (
        f"rows with `prompt` and `completion`, which ends in `{MARK} NUMBER` unless there is `answer`"
    )

    def examples(self) -> list[Record]:
        records = read_records([present(self.NAME, self.source or "", self.NEEDS)], "prompt_completion")
        for record in records:
            right_answer(record)
        return spaced(records, self.limit)

    def prompt(self, example: Record) -> Prompt:
        return prompt_of(example)

    def where(self, example: Record) -> str:
        return place(example.row)

    @property
    def in_template(self) -> bool:
        return True

    def scores(self) -> Mapping[str, Score]:
        return self.graded_scores("exact_match", "final number right")

    def score(self, example: Record, reply: Reply) -> Scored:
        return self.graded_texts(example, reply.texts)

    def graded_texts(self, example: Record, texts: Sequence[str]) -> Scored:
        """What the answers of one example got."""
        right, level = right_answer(example), example.row.data.get("level")
        return Scored(
            self.graded("exact_match", [grade(text, right) for text in texts]),
            groups=() if level is None else (f"level_{level}",),
            prompt=shown(example.sides[0].prompt),
            answer=texts[0],
            expected=right,
        )
