"""What a run counts on the host. It is stored with every checkpoint, so that a resumed run continues its sums."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxpo.objectives.base import Difference, Max, Mean, Metric, Min

_KINDS = {Mean: "mean", Max: "max", Min: "min", Difference: "difference"}
_MERGE: dict[str, Callable[[float, float], float]] = {
    "mean": operator.add,
    "difference": operator.add,
    "max": lambda a, b: float(np.maximum(a, b)),
    "min": lambda a, b: float(np.minimum(a, b)),
}
_NOTHING = {"max": -math.inf, "min": math.inf}
_LAST = ("learning_rate",)
"""Reported as of the last step of a window: a mean would name a value that was never used."""


class Window:
    """Metrics merged over the steps between two log lines, in float64: means by total and count, extremes."""

    def __init__(self, entries: Mapping[str, list[Any]] | None = None):
        self.entries: dict[str, list[Any]] = {k: list(v) for k, v in (entries or {}).items()}

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Merge one step's metrics (already on the host)."""
        for name, metric in metrics.items():
            kind, new = _KINDS[type(metric)], _numbers(metric)
            old = self.entries.get(name)
            if old is None or name in _LAST:
                self.entries[name] = [kind, *new]
            else:
                self.entries[name] = [kind, *map(_MERGE[kind], old[1:], new)]

    def values(self) -> dict[str, float]:
        """Name -> value; means and extremes of nothing are left out, for 0 would be taken for a measurement."""
        out: dict[str, float] = {}
        for name, (kind, *numbers) in self.entries.items():
            if kind in _NOTHING:
                out |= {name: numbers[0]} if numbers[0] != _NOTHING[kind] else {}
            elif all(numbers[1::2]):  # the counts
                plus, *minus = (total / count for total, count in zip(numbers[::2], numbers[1::2], strict=True))
                out[name] = plus - sum(minus)
        return out


def _numbers(metric: Metric) -> list[float]:
    """What of a metric is merged: totals and counts in turn, or the extreme."""
    if isinstance(metric, Difference):
        return [*_numbers(metric.plus), *_numbers(metric.minus)]
    return [float(metric.total), float(metric.count)] if isinstance(metric, Mean) else [float(metric.x)]


@dataclass
class Progress:
    """Counters of a stage.

    Attributes:
      num_tokens: real (not padding) tokens processed since the stage began.
      samples: examples processed.
      runtime: seconds spent in `fit`, over all processes that worked on this stage one after another.
      window: metrics since the last log line.
      total: the loss over the whole stage.
      eval_due: the evaluation of the last step was put off, because a signal asked to stop.
      best: {"metric", "value", "step"} of the best evaluation so far, or empty.
    """

    num_tokens: int = 0
    samples: int = 0
    runtime: float = 0.0
    window: Window = field(default_factory=Window)
    total: Window = field(default_factory=Window)
    eval_due: bool = False
    best: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "num_tokens": self.num_tokens,
            "samples": self.samples,
            "runtime": self.runtime,
            "window": {k: _encode(v) for k, v in self.window.entries.items()},
            "total": {k: _encode(v) for k, v in self.total.entries.items()},
            "eval_due": self.eval_due,
            "best": self.best,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Progress:
        window, total = ({k: _decode(v) for k, v in stored[name].items()} for name in ("window", "total"))
        return cls(
            num_tokens=stored["num_tokens"],
            samples=stored["samples"],
            runtime=stored["runtime"],
            window=Window(window),
            total=Window(total),
            eval_due=stored["eval_due"],
            best=dict(stored["best"]),
        )

    def improves(self, metric: str, value: float, step: int) -> bool:
        """Note an evaluation; True when it is the best so far."""
        if not math.isfinite(value):
            return False
        sign = 1 if lower_is_better(metric) else -1
        # Of another metric, chosen when the run went on, there is no best yet.
        known = self.best.get("metric") == metric
        if known and sign * value >= sign * self.best["value"]:
            return False
        self.best = {"metric": metric, "value": value, "step": step}
        return True


def lower_is_better(metric: str) -> bool:
    """Whether a metric's name says that small values are good."""
    return any(word in metric.lower() for word in ("loss", "perplexity", "nll", "bits", "kl", "error"))


def _encode(entry: list[Any]) -> list[Any]:
    # JSON has no inf or nan: as text they survive.
    return [x if isinstance(x, str) or math.isfinite(x) else f"{x}" for x in entry]


def _decode(entry: list[Any]) -> list[Any]:
    return [entry[0], *(float(x) for x in entry[1:])]
