"""How a model of several tastes serves the users of held-out pairs, beside 'the longer answer is better'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxpo.evaluate.intervals import share, told

LONGER = "longer_wins"


def by_group(
    right: Mapping[str, np.ndarray], groups: Sequence[str], lengths: np.ndarray
) -> dict[str, dict[str, dict[str, Any]]]:
    """Group -> name -> share of pairs that are ordered as its people do, with "longer_wins" beside every name.

    Args:
      right: name -> `[n]` 1 where the better answer of a pair has the larger reward.
      groups: `[n]` of each pair.
      lengths: `[n, 2]` tokens of the better and of the worse answer.
    """
    known = {**right, LONGER: lengths[:, 0] > lengths[:, 1]}
    names = np.asarray(groups)
    parts = {"all": np.ones(len(names), bool), **{str(g): names == g for g in sorted(set(groups))}}
    return {
        group: {name: share(float(values[here].sum()), int(here.sum())).record() for name, values in known.items()}
        for group, here in parts.items()
    }


def as_table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """What `by_group` found as a table of a report: shares with their 95% intervals."""
    names = list(next(iter(found.values())))
    rows = [[group, of[names[0]]["n"], *(told(of[name]) for name in names)] for group, of in found.items()]
    head = ["", "n", *("longer wins" if name == LONGER else name for name in names)]
    return {"title": "Pairs in the order that their people gave them", "head": head, "rows": rows}


def plane(points: np.ndarray, others: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Points `[n, d]` and others in the plane in which the first spread most, `[n, 2]` each.

    The axes are the first two principal directions of the first; with fewer than three points a direction is 0.
    """
    centre = points.mean(axis=0)
    _, _, directions = np.linalg.svd(points - centre, full_matrices=False)
    axes = np.zeros((2, points.shape[1]))
    axes[: min(2, len(directions))] = directions[:2]
    return (points - centre) @ axes.T, [(x - centre) @ axes.T for x in others]
