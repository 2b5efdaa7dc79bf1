"""Examples of every group spread evenly over an epoch, so that every step holds the groups in their shares."""

from __future__ import annotations

import numpy as np

from jaxpo.data.tokens.dataset import Dataset
from jaxpo.errors import DataError

STREAM = 4
"""Of the random generator, beside those of curricula."""
CHUNK = 4096


def spread_order(dataset: Dataset, seed: int) -> np.ndarray:
    """Example numbers in an order that spreads the groups of the column `group`; see `spread`.

    Raises:
      DataError: the rows have no groups.
    """
    if "group" not in dataset.columns:
        remedy = "Add a column `group` to every row, or leave data.spread_groups out."
        raise DataError("there is no column 'group'.", file=dataset.files[0], field="group", remedy=remedy)
    groups = np.empty(len(dataset), np.int64)
    for start in range(0, len(dataset), CHUNK):
        stop = min(start + CHUNK, len(dataset))
        for i, example in enumerate(dataset.store.read(range(start, stop)), start):
            groups[i] = example.columns["group"]
    return spread(groups, seed)


def spread(groups: np.ndarray, seed: int) -> np.ndarray:
    """A permutation in which the members of each group, in random order, lie at equal distances from one another.

        member k of a group of n, shuffled, goes to the place (k + u) / n of the epoch, u random per group

    Every stretch of m examples holds m n / N of them, one more or less.
    """
    rng = np.random.default_rng((seed, STREAM))
    place = np.empty(len(groups))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        place[rng.permutation(members)] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(place, kind="stable")
