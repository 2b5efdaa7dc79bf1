"""Proxy runs as a stage of a recipe: many cheap reward models, each on another mix of human and judge's labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.config import Work
from jaxpo.config.places import OtherFile
from jaxpo.construct.base import Tools
from jaxpo.construct.hybrid.features import LEXICAL, discovered, matrix
from jaxpo.construct.hybrid.instances import AI, HUMAN, Instance, read_instances
from jaxpo.construct.hybrid.runs import LEAST, run_row
from jaxpo.construct.hybrid.subsets import counts, random_subsets
from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.data.rows.json_lines import write_jsonl
from jaxpo.data.rows.rows import read_record
from jaxpo.data.rows.texts import Text
from jaxpo.errors import DataError

RUNS = "runs.jsonl"


@dataclass(frozen=True)
class ProxyRuns(Work):
    """M reward models on random mixes of labels: a Bradley-Terry head on a frozen model's states each.

    Writes `runs.jsonl`: of each its counts of features among human-labelled instances, and its accuracy on held-out
    pairs.

    Attributes:
      rows: instances with both labels: prompt, responses, human, ai.
      heldout: pairs (prompt, chosen, rejected) that every proxy is measured on.
      model: the stage whose states are read; "previous" is the last one that has a model.
      features: words, as of `jaxpo.construct.hybrid.features.discovered`.
      runs: M.
      sample: pairs of each proxy's set at most.
      penalty: of the squared norm of a head, over 2.
      max_length: tokens of a text that the model reads.
    """

    name: str = "proxies"
    rows: tuple[OtherFile, ...] = ()
    heldout: tuple[OtherFile, ...] = ()
    model: str = "previous"
    features: tuple[str, ...] = LEXICAL
    runs: int = 200
    sample: int = 7000
    penalty: float = 1.0
    max_length: int = 1024

    def outputs(self) -> tuple[str, ...]:
        return (RUNS,)

    def inputs(self) -> tuple[str, ...]:
        return (*self.rows, *self.heldout)

    def needed_models(self) -> tuple[str, ...]:
        return (self.model,)

    def problems(self) -> list[str]:
        found = [f"{name} names no file." for name in ("rows", "heldout") if not getattr(self, name)]
        if self.runs < LEAST:
            found.append(f"runs is {self.runs} but must be at least {LEAST}.")
        if self.sample < 1:
            found.append(f"sample is {self.sample} but must be at least 1.")
        if not self.penalty > 0:
            found.append(f"penalty is {self.penalty} but must be above 0.")
        if self.max_length < 2:
            found.append(f"max_length is {self.max_length} but must be at least 2.")
        if not self.features:
            found.append("features is empty; name some.")
        return found

    def check_inputs(self, files: Sequence[Path]) -> None:
        instances = read_instances(list(read_rows(files[: len(self.rows)])))
        for one in instances:
            for source in (HUMAN, AI):
                one.pair(source)
        for row in read_rows(files[len(self.rows) :]):
            read_record(row, "preference")

    def run(self, context: Any) -> dict[str, Any]:
        networks = {"model": context.network(self.model, self.max_length)}
        tools = Tools(context.seed, networks, say=context.say, check=context.check)
        instances = read_instances(list(read_rows(context.files(self.rows))))
        features = discovered(instances, self.features)
        has = matrix(instances, features, tools)
        if not has.any():
            raise DataError(
                "no instance has a feature.", file=context.files(self.rows)[0], remedy="Name other features."
            )
        x, test = _differences(instances, tools), _held_out(list(read_rows(context.files(self.heldout))), tools)
        scale = float(np.sqrt(np.mean(x * x))) or 1.0
        rng, made = np.random.default_rng(context.seed), []
        for mask in random_subsets(has, self.runs, rng):
            context.check()
            made.append(self._proxy(instances, mask, has, features, x / scale, test / scale, rng))
        write_jsonl(context.folder / RUNS, made)
        metric = [row["metric"] for row in made]
        return {"runs": len(made), "features": len(features), "least": min(metric), "largest": max(metric)}

    def _proxy(
        self,
        instances: Sequence[Instance],
        mask: np.ndarray,
        has: np.ndarray,
        features: Sequence[Any],
        x: np.ndarray,
        test: np.ndarray,
        rng: np.random.Generator,
    ) -> dict[str, Any]:
        label = np.asarray([one.labels[HUMAN if human else AI] for one, human in zip(instances, mask, strict=True)])
        # As the reference counts: what ties and the sample leave of the mask.
        kept = rng.permutation(np.flatnonzero(label))[: self.sample]
        sign = np.where(label[kept] == 1, 1.0, -1.0)
        head = bradley_terry_head(x[kept] * sign[:, None], self.penalty)
        humans = np.zeros(len(mask), bool)
        humans[kept] = mask[kept]
        accuracy = float(np.mean(test @ head > 0))
        return run_row(features, counts(has, humans), accuracy, int(humans.sum()), len(kept))


def bradley_terry_head(better: np.ndarray, penalty: float) -> np.ndarray:
    """argmin_w penalty |w|^2 / 2 + sum softplus(-w . (better - worse)), `[D]`.

    Args:
      better: states of the better answer less those of the worse, `[n, D]`.
    """
    from sklearn.linear_model import LogisticRegression

    both = np.concatenate([better, -better])
    label = np.repeat([1, 0], len(better))
    # Each pair stands twice, once each way round, so the loss is twice its own.
    found = LogisticRegression(C=0.5 / penalty, fit_intercept=False, max_iter=1000).fit(both, label)
    return np.asarray(found.coef_[0])


def _differences(instances: Sequence[Instance], tools: Tools) -> np.ndarray:
    """States of the first answer less those of the second, `[N, D]`."""
    first, second = (_states([(one.prompt, one.responses[side]) for one in instances], tools) for side in (0, 1))
    return first - second


def _held_out(rows: Sequence[Row], tools: Tools) -> np.ndarray:
    sides = [read_record(row, "preference").sides for row in rows]
    chosen, rejected = (_states([(pair[i].prompt or "", pair[i].completion) for pair in sides], tools) for i in (0, 1))
    return chosen - rejected


def _states(pairs: Sequence[tuple[Text, Text]], tools: Tools) -> np.ndarray:
    """Mean state over a prompt with its answer, `[n, D]`."""
    return np.asarray(tools.embed([f"{_text(prompt)}\n{_text(answer)}" for prompt, answer in pairs]), np.float64)


def _text(text: Text) -> str:
    return text if isinstance(text, str) else "\n".join(str(turn["content"]) for turn in text)
