"""LCPO's EM over a whole data set: whose labels are right, and which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxpo import losses
from jaxpo.construct.base import Construction, Tools
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import PAIRS, Record, detect, read_record

ITERATIONS = 10_000


@dataclass(frozen=True)
class LCPO(Construction):
    """The posterior probability that each label is right, and the reliability of each annotator, by exact EM.

    Attributes:
      base: the pair loss whose two orders are compared; dpo and ipo need --reference, simpo and cpo do not.
      beta: of the base loss.
      simpo_gamma: target margin of the simpo base.
      eta: reliability that every annotator starts with; with calibrated margins the end does not depend on it.
      drop_below: leave out rows whose posterior is smaller; 0 keeps all.
    """

    base: Literal["dpo", "ipo", "simpo", "cpo"] = "dpo"
    beta: float = 0.1
    simpo_gamma: float = 0.5
    eta: float = 0.9
    drop_below: float = 0.0

    NAME = "lcpo"
    READS = "pairs, with a column `annotator` if several people judged them"
    WRITES = "the same rows with a column `posterior`, and prints the reliabilities"

    def needed_networks(self) -> tuple[str, ...]:
        return ("model", "reference") if self.base in ("dpo", "ipo") else ("model",)

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        records = read_pairs(rows)
        names, who = annotators(records)
        margin = self.margins(records, tools)
        posterior, reliability, iterations = losses.lcpo_em(
            jnp.asarray(margin), jnp.asarray(who), len(names), eta=self.eta, max_iterations=ITERATIONS
        )
        for line in summary(names, who, np.asarray(reliability), int(iterations)):
            tools.say(line)
        for record, w in zip(records, np.asarray(posterior).tolist(), strict=True):
            if w < 0.5:
                tools.count("labels_probably_wrong")
            if w < self.drop_below:
                tools.count("dropped_below_posterior")
            else:
                yield {**record.row.data, "posterior": w}

    def margins(self, records: Sequence[Record], tools: Tools) -> np.ndarray:
        """s of each pair: the base loss in the flipped order minus that in the given order, `[n]`."""
        prompts, texts = ([[getattr(r.sides[k], f) for r in records] for k in (0, 1)] for f in ("prompt", "completion"))

        def logps(which: str) -> list[Any]:
            return [jnp.asarray(tools.logps(prompts[k], texts[k], which)) for k in (0, 1)]

        policy = logps("model")
        if self.base in ("dpo", "ipo"):
            formula = losses.lcpo_margin_dpo if self.base == "dpo" else losses.lcpo_margin_ipo
            return np.asarray(formula(*policy, *logps("reference"), beta=self.beta))
        if self.base == "cpo":
            return np.asarray(losses.lcpo_margin_cpo(*policy, beta=self.beta))
        lengths = [jnp.asarray(tools.token_counts(prompts[k], texts[k])) for k in (0, 1)]
        return np.asarray(losses.lcpo_margin_simpo(*policy, *lengths, beta=self.beta, gamma=self.simpo_gamma))

    def problems(self) -> list[str]:
        problems = []
        if not 0 < self.eta < 1:
            problems.append(f"--eta is {self.eta} but must lie between 0 and 1: EM cannot leave the ends.")
        if not self.beta > 0:
            problems.append(f"--beta is {self.beta} but must be greater than 0.")
        if not 0 <= self.drop_below <= 1:
            problems.append(f"--drop-below is {self.drop_below} but must be a probability.")
        return problems


def read_pairs(rows: Sequence[Row]) -> list[Record]:
    """The rows as checked pairs; if the first has an annotator, all must."""
    extras = ("annotator",) if rows and "annotator" in rows[0].data else ()
    records = []
    for row in rows:
        kind = detect(row)
        if kind not in PAIRS:
            raise row.error(f"type {kind!r} holds no pair.", remedy="Give rows with chosen and rejected.")
        records.append(read_record(row, kind, extras=extras))
    return records


def annotators(records: Sequence[Record]) -> tuple[list[str], np.ndarray]:
    """Names in the order of their first appearance, as training numbers them, and each record's number `[n]`."""
    ids: dict[str, int] = {}
    who = [ids.setdefault(str(r.columns.get("annotator", "all")), len(ids)) for r in records]
    return list(ids), np.asarray(who, np.int32)


def summary(names: Sequence[str], who: np.ndarray, reliability: np.ndarray, iterations: int) -> list[str]:
    """Lines for the reader: every annotator's reliability and number of pairs."""
    end = f"{iterations} iterations" if iterations < ITERATIONS else f"not converged after {iterations} iterations"
    pairs = np.bincount(who, minlength=len(names))
    width = max(len(name) for name in names)
    lines = [f"reliability of the labels, by annotator ({end}):"]
    return lines + [
        f"  {name:<{width}}  {eta:.3f}  {n} pairs" for name, eta, n in zip(names, reliability, pairs, strict=True)
    ]
