"""Runs tasks on a model: all that a task asks goes to the scorer and the engine in one batch each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxpo.errors import DataError
from jaxpo.evaluate.results import TaskResult, prompt_hash
from jaxpo.evaluate.subject import Subject
from jaxpo.evaluate.tasks.base import Ask, Question, Reader, Reply, Task
from jaxpo.sampling.request import Request

Say = Callable[[str, int, int], None]
"""Told what is done, and how many of how many."""


@dataclass(frozen=True)
class Asked:
    """A task with its examples, and what of them goes to a model with this reader.

    Attributes:
      label: `NAME[:SOURCE]`.
      prompts: of every question of every ask, in tokens.
    """

    label: str
    task: Task[Any]
    examples: Sequence[Any]
    asks: Sequence[Ask]
    prompts: Sequence[Sequence[int]]


def ask_all(label: str, task: Task[Any], examples: Sequence[Any], reader: Reader) -> Asked:
    """Every ask of a task, each with room in the model.

    Raises:
      DataError: a sequence, or a prompt with its answer, that is longer than the model's context.
    """
    from jaxpo.sampling.text import encode_prompt

    asks = [task.ask(example, reader) for example in examples]
    prompts = [list(encode_prompt(reader.tokenizer, q.prompt)) for ask in asks for q in ask.questions]
    _check_room(label, asks, prompts, reader.context)
    return Asked(label, task, examples, asks, prompts)


def run_task(asked: Asked, subject: Subject, say: Say = lambda *_: None) -> TaskResult:
    """Ask the model and score what it says."""
    start = time.perf_counter()
    asks, task = asked.asks, asked.task
    logps = subject.logps(
        [segment.tokens for ask in asks for segment in ask.segments],
        lambda done, total: say(f"{asked.label}: sequences", done, total),
    )
    questions = [question for ask in asks for question in ask.questions]
    answers = subject.answers(
        [
            _request(question, prompt, number, subject.stop_ids)
            for number, (question, prompt) in enumerate(zip(questions, asked.prompts, strict=True))
        ],
        lambda done, total: say(f"{asked.label}: answers", done, total),
    )
    scored, at, to = [], 0, 0
    for example, ask in zip(asked.examples, asks, strict=True):
        near, far = at + len(ask.segments), to + len(ask.questions)
        reply = Reply(ask, tuple(logps[at:near]), tuple(map(tuple, answers[to:far])))
        scored.append(task.score(example, reply))
        at, to = near, far
    seconds = time.perf_counter() - start
    identity = prompt_identity(task, subject.reader)
    return TaskResult(asked.label, task.settings(), identity, scored, task.scores(), seconds)


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
        for segment in ask.segments:
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
