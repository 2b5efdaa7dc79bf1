"""IFEval (Zhou et al. 2023, arXiv 2311.07911): instructions whose following can be checked by a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxpo.evaluate.ifeval.kinds import KINDS
from jaxpo.evaluate.ifeval.prompts import NEEDS, Instructed, one_of_each, read_prompts
from jaxpo.evaluate.ifeval.score import Followed, follow
from jaxpo.evaluate.tasks.base import Ask, Reader, Reply, Scored
from jaxpo.evaluate.tasks.files import spaced
from jaxpo.evaluate.tasks.generative import Generative
from jaxpo.evaluate.tasks.reading import Score
from jaxpo.sampling.prompts import Prompt

PROMPT_STRICT, INSTRUCTION_STRICT = "prompt_level_strict_acc", "inst_level_strict_acc"
PROMPT_LOOSE, INSTRUCTION_LOOSE = "prompt_level_loose_acc", "inst_level_loose_acc"


@dataclass(frozen=True)
class IFEval(Generative[Instructed]):
    """Share of prompts all of whose instructions are followed, and share of instructions; names as in lm-eval.

    Attributes:
      chat: whether the prompt is what a user says; otherwise it is a text to go on from.
      after: of an answer only what follows the last of these counts (`</think>` of models that reason first), and
        nothing of one without; None = all of it.
      kinds: also the strict share of every kind of instruction.
    """

    NAME: ClassVar[str] = "ifeval"
    ABOUT: ClassVar[str] = "instructions that a program can check, strict and loose"
    NEEDS: ClassVar[str] = NEEDS

    max_new_tokens: int = 1280
    chat: bool = True
    after: str | None = None
    kinds: bool = True

    def examples(self) -> list[Instructed]:
        prompts = spaced(read_prompts(self.NAME, self.source or ""), self.limit)
        for one in one_of_each(prompts):
            # Who tells languages says here, and not when the model has answered, that langdetect is not installed.
            _ = one.followed("PROBE"), one.followed("probe")
        return prompts

    def prompt(self, example: Instructed) -> Prompt:
        return [{"role": "user", "content": example.prompt}] if self.chat else example.prompt

    def ask(self, example: Instructed, reader: Reader) -> Ask:
        return Ask(questions=super().ask(example, reader).questions, where=example.where)

    @property
    def format(self) -> str:
        return f"chat {self.chat}"

    @property
    def in_template(self) -> bool:
        return self.chat

    @property
    def ids(self) -> Sequence[str]:
        """Of the kinds of instruction that there are."""
        return tuple(KINDS)

    def scores(self) -> Mapping[str, Score]:
        found = {
            **self.graded_scores(PROMPT_STRICT, "prompts all of whose instructions are followed"),
            INSTRUCTION_STRICT: Score("instructions that are followed", shares=True),
            PROMPT_LOOSE: self.of_tries("the same, the answer without its first or last line or asterisks"),
            INSTRUCTION_LOOSE: Score("instructions that are followed in this reading", shares=True),
        }
        each = {f"strict_{id}": Score(f"instructions {id} that are followed", shares=True) for id in self.ids}
        return {**found, **each} if self.kinds else found

    def score(self, example: Instructed, reply: Reply) -> Scored:
        tries = [follow(self._counts(text), example.instructions) for text in reply.texts]
        strict, loose = _shares(tries, "strict"), _shares(tries, "loose")
        values = {
            **self.graded(PROMPT_STRICT, [all(one.strict) for one in tries]),
            INSTRUCTION_STRICT: sum(strict),
            PROMPT_LOOSE: sum(all(one.loose) for one in tries) / len(tries),
            INSTRUCTION_LOOSE: sum(loose),
        }
        weights = dict.fromkeys((INSTRUCTION_STRICT, INSTRUCTION_LOOSE), float(len(strict)))
        if self.kinds:
            for instruction, found in zip(example.instructions, strict, strict=True):
                name = f"strict_{instruction.id}"
                values[name] = values.get(name, 0.0) + found
                weights[name] = weights.get(name, 0.0) + 1.0
        return Scored(
            values,
            weights,
            prompt=example.prompt,
            answer=reply.texts[0],
            expected="; ".join(map(_told, example.instructions, tries[0].strict, tries[0].loose)),
            worst=1 - sum(loose) / len(loose),
        )

    def _counts(self, text: str) -> str:
        return text if not self.after else text.rpartition(self.after)[2] if self.after in text else ""


def _shares(tries: Sequence[Followed], reading: str) -> list[float]:
    """Of every instruction, in how many of the tries it was followed."""
    return [sum(hits) / len(hits) for hits in zip(*(getattr(one, reading) for one in tries), strict=True)]


def _told(instruction: object, strict: bool, loose: bool) -> str:
    return f"{instruction}: {'followed' if strict else 'loosely' if loose else 'not followed'}"
