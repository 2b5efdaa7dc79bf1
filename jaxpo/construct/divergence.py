"""How far a model is from another: KL divergence on answers that it writes, as a stage of a recipe."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpo.config import Work
from jaxpo.config.places import OtherFile
from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.data.rows.texts import text_of_column
from jaxpo.errors import DataError

if TYPE_CHECKING:
    from jaxpo.construct.context import WorkContext

FIGURES = "divergence.json"


@dataclass(frozen=True)
class Divergence(Work):
    """KL(model || other) of answers that `model` samples: at every token over the whole vocabulary, along each answer.

    The sum along an answer estimates the divergence of whole answers without bias. Writes `divergence.json`.

    Attributes:
      model: the stage that answers.
      other: the stage that it is compared with.
      prompts: files with a column `prompt`.
      max_prompts: only the first so many rows.
      max_new_tokens: of an answer, sampled at temperature 1: the divergence is one of the models' own distributions.
      max_length: tokens of prompt and answer together.
    """

    name: str = "divergence"
    model: str = "previous"
    other: str = ""
    prompts: tuple[OtherFile, ...] = ()
    max_prompts: int = 64
    max_new_tokens: int = 64
    max_length: int = 1024

    def outputs(self) -> tuple[str, ...]:
        return (FIGURES,)

    def inputs(self) -> tuple[str, ...]:
        return self.prompts

    def needed_models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.model, *((self.other,) if self.other else ()))))

    def problems(self) -> list[str]:
        found = super().problems()
        if not self.prompts:
            found.append("prompts names no file.")
        if not self.other:
            found.append("other names no stage that the model is compared with.")
        for name in ("max_prompts", "max_new_tokens"):
            if getattr(self, name) < 1:
                found.append(f"{name} is {getattr(self, name)} but must be at least 1.")
        return found

    def check_inputs(self, files: Sequence[Path]) -> None:
        for row in self._rows(files):
            text_of_column(row, "prompt")

    def _rows(self, files: Sequence[Path]) -> list[Row]:
        return list(islice(read_rows(files), self.max_prompts))

    def run(self, context: WorkContext) -> dict[str, Any]:
        network, other = context.network(self.model, self.max_length), context.network(self.other)
        prompts = [text_of_column(row, "prompt") for row in self._rows(context.files(self.prompts))]
        context.check()
        drawn = network.generate(
            prompts, 1, temperature=1.0, top_k=0, max_new_tokens=self.max_new_tokens, seed=context.seed
        )
        written = [(prompt, answer) for prompt, (answer,) in zip(prompts, drawn, strict=True) if answer]
        if not written:
            raise DataError(f"stage {self.name}: {self.model} wrote no answer to any of {len(prompts)} prompts.")
        total, tokens = divergence_along(network, other, *zip(*written, strict=True))
        report = {
            "answers": len(written),
            "tokens": tokens,
            "kl_per_answer": total / len(written),
            "kl_per_token": total / tokens,
        }
        (context.folder / FIGURES).write_text(json.dumps(report) + "\n", encoding="utf-8")
        context.say(
            f"KL({self.model} || {self.other}): {report['kl_per_token']:.4g} nats per token, "
            f"{report['kl_per_answer']:.4g} per answer"
        )
        return report


def divergence_along(network: Any, other: Any, prompts: Sequence[Any], answers: Sequence[str]) -> tuple[float, int]:
    """Sum of KL(network || other) over the tokens of answers, nats, and how many these are."""
    from jaxpo.evaluate.score import each_segment
    from jaxpo.judges.network import ROWS

    segments = network.segments(prompts, answers)
    run = functools.partial(_kl, network.scorer, other.scorer, network.params["model"], other.params["model"])
    placed = each_segment(run, [s.tokens for s in segments], ROWS, network.max_length)
    found = {place.segment: row[place.span] for place, row in placed}
    total = sum(float(found[i][s.supervised].sum(dtype="float64")) for i, s in enumerate(segments))
    return total, int(sum(s.supervised[1:].sum() for s in segments))


def _kl(scorer: Any, other_scorer: Any, mine: Any, other: Any, batch: Any) -> Any:
    return _compiled()(scorer, other_scorer, mine, other, batch)


@functools.cache
def _compiled() -> Any:
    """`[R, S]`: KL(first || second) of the distributions that each token was drawn from."""
    import jax

    def kl(scorer: Any, other_scorer: Any, mine: Any, other: Any, batch: Any) -> Any:
        return other_scorer.token_stats_and_kl(other, mine, batch, reference_scorer=scorer)[2]

    return jax.jit(kl, static_argnums=(0, 1))
