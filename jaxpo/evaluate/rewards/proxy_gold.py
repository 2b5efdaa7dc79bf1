"""Whether a proxy reward rises with the gold one while it is trained on: their rank correlation over checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.errors import DataError
from jaxpo.train.metrics import read_metrics


@dataclass(frozen=True)
class Agreement:
    """Of two rewards of answers to the held-out prompts, measurement by measurement.

    Attributes:
      steps: of the checkpoints.
      proxy, gold: mean rewards there.
      spearman: of the two; NaN where one of them never changes.
    """

    steps: tuple[int, ...]
    proxy: tuple[float, ...]
    gold: tuple[float, ...]
    spearman: float


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation, equal values sharing their mean rank; NaN where one of the two is constant.

    rho = cov(rank a, rank b) / (std rank a  std rank b)
    """
    one, two = mean_ranks(np.asarray(a, np.float64)), mean_ranks(np.asarray(b, np.float64))
    one, two = one - one.mean(), two - two.mean()
    size = float(np.sqrt(np.sum(one**2) * np.sum(two**2)))
    return float(np.sum(one * two)) / size if size > 0 else float("nan")


def mean_ranks(x: np.ndarray) -> np.ndarray:
    """`[n]` ranks from 1; equal numbers have the mean of theirs."""
    below = np.sum(x[None, :] < x[:, None], axis=1)
    same = np.sum(x[None, :] == x[:, None], axis=1)
    found: np.ndarray = below + (same + 1) / 2
    return found


def agreement(records: Iterable[Mapping[str, Any]], proxy: str, gold: str, *, where: Path | None = None) -> Agreement:
    """How two rewards agree over the held-out measurements of a stage.

    Args:
      records: of its metrics; those with `eval_rewards/NAME/mean` of both count.
      proxy: the name of the reward that is trained on.
      gold: of the one that is only measured (its weight is 0).

    Raises:
      DataError: fewer than three measurements have both.
    """
    names = [f"eval_rewards/{name}/mean" for name in (proxy, gold)]
    both = (r for r in records if all(r.get(name) is not None for name in names))
    found = [(r["step"], *(r[name] for name in names)) for r in both]
    if len(found) < 3:
        raise DataError(
            f"{len(found)} measurements have {names[0]} and {names[1]}, and ranks need at least 3.",
            file=where,
            remedy="Name two rewards of an online stage with held-out prompts, and measure more often (eval_steps).",
        )
    steps, one, two = zip(*found, strict=True)
    return Agreement(steps, one, two, spearman(one, two))


def of_run(folder: Path, proxy: str, gold: str, *, stage: str | None = None) -> Agreement:
    """As `agreement`, of a run's folder.

    Args:
      stage: whose; None = all of the run's.
    """
    file = folder / "metrics.jsonl"
    return agreement((r for r in read_metrics(file) if stage in (None, r.get("stage"))), proxy, gold, where=file)
