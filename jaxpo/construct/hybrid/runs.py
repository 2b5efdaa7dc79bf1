"""Proxy runs: what a model was trained with, and how good it became. One JSON object per line:

    {"counts": {FEATURE: number of human-labelled instances that have it}, "metric": 0.71, "humans": 1200}

Whoever trained the proxies, by `ProxyRuns` or elsewhere, the file is what a performance model is fitted to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxpo.construct.hybrid.features import Feature, parse
from jaxpo.data.rows.formats import Row, read_rows

LEAST = 10
"""Fewer runs say nothing on the fifth that is held out."""


@dataclass(frozen=True)
class Runs:
    """All runs of a file.

    Attributes:
      counts: phi, `[M, F]`.
      metric: y, `[M]`.
    """

    features: tuple[Feature, ...]
    counts: np.ndarray
    metric: np.ndarray


def read_runs(files: Iterable[str | Path]) -> Runs:
    """The runs of files; DataError names file, row, field and remedy."""
    rows = list(read_rows(files))
    names = list(_counts(rows[0]))
    for row in rows:
        if list(_counts(row)) != names:
            raise row.error("has other features than the runs before.", field="counts", remedy="Give runs of one set.")
    if len(rows) < LEAST:
        raise rows[-1].error(f"{len(rows)} runs are too few to fit a model to.", remedy=f"Give at least {LEAST}.")
    values = np.asarray([list(_counts(row).values()) for row in rows], np.float64)
    return Runs(tuple(map(parse, names)), values, np.asarray([_metric(row) for row in rows]))


def run_row(
    features: Sequence[Feature], counts: np.ndarray, metric: float, humans: int, rows: int
) -> dict[str, object]:
    """One line of the file."""
    named = dict(zip(map(str, features), np.asarray(counts, np.int64).tolist(), strict=True))
    return {"counts": named, "metric": metric, "humans": humans, "rows": rows}


def _counts(row: Row) -> dict[str, float]:
    value = row.data.get("counts")
    if not isinstance(value, dict) or not value or not all(isinstance(x, int | float) for x in value.values()):
        raise row.error("must give a number for each feature.", field="counts")
    return value


def _metric(row: Row) -> float:
    value = row.data.get("metric")
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise row.error(f"must be a number, found {value!r}.", field="metric", remedy="Give how good the model became.")
    return float(value)
