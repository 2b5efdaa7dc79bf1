"""AlpacaEval 2: how often a judge prefers a model's answers to a baseline's, as found and at equal lengths."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from jaxpo.evaluate.alpaca import glm
from jaxpo.evaluate.alpaca.files import Annotation, Output, holds_annotations, read_outputs
from jaxpo.evaluate.alpaca.study import FITTED, Study
from jaxpo.evaluate.intervals import Measurement
from jaxpo.evaluate.tasks.base import Ask, Question, Reader, Reply, Scored, Task
from jaxpo.evaluate.tasks.files import place, present, spaced
from jaxpo.evaluate.tasks.reading import Score
from jaxpo.sampling.sampler import Sampler

RAW, CONTROLLED, DISCRETE = "win_rate", "length_controlled_winrate", "discrete_win_rate"
OUTPUTS, DIFFICULTIES = "model_outputs.json", "difficulties.jsonl"


@dataclass(frozen=True)
class Answered(Scored):
    """An answer to an instruction, for the file of outputs."""

    output: str = ""


@dataclass(frozen=True)
class Alpaca(Task[Any]):
    """Answers to AlpacaEval's instructions; or the win rates of answers that a judge compared with a baseline's.

    Attributes:
      baseline: outputs of the baseline, whose instructions and answers a judge's file must have; "" = not compared.
      difficulty: of the instructions: a file, "fit" over this file and `others`, or "" for none.
      gamed: files on the baseline told to be long, and told to be short: annotations, or the reference's table.
      others: judge's files on other models, with the same baseline; each gives the win rate against it.
      gamed_weight: lambda.
      positional: difficulties by a row's position in the file, as the reference takes them, instead of by instruction.
      generator: the model's name in the file of outputs.
      max_new_tokens, temperature, top_p, seed: of answers.
    """

    NAME: ClassVar[str] = "alpaca"
    ABOUT: ClassVar[str] = "AlpacaEval 2: win rates against a baseline, as judged and at equal lengths"
    NEEDS: ClassVar[str] = (
        "the baseline's outputs (instruction, output, generator), to be answered; or a judge's annotations "
        "(instruction, output_1, output_2, generator_1, generator_2, preference)"
    )

    baseline: str = ""
    difficulty: str = ""
    gamed: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    gamed_weight: float = glm.GAMED_WEIGHT
    positional: bool = False
    generator: str = "jaxpo"
    max_new_tokens: int = 2048
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.gamed_weight > 0:
            yield f"{self.NAME}.gamed_weight: {self.gamed_weight} must be above 0; leave gamed out for none."
        if self.max_new_tokens < 1:
            yield f"{self.NAME}.max_new_tokens: {self.max_new_tokens} must be at least 1."
        if self.difficulty == FITTED and not self.others:
            yield f"{self.NAME}.difficulty: 'fit' needs several models; name their files with {self.NAME}.others."
        if self.positional and self.difficulty in ("", FITTED):
            yield f"{self.NAME}.positional: needs a file of difficulties; set {self.NAME}.difficulty."
        if self.source and self.asks:
            named = [n for n in ("baseline", "difficulty", "gamed", "others", "positional") if getattr(self, n)]
            for name in named:
                yield f"{self.NAME}.{name}: is about a judge's annotations, which {self.source} does not hold."

    @property
    def asks(self) -> bool:
        path = Path(self.source or "")
        return path.is_file() and not holds_annotations(path)

    @property
    def in_template(self) -> bool:
        return self.asks

    @functools.cached_property
    def study(self) -> Study:
        """The judge's files, read and checked."""
        path = present(self.NAME, self.source or "", self.NEEDS)
        how = (self.baseline, self.difficulty, self.gamed, self.others)
        return Study.read(path, *how, weight=self.gamed_weight, positional=self.positional, limit=self.limit)

    def examples(self) -> list[Any]:
        path = present(self.NAME, self.source or "", self.NEEDS)
        return spaced(read_outputs(path), self.limit) if self.asks else list(self.study.annotations.rows)

    def ask(self, example: Output | Annotation, reader: Reader) -> Ask:
        if not self.asks:
            return Ask()
        prompt = [{"role": "user", "content": example.name[0]}]
        sampler = Sampler(temperature=self.temperature, top_p=self.top_p)
        question = Question(prompt, self.max_new_tokens, (), sampler, 1, self.seed)
        return Ask(questions=(question,), where=place(example.row))

    def scores(self) -> Mapping[str, Score]:
        lengths = {
            "length": Score("characters of the model's answer"),
            "length_baseline": Score("characters of the baseline's answer"),
        }
        if self.asks:
            return lengths
        return {
            RAW: Score("percent, the judge's preference for the model"),
            DISCRETE: Score("percent, preferences above one half; a draw counts one half"),
            f"{RAW}_longer_wins": Score("percent, the same of a judge that prefers the longer answer"),
            **lengths,
        }

    def score(self, example: Output | Annotation, reply: Reply) -> Scored:
        if self.asks:
            assert isinstance(example, Output)
            (text,) = reply.texts
            sizes = {"length": float(len(text)), "length_baseline": float(len(example.text))}
            return Answered(sizes, prompt=example.name[0], answer=text, expected=example.text, output=text)
        assert isinstance(example, Annotation)
        return _judged(example)

    def further(self, scored: Sequence[Any]) -> Mapping[str, Measurement]:
        if self.asks:
            return {}
        found, n = self.study.found, len(self.study.annotations.rows)
        weights = dict(zip((glm.LENGTH, glm.DIFFICULTY, glm.MODEL), found.fit.weights.tolist(), strict=True))
        against = {f"{CONTROLLED}_against_{name}": value for name, value in found.against.items()}
        return {
            CONTROLLED: found.controlled,
            **against,
            **{f"weight_{name}": Measurement(value, n) for name, value in weights.items()},
            **({} if math.isnan(found.fit.strength) else {"regulariser_C": Measurement(found.fit.strength, n)}),
        }

    def notes(self, scored: Sequence[Any]) -> Sequence[str]:
        if self.asks:
            how = f"jaxpo data construct lc_alpacaeval {OUTPUTS} annotations.jsonl --baseline {self.source}"
            return (f"{OUTPUTS} is to be judged: `{how} --judge ...`, or by alpaca_eval itself.",)
        return tuple(self.study.notes())

    def files(self, scored: Sequence[Any]) -> Mapping[str, str]:
        if self.asks:
            rows = [{"instruction": x.prompt, "output": x.output, "generator": self.generator} for x in scored]
            return {OUTPUTS: json.dumps(rows, indent=1, ensure_ascii=False) + "\n"}
        fitted = self.study.fitted
        lines = [
            json.dumps({"instruction": name[0], "difficulty": d}, ensure_ascii=False) for name, d in fitted.items()
        ]
        return {DIFFICULTIES: "\n".join(lines) + "\n"} if lines else {}


def _judged(one: Annotation) -> Scored:
    mine, theirs = len(one.model), len(one.baseline)
    y = float(glm.label_of(one.preference))
    values = {"length": float(mine), "length_baseline": float(theirs)}
    if one.preference == one.preference:
        discrete = 100.0 * (y > 0.5) + 50.0 * (y == 0.5)
        values = {RAW: 100 * y, DISCRETE: discrete} | values
    values[f"{RAW}_longer_wins"] = 100.0 * (mine > theirs) + 50.0 * (mine == theirs)
    return Scored(values, prompt=one.name[0], answer=one.model, expected=one.baseline)
