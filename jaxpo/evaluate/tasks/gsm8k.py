"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): grade-school word problems, the final answer compared by math-verify."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError
from jaxpo.evaluate.final_answer import MARK
from jaxpo.evaluate.maths import verifier
from jaxpo.evaluate.tasks.base import Reply, Scored
from jaxpo.evaluate.tasks.few_shot import after_shots
from jaxpo.evaluate.tasks.files import place, spaced, task_rows, text_in
from jaxpo.evaluate.tasks.generative import Generative
from jaxpo.evaluate.tasks.reading import Score
from jaxpo.sampling.prompts import Prompt

COLUMNS = {"question": "the problem, as a text", "answer": f"its solution, which ends in `{MARK} NUMBER`"}
STANDARD = "tasks/gsm8k/gsm8k-cot.yaml"
"""Where lm-eval keeps the eight examples of Wei et al. 2022 (arXiv 2201.11903), table 20."""


@dataclass(frozen=True)
class GSM8K(Generative[Row]):
    """Strict: the answer must be marked (`#### 18`, `The answer is 18.`); flexible: it must be found.

    Attributes:
      wording: the prompt, `{question}` in it.
      shots: solved examples before every question.
      shots_file: where those come from, its first rows, in the same format; None = the eight of Wei et al. 2022, which
        come with lm-eval.
      chat: whether the prompt is what a user says.
    """

    NAME: ClassVar[str] = "gsm8k"
    ABOUT: ClassVar[str] = "word problems, final answers compared by math-verify"
    NEEDS: ClassVar[str] = f"rows with `question` and `answer` (the solution, ending in `{MARK} NUMBER`)"

    wording: str = "Question: {question}\nAnswer:"
    shots: int = 8
    shots_file: str | None = None
    chat: bool = False

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if "{question}" not in self.wording:
            yield f"{self.NAME}.wording: {self.wording!r} must hold {{question}}."
        if self.shots < 0:
            yield f"{self.NAME}.shots: {self.shots} must be at least 0."

    def examples(self) -> list[Row]:
        _ = verifier(f"--tasks {self.NAME}"), self._solved
        return spaced(self._read(self.source or ""), self.limit)

    def prompt(self, example: Row) -> Prompt:
        text = after_shots(self._solved, self._asked(example.data["question"]))
        return [{"role": "user", "content": text}] if self.chat else text

    def where(self, example: Row) -> str:
        return place(example)

    @property
    def stop(self) -> tuple[str, ...]:
        # A text goes on with the next question.
        return () if self.chat else (self._asked("").split("\n")[0].strip() or "\n\n",)

    @property
    def format(self) -> str:
        return repr((self.wording, self._solved, self.chat))

    @property
    def in_template(self) -> bool:
        return self.chat

    def scores(self) -> Mapping[str, Score]:
        return {
            **self.graded_scores("strict", "marked and right"),
            **self.graded_scores("flexible", "found and right"),
        }

    def score(self, example: Row, reply: Reply) -> Scored:
        right, check = right_answer(example), verifier(f"--tasks {self.NAME}")
        return Scored(
            {
                **self.graded("strict", [check.strict(right, text) for text in reply.texts]),
                **self.graded("flexible", [check.flexible(right, text) for text in reply.texts]),
            },
            prompt=example.data["question"],
            answer=reply.texts[0],
            expected=right,
        )

    def _asked(self, question: str) -> str:
        return self.wording.replace("{question}", question)

    def _read(self, source: str) -> list[Row]:
        rows = task_rows(self.NAME, source, COLUMNS, self.NEEDS)
        for row in rows:
            text_in(row, "question")
            if not verifier(f"--tasks {self.NAME}").parse(right_answer(row)):
                message = f"{right_answer(row)[:60]!r} is no answer that math-verify can read."
                raise row.error(message, field="answer", remedy=f"End it in `{MARK} NUMBER`.")
        return rows

    @functools.cached_property
    def _solved(self) -> list[str]:
        found = self._shots()
        if len(found) < self.shots:
            where = self.shots_file or "lm-eval's file"
            raise ConfigError(f"{self.NAME}.shots: {self.shots}, but {where} holds {len(found)} rows.")
        return [f"{self._asked(question)} {answer}" for question, answer in found[: self.shots]]

    def _shots(self) -> list[tuple[str, str]]:
        if not self.shots:
            return []
        if self.shots_file is not None:
            return [(row.data["question"], str(row.data["answer"])) for row in self._read(self.shots_file)]
        return standard_shots(self.NAME)


def right_answer(row: Row) -> str:
    """What follows the last mark of a solution, or all of an answer that has none."""
    return str(row.data["answer"]).rpartition(MARK)[2].strip()


def standard_shots(task: str) -> list[tuple[str, str]]:
    """The eight examples as `(question, solution)`; ConfigError where lm-eval is not installed."""
    import yaml

    found = importlib.util.find_spec("lm_eval")
    if found is None or found.origin is None:
        extra = "pip install 'jaxpo[eval]', or give --set gsm8k.shots_file=FILE or --set gsm8k.shots=0"
        raise ConfigError(f"--tasks {task}: its solved examples come with lm-eval, which is not installed: {extra}.")
    document = yaml.safe_load((Path(found.origin).parent / STANDARD).read_text(encoding="utf-8"))
    return [(shot["question"], shot["target"]) for shot in document["fewshot_config"]["samples"]]
