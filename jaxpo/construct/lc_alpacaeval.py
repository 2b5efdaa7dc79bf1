"""AlpacaEval's annotations: a judge compares a model's outputs with a baseline's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxpo.construct.base import Construction, Tools, not_positive
from jaxpo.data.rows.formats import Row
from jaxpo.evaluate.alpaca.files import Output, annotation_row, outputs_of, read_outputs
from jaxpo.judges.asking import Item
from jaxpo.judges.named import JudgeOptions


@dataclass(frozen=True)
class LCAlpacaEval(JudgeOptions, Construction):
    """Outputs beside the baseline's, each with a judge's preference: 1 for the baseline ... 2 for the model.

    The file is what `jaxpo eval --tasks alpaca:FILE` reads, and AlpacaEval's own form. An answer that gets no score
    leaves its row without a preference.

    Attributes:
      baseline: the baseline's outputs (instruction, output, generator) of the same instructions.
      preference: "soft" is 1 + sigmoid(difference of the scores / score_temperature); "hard" is 1, 1.5 or 2.
      score_temperature: of the difference.
      judge, judge_model, judge_key, judge_rubric, judge_scale, answer: who scores, as of on_policy.
    """

    baseline: str = "baseline.json"
    preference: Literal["soft", "hard"] = "soft"
    score_temperature: float = 1.0

    NAME = "lc_alpacaeval"
    READS = "a model's outputs (instruction, output, generator)"
    WRITES = "instruction, output_1 and generator_1 of the baseline, output_2 and generator_2, annotator, preference"

    def problems(self) -> list[str]:
        return not_positive(score_temperature=self.score_temperature)

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        outputs, theirs = outputs_of(rows), {one.name: one for one in read_outputs(Path(self.baseline))}
        for one in outputs:
            if one.name not in theirs:
                raise one.row.error(
                    f"the instruction {one.name[0][:60]!r} is not one of the baseline's ({self.baseline}).",
                    field="instruction",
                    remedy="Give both outputs of the same instructions.",
                )
        baselines = [theirs[one.name] for one in outputs]
        items = {(id(one), side): _item(one) for one, side in _sides(outputs, baselines)}
        scores = tools.judged(self.judges(), list(items.values()))
        for output, baseline in zip(outputs, baselines, strict=True):
            both = [scores.get(items[id(x), side].key(None)) for x, side in ((baseline, 1), (output, 2))]
            preference = None if None in both else self.preferred(*both)  # type: ignore[arg-type]
            tools.count("without_preference", int(preference is None))
            yield annotation_row(output, baseline, preference, "+".join(self.judge))

    def preferred(self, baseline: float, model: float) -> float:
        """The preference that two scores mean."""
        difference = model - baseline
        if self.preference == "hard":
            return 1.5 + 0.5 * float(np.sign(difference))
        return 1 + float(np.exp(-np.logaddexp(0, -difference / self.score_temperature)))


def _sides(outputs: Sequence[Output], baselines: Sequence[Output]) -> Iterator[tuple[Output, int]]:
    for output, baseline in zip(outputs, baselines, strict=True):
        yield baseline, 1
        yield output, 2


def _item(one: Output) -> Item:
    return Item([{"role": "user", "content": one.name[0]}], one.text, one.row)
