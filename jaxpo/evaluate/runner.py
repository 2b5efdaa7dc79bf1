"""Runs tasks on a model: all that a task asks goes to the scorer and the engine in one batch each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jaxpo.errors import DataError
from jaxpo.evaluate.results import TaskResult, prompt_hash
from jaxpo.evaluate.subject import Subject
from jaxpo.evaluate.tasks.base import Ask, Question, Reader, Reply, Task
from jaxpo.sampling.request import Request

Say = Callable[[str, int, int], None]
"""Told what is done, and how many of how many."""


class Ready(Protocol):
    """A task that has been put to a model's tokenizer and found to fit."""

    def run(self, subject: Subject, say: Say) -> list[TaskResult]:
        """Ask the model and score what it says."""
        ...


class Read(Protocol):
    """A task with its data."""

    def ask(self, reader: Reader) -> Ready:
        """What goes to a model; DataError where it has no room for it."""
        ...

    def alone(self) -> list[TaskResult]:
        """The results without a model, of a task that asks none."""
        ...


class Job(Protocol):
    """A task as it was asked for."""

    @property
    def asks(self) -> bool:
        """Whether a model is asked."""
        ...

    def problems(self) -> Iterator[str]:
        """What is wrong with its settings."""
        ...

    def read(self) -> Read:
        """Its data, checked; DataError names file, row, field and remedy."""
        ...


@dataclass(frozen=True)
class TaskJob:
    """A task of `jaxpo.evaluate.tasks`.

    Attributes:
      label: `NAME[:SOURCE]`.
    """

    label: str
    task: Task[Any]

    @property
    def asks(self) -> bool:
        return self.task.asks

    def problems(self) -> Iterator[str]:
        return self.task.problems()

    def read(self) -> Examples:
        return Examples(self.label, self.task, self.task.examples())


@dataclass(frozen=True)
class Examples:
    """A task and its examples."""

    label: str
    task: Task[Any]
    examples: Sequence[Any]

    def ask(self, reader: Reader) -> Asked:
        """Every ask of the task, each with room in the model.

        Raises:
          DataError: a sequence, or a prompt with its answer, that is longer than the model's context.
        """
        from jaxpo.sampling.text import encode_prompt

        asks = [self.task.ask(example, reader) for example in self.examples]
        prompts = [list(encode_prompt(reader.tokenizer, q.prompt)) for ask in asks for q in ask.questions]
        _check_room(self.label, asks, prompts, reader.context)
        return Asked(self.label, self.task, self.examples, asks, prompts)

    def alone(self) -> list[TaskResult]:
        """The results of a task whose files hold all answers, without a model."""
        start = time.perf_counter()
        scored = [self.task.score(example, Reply()) for example in self.examples]
        return [result_of(self.label, self.task, scored, start, prompt_hash(self.task.NAME, self.task.format, ""))]


@dataclass(frozen=True)
class Asked:
    """What of a task's examples goes to a model.

    Attributes:
      prompts: of every question of every ask, in tokens.
    """

    label: str
    task: Task[Any]
    examples: Sequence[Any]
    asks: Sequence[Ask]
    prompts: Sequence[Sequence[int]]

    def run(self, subject: Subject, say: Say) -> list[TaskResult]:
        start = time.perf_counter()
        replies = self._replies(subject, say)
        scored = [self.task.score(example, reply) for example, reply in zip(self.examples, replies, strict=True)]
        return [result_of(self.label, self.task, scored, start, prompt_identity(self.task, subject.reader))]

    def _replies(self, subject: Subject, say: Say) -> Iterator[Reply]:
        sequences = [segment.tokens for ask in self.asks for segment in ask.segments]
        logps = iter(subject.logps(sequences, lambda done, total: say(f"{self.label}: sequences", done, total)))
        rewarded = [segment for ask in self.asks for segment in ask.rewarded]
        sizes = [len(ask.rewarded) for ask in self.asks if ask.rewarded]
        scored = subject.rewards(rewarded, lambda done, total: say(f"{self.label}: rewards", done, total), sizes)
        rewards = iter(scored)
        questions = [question for ask in self.asks for question in ask.questions]
        requests = [
            _request(question, prompt, number, subject.stop_ids)
            for number, (question, prompt) in enumerate(zip(questions, self.prompts, strict=True))
        ]
        answers = iter(subject.answers(requests, lambda done, total: say(f"{self.label}: answers", done, total)))
        searches = [search for ask in self.asks for search in ask.searches]
        found = iter(subject.searches(searches, lambda done, total: say(f"{self.label}: documents", done, total)))
        for ask in self.asks:
            yield Reply(
                ask,
                tuple(next(logps) for _ in ask.segments),
                tuple(tuple(next(answers)) for _ in ask.questions),
                tuple(float(next(rewards)) for _ in ask.rewarded),
                tuple(next(found) for _ in ask.searches),
            )


def result_of(label: str, task: Task[Any], scored: Sequence[Any], start: float, identity: str) -> TaskResult:
    """What a task makes of its scored examples.

    Args:
      start: `time.perf_counter()` before the model was asked.
      identity: hash of the prompts' wording.
    """
    seconds = time.perf_counter() - start
    return TaskResult(
        label,
        task.settings(),
        identity,
        scored,
        task.scores(),
        seconds,
        further=task.further(scored),
        grid=task.grid(scored),
        pictures=task.pictures(scored),
        notes=task.notes(scored),
        files=task.files(scored),
    )


def prompt_identity(task: Task[Any], reader: Reader) -> str:
    """Hash of the task's wording and, where its prompts are put into it, of the chat template."""
    return prompt_hash(task.NAME, task.format, reader.tokenizer.template if task.in_template else "")


def _request(question: Question, prompt: Sequence[int], number: int, stop_ids: tuple[int, ...]) -> Request:
    return Request(
        prompt=prompt,
        n=question.n,
        sampler=question.sampler,
        max_new_tokens=question.max_new_tokens,
        stop=question.stop,
        stop_ids=stop_ids,
        seed=question.seed,
        number=number,
    )


def _check_room(label: str, asks: Sequence[Ask], prompts: Sequence[Sequence[int]], context: int) -> None:
    lengths = iter(map(len, prompts))
    for number, ask in enumerate(asks, start=1):
        where = ask.where or f"example {number}"
        for segment in (*ask.segments, *ask.rewarded):
            if len(segment.tokens) > context:
                raise DataError(
                    f"{len(segment.tokens)} tokens, but the model has {context} positions.",
                    file=f"{label}: {where}",
                    remedy="Shorten the example, ask for fewer shots, or leave it out.",
                )
        for question in ask.questions:
            length = next(lengths)
            if length + question.max_new_tokens > context:
                raise DataError(
                    f"a prompt of {length} tokens and {question.max_new_tokens} new ones, but the model has {context} "
                    "positions.",
                    file=f"{label}: {where}",
                    remedy="Shorten the prompt, ask for fewer shots, or lower --max-new-tokens.",
                )
