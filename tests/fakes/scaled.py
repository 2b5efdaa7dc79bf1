"""A kind of stage that only the tests know: its configuration, its method, its check, and its entry in the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxpo.config import Run, Stage
from jaxpo.objectives.base import Objective, Out
from jaxpo.objectives.methods.base import number
from jaxpo.objectives.next_token import NextTokenOfDocuments
from jaxpo.recipe.kind import Kind
from jaxpo.recipe.measured import LANGUAGE


@dataclass(frozen=True)
class Scaled(Stage):
    """Next-token prediction whose loss is multiplied by `scale`."""

    name: str = "scaled"
    scale: float = 0.5


@dataclass(frozen=True)
class ScaledTokens(NextTokenOfDocuments):
    """The scaled loss; reports `surprise`, the entropy under another name."""

    scale: float = number(0.5, above=0)

    def objective(self, scorer: Any, options: Any) -> Objective:
        plain = super().objective(scorer, options)

        def loss(features: Any, batch: Any, carry: Any, counts: Any) -> Out:
            out = plain.loss(features, batch, carry, counts)
            metrics = out.metrics | {"surprise": out.metrics["entropy"]}
            return dataclasses.replace(out, loss=self.scale * out.loss, metrics=metrics)

        return dataclasses.replace(plain, loss=loss)


def scale_problems(run: Run, index: int, stage: Scaled) -> Iterator[str]:
    if not stage.scale > 0:
        yield f"{stage.name}.scale: {stage.scale:g} must be above 0."


@dataclass(frozen=True)
class Again:
    """A source of its own: every batch of the stage's rows twice. As a feed it remembers the last one."""

    rows: Any

    @property
    def hash(self) -> str:
        return f"{self.rows.hash} again"

    def total_steps(self, stage: Stage) -> int:
        return 2 * self.rows.total_steps(stage)

    def epoch_of(self, rows_seen: int) -> float:
        return self.rows.epoch_of(rows_seen)

    def figures_of(self, rows_seen: int) -> dict[str, float]:
        return {}

    def open(self, rows_seen: int, steps: int) -> AgainFeed:
        return AgainFeed(self.rows.open(rows_seen, steps))


class AgainFeed:
    def __init__(self, feed: Any):
        self.feed, self.seen = feed, []

    def next(self, state: Any) -> Any:
        if not self.seen:
            self.seen = [self.feed.next(state)] * 2
        return self.seen.pop()

    def settle(self) -> None:
        self.feed.settle()

    def close(self) -> None:
        self.feed.close()


KIND = Kind(
    "train",
    "language",
    default=lambda stage: ScaledTokens(stage.scale),
    metrics=(*LANGUAGE, "surprise"),
    checks=(scale_problems,),
    make_source=lambda materials: Again(materials.rows),
)
