"""From proxy runs and a set of instances to who labels which; and the stage of a recipe that does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxpo.config import Work
from jaxpo.config.places import OtherFile
from jaxpo.construct.base import Tools
from jaxpo.construct.hybrid.features import matrix
from jaxpo.construct.hybrid.instances import AI, HUMAN, Instance, read_instances
from jaxpo.construct.hybrid.performance import Kind, fit, gains, held_out
from jaxpo.construct.hybrid.routing import SIMULATIONS, Router, Strategy, size_of
from jaxpo.construct.hybrid.runs import Runs, read_runs
from jaxpo.construct.hybrid.subsets import counts
from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.json_lines import write_jsonl

ROUTED = "routed.jsonl"


@dataclass(frozen=True)
class Routing:
    """How a set is routed; the same options as `jaxpo data route` has.

    Attributes:
      budget: instances for people: a share from 0 to 1, rounded down, or a number above 1.
      performance: the model that is fitted to the runs: least squares on counts, on counts and their products, or
        boosted trees.
      strategy, simulations, threshold: as of `Router`.
      edges: what an instance on the edge of two bins has when gains are computed: "closed" both features, as counts do,
        "strict" neither, as in the reference.
      curve: budgets whose predicted metric is shown.
    """

    budget: float = 0.5
    performance: Kind = "linear"
    strategy: Strategy = "topk"
    simulations: int = SIMULATIONS
    threshold: float | None = None
    edges: Literal["closed", "strict"] = "closed"
    curve: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)

    def problems(self) -> list[str]:
        """Options out of range, one sentence each."""
        found = [
            f"--{name} is {value} but must be at least 0."
            for name, values in (("budget", (self.budget,)), ("curve", self.curve))
            for value in values
            if not value >= 0
        ]
        if self.simulations < 1:
            found.append(f"--simulations is {self.simulations} but must be at least 1.")
        return found

    def routed(
        self, instances: Sequence[Instance], runs: Runs, tools: Tools
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The rows with `route` and `gain`, and what the performance model says: its error, coefficients, the curve."""
        model = fit(runs.counts, runs.metric, self.performance, tools.seed)
        has = matrix(instances, runs.features, tools)
        strict = matrix(instances, runs.features, tools, strict=True) if self.edges == "strict" else has
        gained, router = gains(model, strict), Router(self.strategy, self.simulations, self.threshold)
        n = len(instances)

        def mask_of(budget: float) -> np.ndarray:
            return router.route(model, has, size_of(budget, n), np.random.default_rng(tools.seed), gained)

        mask = mask_of(self.budget)
        error = held_out(runs.counts, runs.metric, self.performance, tools.seed)
        report = {
            "instances": n,
            "humans": int(mask.sum()),
            "without_features": int((~has.any(1)).sum()),
            "predicted": float(model.predict(counts(has, mask)[None])[0]),
            "runs": len(runs.metric),
            "rmse": error.rmse,
            "spearman": error.spearman if np.isfinite(error.spearman) else None,
            "curve": {f"{b:g}": float(model.predict(counts(has, mask_of(b))[None])[0]) for b in self.curve},
        }
        if self.performance == "linear":
            named = zip(map(str, runs.features), model.coefficients.tolist(), strict=True)
            report["coefficients"] = dict(sorted(named, key=lambda pair: -pair[1]))
        rows = [
            {**one.row.data, "route": HUMAN if human else AI, "gain": float(gain)}
            for one, human, gain in zip(instances, mask, gained, strict=True)
        ]
        return rows, report


@dataclass(frozen=True)
class Route(Work):
    """Route a set between two stages: writes `routed.jsonl`, whose pairs `Construct(HybridPrefs())` makes.

    Attributes:
      rows: instances: prompt, responses and, where they are there already, human and ai.
      runs: proxy runs, of this set or of another.
      routing: how.
      model: the stage whose model embeds answers, where a feature is `cosine_sim`; "" = none.
      max_length: tokens of an answer that it reads.
    """

    name: str = "route"
    rows: tuple[OtherFile, ...] = ()
    runs: tuple[OtherFile, ...] = ()
    routing: Routing = Routing()
    model: str = ""
    max_length: int = 1024

    def outputs(self) -> tuple[str, ...]:
        return (ROUTED,)

    def inputs(self) -> tuple[str, ...]:
        return (*self.rows, *self.runs)

    def needed_models(self) -> tuple[str, ...]:
        return (self.model,) if self.model else ()

    def problems(self) -> list[str]:
        found = [*self.routing.problems(), *(f"{n} names no file." for n in ("rows", "runs") if not getattr(self, n))]
        return found if self.max_length > 1 else [*found, f"max_length is {self.max_length} but must be at least 2."]

    def check_inputs(self, files: Sequence[Path]) -> None:
        read_instances(list(read_rows(files[: len(self.rows)])))
        read_runs(files[len(self.rows) :])

    def run(self, context: Any) -> dict[str, Any]:
        networks = {"model": context.network(self.model, self.max_length)} if self.model else {}
        tools = Tools(context.seed, networks, say=context.say, check=context.check)
        instances = read_instances(list(read_rows(context.files(self.rows))))
        rows, report = self.routing.routed(instances, read_runs(context.files(self.runs)), tools)
        write_jsonl(context.folder / ROUTED, rows)
        return report
