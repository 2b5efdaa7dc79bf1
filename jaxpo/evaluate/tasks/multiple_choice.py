"""Multiple choice by log-likelihood: which of the given answers does the model find most probable."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError
from jaxpo.evaluate.tasks import asking
from jaxpo.evaluate.tasks.base import Ask, Reader, Reply, Scored, Task
from jaxpo.evaluate.tasks.few_shot import after_shots
from jaxpo.evaluate.tasks.files import place, spaced, task_rows, text_in
from jaxpo.evaluate.tasks.reading import Score
from jaxpo.sampling.prompts import Prompt

COLUMNS = {
    "question": "the question, as a text",
    "choices": "the possible answers, as a list of texts",
    "answer": "the right one: its place in the list, from 0",
}


@dataclass(frozen=True)
class Choice:
    """One question.

    Attributes:
      right: place of the right answer.
    """

    row: Row
    question: str
    choices: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class MultipleChoice(Task[Choice]):
    """Three rules of choosing: by the answer's log-prob, by its mean per token, by its mean per byte.

    Attributes:
      wording: the prompt, `{question}` in it.
      delimiter: stands between prompt and answer; it is scored with the answer and counts no bytes.
      shots: solved examples before every question.
      shots_file: where those come from, its first rows; in the same format.
      chat: whether the prompt is what a user says, and the answer begins the assistant's turn.
    """

    NAME: ClassVar[str] = "multiple_choice"
    ABOUT: ClassVar[str] = "accuracy of the most probable of given answers"
    NEEDS: ClassVar[str] = "rows with `question`, `choices` (texts) and `answer` (the right one's place, from 0)"

    wording: str = "Question: {question}\nAnswer:"
    delimiter: str = " "
    shots: int = 0
    shots_file: str | None = None
    chat: bool = False

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if "{question}" not in self.wording:
            yield f"{self.NAME}.wording: {self.wording!r} must hold {{question}}."
        if self.shots < 0 or (self.shots > 0) != (self.shots_file is not None):
            yield f"{self.NAME}.shots: {self.shots} with shots_file {self.shots_file}; give both, or neither."

    def examples(self) -> list[Choice]:
        _ = self._solved
        return spaced(self._read(self.source or ""), self.limit)

    def ask(self, example: Choice, reader: Reader) -> Ask:
        delimiter = "" if self.chat else self.delimiter
        continuations = [delimiter + choice for choice in example.choices]
        return Ask(asking.pairs(reader.tokenizer, self._prompt(example), continuations), where=place(example.row))

    def score(self, example: Choice, reply: Reply) -> Scored:
        total = np.asarray(reply.likelihoods)
        # Rules that divide: by tokens as the model sees them, by bytes as the reader does.
        by = {"acc": 1, "acc_token": np.asarray(reply.lengths), "acc_bytes": self._sizes(example)}
        chosen = {name: int(np.argmax(total / size)) for name, size in by.items()}
        others = np.delete(total, example.right)
        return Scored(
            {name: float(place == example.right) for name, place in chosen.items()},
            prompt=example.question,
            answer=example.choices[chosen["acc"]],
            expected=example.choices[example.right],
            worst=float(others.max() - total[example.right]),
        )

    def scores(self) -> Mapping[str, Score]:
        return {
            "acc": Score("most probable answer", binary=True),
            "acc_token": Score("largest mean log-prob per token", binary=True),
            "acc_bytes": Score("largest log-prob per byte", binary=True),
        }

    def _prompt(self, example: Choice) -> Prompt:
        text = after_shots(self._solved, self._asked(example))
        return [{"role": "user", "content": text}] if self.chat else text

    @property
    def format(self) -> str:
        return repr((self.wording, self.delimiter, self._solved, self.chat))

    @property
    def in_template(self) -> bool:
        return self.chat

    def _sizes(self, example: Choice) -> np.ndarray:
        return np.asarray([len(choice.encode()) for choice in example.choices])

    @functools.cached_property
    def _solved(self) -> list[str]:
        """The solved examples as texts."""
        if self.shots_file is None:
            return []
        found = self._read(self.shots_file)
        if len(found) < self.shots:
            raise ConfigError(f"{self.NAME}.shots: {self.shots}, but {self.shots_file} holds {len(found)} rows.")
        return [self._asked(x) + self.delimiter + x.choices[x.right] for x in found[: self.shots]]

    def _asked(self, example: Choice) -> str:
        return self.wording.replace("{question}", example.question)

    def _read(self, source: str) -> list[Choice]:
        return [_choice(row) for row in task_rows(self.NAME, source, COLUMNS, self.NEEDS)]


def _choice(row: Row) -> Choice:
    question, choices, right = text_in(row, "question"), row.data["choices"], row.data["answer"]
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(x, str) and x for x in choices):
        raise row.error("must be a list of at least two texts, none of them empty.", field="choices")
    if type(right) is not int or not 0 <= right < len(choices):
        raise row.error(f"is {right!r}; it must be a place in `choices`, 0 to {len(choices) - 1}.", field="answer")
    return Choice(row, question, tuple(choices), right)
