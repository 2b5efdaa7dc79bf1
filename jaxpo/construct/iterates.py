"""How the iterates of a recipe of rounds fare against the model they began from, by a preference model's word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpo.config import Work
from jaxpo.config.places import OtherFile
from jaxpo.construct.least import below
from jaxpo.construct.on_policy.samples import draw_samples
from jaxpo.data.rows.formats import read_rows
from jaxpo.errors import ConfigError, DataError
from jaxpo.evaluate.intervals import Measurement, mean, told
from jaxpo.judges.questions import read_questions
from jaxpo.sampling.sampler import Sampler
from jaxpo.train.files import write_json

if TYPE_CHECKING:
    from jaxpo.construct.context import WorkContext
    from jaxpo.judges.network import Network
    from jaxpo.judges.questions import Question

WINS = "wins.json"


@dataclass(frozen=True)
class MeasureIterates(Work):
    """Answers of each iterate against those of the first, to prompts that nothing was trained on.

    One answer of each model to every prompt; the figure is the mean probability, by a stage of `gpm`, that the
    iterate's answer beats the first's, and beside it how often it is the longer one: a preference model may pay for
    length. Writes `wins.json`; the report has the table.

    Attributes:
      prompts: files whose rows have a prompt; one that comes again is asked once.
      models: stages that answer; the first is what the others are compared with.
      preference: the stage whose preference model compares.
      temperature, max_new_tokens: of the answers; one that is cut off counts as it stands.
      max_prompts: only the first so many; None = all.
      max_rows: answers that are drawn at once.
    """

    name: str = "wins"
    prompts: tuple[OtherFile, ...] = ()
    models: tuple[str, ...] = ()
    preference: str = "reward"
    temperature: float = 1.0
    max_new_tokens: int = 128
    max_prompts: int | None = None
    max_rows: int = 64

    def outputs(self) -> tuple[str, ...]:
        return (WINS,)

    def inputs(self) -> tuple[str, ...]:
        return self.prompts

    def needed_models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.models, self.preference)))

    def problems(self) -> list[str]:
        found = super().problems() + below(self, {"max_new_tokens": 1, "max_rows": 1, "temperature": 0.0})
        if len(self.models) < 2:
            found.append(f"models is {self.models!r} but must name the first model and one to compare with it.")
        if not self.prompts:
            found.append("prompts names no file.")
        return found

    def run(self, context: WorkContext) -> dict[str, Any]:
        judge = context.network(self.preference, "whole")
        if not judge.asked_reader().method.COMPARES_ANSWERS:
            raise ConfigError(f"{self.name}.preference: {self.preference!r} compares no answers; name a stage of gpm.")
        questions = self.questions(context)
        answers = {name: self.answers(context, name, questions) for name in self.models}
        asked = [q for q in questions if all(q.number in own for own in answers.values())]
        if not asked:
            raise DataError(f"stage {self.name}: no prompt leaves room for an answer.")
        texts = {name: [own[q.number] for q in asked] for name, own in answers.items()}
        first, *others = self.models
        found = {name: self.compared(judge, asked, texts[name], texts[first]) for name in others}
        write_json(context.folder / WINS, {n: {k: m.record() for k, m in of.items()} for n, of in found.items()})
        rows = [[name, *(told(one.record()) for one in of.values())] for name, of in found.items()]
        head = ["", *(what.replace("_", " ") for what in found[others[0]])]
        title = f"Against {first} on {len(asked)} prompts, by {self.preference}"
        lengths = {f"characters_{name}": float(np.mean([len(text) for text in own])) for name, own in texts.items()}
        return {"prompts": len(asked), **lengths, "tables": [{"title": title, "head": head, "rows": rows}]}

    def questions(self, context: WorkContext) -> list[Question]:
        """Each prompt once."""
        first: dict[str, Question] = {}
        for question in read_questions(list(read_rows(context.files(self.prompts)))):
            first.setdefault(str(question.prompt), question)
        return list(first.values())[: self.max_prompts]

    def answers(self, context: WorkContext, name: str, questions: Sequence[Question]) -> dict[int, str]:
        """One of a stage's model to every prompt that leaves room for it, by the prompt's number."""
        drawn = draw_samples(
            questions,
            context.network(name),
            context.folder,
            n=1,
            sampler=Sampler(temperature=self.temperature),
            max_new_tokens=self.max_new_tokens,
            seed=context.seed,
            max_rows=self.max_rows,
            counts=Counter(),
            say=context.say,
            check=context.check,
        )
        return {number: samples[0].text for number, samples in drawn.items()}

    def compared(
        self, judge: Network, asked: Sequence[Question], own: Sequence[str], other: Sequence[str]
    ) -> dict[str, Measurement]:
        """Means over prompts; answers that are alike are half a win, and so are those of one length."""
        prompts = [q.prompt for q in asked for _ in range(2)]
        texts = [text for pair in zip(own, other, strict=True) for text in pair]
        _, tables = judge.mean_scores(prompts, texts, [2] * len(asked))
        wins = [1.0 / (1.0 + np.exp(-table[0, 1])) for table in tables]
        longer = [0.5 * (1.0 + np.sign(len(a) - len(b))) for a, b in zip(own, other, strict=True)]
        return {"wins": mean(wins), "is_longer": mean(longer)}
