"""What a claim is, how it is measured, and when it counts as reproduced.

A claim names its seeds and its threshold before it is run. `run` measures every seed and judges; a claim that does not
reproduce keeps its threshold and says why, and its test pins the value that was measured.
"""

from __future__ import annotations

import importlib
import pkgutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import evidence.claims as claims


@dataclass(frozen=True)
class NotReproduced:
    """An honest failure: why, and the interval in which the mean effect was found instead."""

    reason: str
    observed: tuple[float, float]


@dataclass(frozen=True)
class Claim:
    """What a paper says, as a number that this repository can measure in seconds.

    Attributes:
      method: name in the catalogue.
      paper: arXiv identifier.
      claim: one sentence.
      baseline: what the method is compared with.
      measure: what the effect is; larger is better for the method.
      seeds: of the measurement, fixed beforehand.
      threshold: the mean effect over the seeds must reach it.
      min_share: at least this share of the seeds must have an effect above 0.
      not_reproduced: set after a run that failed.
    """

    method: str
    paper: str
    claim: str
    baseline: str
    measure: str
    seeds: tuple[int, ...]
    threshold: float
    min_share: float = 0.8
    not_reproduced: NotReproduced | None = None


@dataclass(frozen=True)
class Result:
    """One claim, measured: a dictionary with "method", "baseline" and "effect" per seed."""

    name: str
    claim: Claim
    values: tuple[dict[str, float], ...]
    seconds: float

    def mean(self, key: str) -> float:
        """Mean over the seeds."""
        return statistics.fmean(v[key] for v in self.values)

    def spread(self, key: str) -> float:
        """Standard deviation over the seeds; 0 for one seed."""
        return statistics.stdev(v[key] for v in self.values) if len(self.values) > 1 else 0.0

    @property
    def share(self) -> float:
        """Share of the seeds whose effect has the claimed sign."""
        return sum(v["effect"] > 0 for v in self.values) / len(self.values)

    @property
    def reproduced(self) -> bool:
        """Whether the claim holds as it was registered."""
        return self.mean("effect") >= self.claim.threshold and self.share >= self.claim.min_share


def discover() -> dict[str, ModuleType]:
    """Name -> module of every claim."""
    names = sorted(module.name for module in pkgutil.iter_modules(claims.__path__) if not module.name.startswith("_"))
    return {name: importlib.import_module(f"evidence.claims.{name}") for name in names}


def run(name: str, module: ModuleType, say: Callable[[str], None] = lambda line: None) -> Result:
    """Measure a claim on all its seeds."""
    began = time.perf_counter()
    values = []
    for seed in module.CLAIM.seeds:
        values.append({key: float(value) for key, value in module.measure(seed).items()})
        say(f"{name}: seed {seed}: " + ", ".join(f"{key} {value:.4g}" for key, value in values[-1].items()))
    return Result(name, module.CLAIM, tuple(values), time.perf_counter() - began)
