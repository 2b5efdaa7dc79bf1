"""Who writes and judges the steps: one engine, which keeps what answers begin with, and the model itself."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.construct.tree_search.search import Wanted
from jaxpo.construct.tree_search.tree import NOVEL, Step
from jaxpo.evaluate.final_answer import grade
from jaxpo.judges.ledger import digest
from jaxpo.judges.questions import Question
from jaxpo.judges.verifier import VerifierJudge
from jaxpo.judges.words import word_overlap
from jaxpo.models.family import limits
from jaxpo.sampling.request import Generation, Request, said
from jaxpo.sampling.sampler import Sampler
from jaxpo.sampling.text import encode_prompt

JUDGING = (
    "Question: {question}\n\nThe right answer is {answer}. A solution begins:\n{solution}\n\n"
    "Is it correct so far? Answer Yes or No."
)
"""What the model is asked about a beginning; its confidence is the odds of the two replies."""
REPLIES = ("Yes", "No")


@dataclass(frozen=True)
class Writing:
    """How steps are written.

    Attributes:
      temperature: of the sampling.
      step_tokens: of a step, at most.
      stop: what ends a step, and belongs to it.
      similar: of two steps whose words overlap (F1) more than this the later is dropped.
      evaluate: the model is asked about every step.
      slots: steps in flight at once.
      seed: of the draws.
    """

    temperature: float
    step_tokens: int
    stop: str
    similar: float
    evaluate: bool
    slots: int
    seed: int


class StepWriter:
    """Writes steps after beginnings, and judges them.

    Args:
      network: the searching policy.
      longest: tokens of the longest prompt, with the opened answer.
      depth: steps of an answer.
      verifier: says whether an answer that is over is right.
    """

    def __init__(
        self,
        network: Any,
        writing: Writing,
        verifier: VerifierJudge,
        counts: Counter[str],
        *,
        longest: int,
        depth: int,
        check: Callable[[], None],
    ) -> None:
        self.network, self.writing, self.verifier, self.counts, self.check = network, writing, verifier, counts, check
        needed = longest + depth * (writing.step_tokens + 2)
        self.context = min(needed, limits(network.config).context)
        sized = Request([0] * max(1, self.context - writing.step_tokens), max_new_tokens=writing.step_tokens)
        self.engine = network.engine([sized] * writing.slots, slots=writing.slots)

    def write(self, wanted: Sequence[tuple[Question, Wanted]]) -> list[list[Step]]:
        """The steps after each beginning, near-duplicates dropped; none where there is no room for another."""
        self.check()
        numbers = {}
        for i, (question, want) in enumerate(wanted):
            request = self._request(question, want)
            if len(request.prompt) + request.max_new_tokens > self.context:
                self.counts["beginnings_without_room"] += 1
                continue
            numbers[self.engine.submit(request)] = i
        written: list[list[Generation]] = [[] for _ in wanted]
        while self.engine.busy:
            for done in self.engine.step():
                written[numbers[done.request]].append(done)
        steps = [
            self._distinct([self._step(question, want, one) for one in sorted(own, key=lambda g: g.sample)])
            for (question, want), own in zip(wanted, written, strict=True)
        ]
        return self._judged(wanted, steps) if self.writing.evaluate else steps

    def _request(self, question: Question, want: Wanted) -> Request:
        tokenizer, how = self.network.tokenizer, self.writing
        begun = tokenizer.encode(want.prefix) if want.prefix else []
        return Request(
            prompt=[*encode_prompt(tokenizer, question.prompt), *begun],
            n=want.count,
            sampler=Sampler(temperature=how.temperature),
            max_new_tokens=how.step_tokens,
            stop=(how.stop,),
            seed=how.seed,
            number=int(digest(question.prompt, want.prefix), 16) % 2**31,
        )

    def _step(self, question: Question, want: Wanted, one: Generation) -> Step:
        """A step; what a stop string ended has it, and what the model ended is the end of the answer."""
        text = said(one) + (self.writing.stop if one.reason == "stop_string" else "")
        ended = one.reason == "stop_id"
        outcome = self._outcome(question, want.prefix + text) if ended else 0.0
        return Step(text, float(np.sum(one.logps, dtype=np.float64)), len(one.tokens), ended, 0.0, outcome)

    def _outcome(self, question: Question, answer: str) -> float:
        if not grade(answer, self.verifier.reference(question.row)):
            return -1.0
        solution = question.given.get("completion")
        return 1.0 if solution is None or solution.split() == answer.split() else NOVEL

    def _distinct(self, steps: list[Step]) -> list[Step]:
        kept: list[Step] = []
        for step in steps:
            alike = any(
                step.ended == other.ended and word_overlap(step.text, other.text) > self.writing.similar
                for other in kept
            )
            if alike or not step.text.strip():
                self.counts["steps_dropped"] += 1
            else:
                kept.append(step)
        return kept

    def _judged(self, wanted: Sequence[tuple[Question, Wanted]], steps: list[list[Step]]) -> list[list[Step]]:
        """The steps with the model's own confidence in each: P(Yes) / (P(Yes) + P(No)) after a prompt that knows the
        right answer."""
        asked = [
            JUDGING.format(
                question=question.prompt if isinstance(question.prompt, str) else question.prompt[-1]["content"],
                answer=self.verifier.reference(question.row),
                solution=want.prefix + step.text,
            )
            for (question, want), own in zip(wanted, steps, strict=True)
            for step in own
        ]
        if not asked:
            return steps
        sure = iter(self._confidences([[{"role": "user", "content": text}] for text in asked]))
        return [[dataclasses.replace(step, confidence=next(sure)) for step in own] for own in steps]

    def _confidences(self, chats: list[Any]) -> list[float]:
        """P(Yes) of each question; 0, none, where it is too long for the model."""
        longest = np.max([self.network.lengths(chats, [reply] * len(chats)) for reply in REPLIES], axis=0)
        fits = longest <= self.network.max_length
        self.counts["steps_unjudged_too_long"] += int((~fits).sum())
        found, asked = np.zeros(len(chats)), [chat for chat, fit in zip(chats, fits, strict=True) if fit]
        if asked:
            yes, no = (self.network.logps(asked, [reply] * len(asked)) for reply in REPLIES)
            found[fits] = np.exp(-np.logaddexp(0.0, no - yes))
        sure: list[float] = found.tolist()
        return sure
