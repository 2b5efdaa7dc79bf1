"""HyPER's training data: pairs by the human or the judge's label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxpo.construct.base import Construction, Tools
from jaxpo.construct.hybrid.instances import HUMAN, Instance, labelled, read_instances
from jaxpo.construct.hybrid.routing import share_of
from jaxpo.data.rows.formats import Row


@dataclass(frozen=True)
class HybridPrefs(Construction):
    """Pairs by the label that each instance is routed to; ties are dropped.

    Attributes:
      labels: "route" takes the column `route` that `jaxpo data route` writes; "human" and "ai" one source for all;
        "random" a share of humans, to compare with.
      share: of "random", rounded down.
    """

    labels: Literal["route", "human", "ai", "random"] = "route"
    share: float = 0.5

    NAME = "hybrid_prefs"
    READS = "prompt, responses: [a, b], human and ai: 1, 2 or 0 for a tie [, route: human or ai]"
    WRITES = "prompt, chosen, rejected, label_from, and user and group where they are there"

    def problems(self) -> list[str]:
        return [] if 0 <= self.share <= 1 else [f"--share is {self.share} but must be from 0 to 1."]

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        instances = read_instances(rows)
        mask = self._mask(instances, tools.seed)
        tools.count("dropped_ties", len(instances))
        for _, pair in labelled(instances, mask):
            tools.count("dropped_ties", -1)
            tools.count(f"labels_{pair['label_from']}")
            yield pair

    def _mask(self, instances: Sequence[Instance], seed: int) -> np.ndarray:
        if self.labels == "route":
            return np.asarray([_route(one) for one in instances])
        if self.labels == "random":
            chosen = np.random.default_rng(seed).permutation(len(instances)) < share_of(self.share, len(instances))
            return np.asarray(chosen)
        return np.full(len(instances), self.labels == HUMAN)


def _route(one: Instance) -> bool:
    value = one.row.data.get("route")
    if value not in ("human", "ai"):
        raise one.row.error(
            f"is {value!r}.",
            field="route",
            remedy="Let `jaxpo data route` write it, or set --labels human, ai or random.",
        )
    return value == HUMAN
