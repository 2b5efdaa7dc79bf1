"""Examples of every group spread evenly over each epoch, so that steps hold the groups in like shares."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxpo.data.tokens.dataset import Dataset
from jaxpo.errors import DataError

STREAM = 4
"""Of the random generator, beside those of curricula."""
CHUNK = 4096


class Spread:
    """An order in which the places of each group lie at equal distances from one another, drawn anew every epoch.

        place k of the q of a group goes to (k + u) / q of the epoch, u random per group and epoch

    Every stretch of m places holds m q / N of a group, up to 1 + G q / N more or less where there are G groups.

    Args:
      groups: int `[E]`, number of each example's group.
      balanced: q is the same for every group, and who stands there goes through the group's members in random order,
        again and again: those of small groups come more than once an epoch, of large ones some in a later one.
        Otherwise q is the number of the group's members, and each comes once.
    """

    repeats = False

    def __init__(self, groups: np.ndarray, seed: int, *, balanced: bool = False):
        self.groups, self.seed, self.balanced = np.asarray(groups, np.int64), seed, balanced
        self._members = [np.flatnonzero(self.groups == group) for group in np.unique(self.groups)]
        alike = max(1, len(self.groups) // max(1, len(self._members)))
        self._places = [alike if balanced else len(members) for members in self._members]
        self.examples = sum(self._places)

    def take(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """int64 `[stop - start]`: the examples at these places of an epoch."""
        found, at = [], []
        for number, (members, q) in enumerate(zip(self._members, self._places, strict=True)):
            found.append(self._endless(number, members, epoch * q, (epoch + 1) * q))
            at.append((np.arange(q) + self._random(number, epoch, 0).random()) / q)
        return np.concatenate(found)[np.argsort(np.concatenate(at), kind="stable")[start:stop]]

    def pieces(self) -> Iterator[bytes]:
        """What the order depends on beside seed and shuffle, for a hash."""
        yield f"spread {self.seed} {self.balanced}".encode()
        yield self.groups.tobytes()

    def _endless(self, number: int, members: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Part of a group's members in random order, in another order each time they have all had their turn."""
        first, last = start // len(members), (stop - 1) // len(members)
        passes = [self._random(number, turn, 1).permutation(members) for turn in range(first, last + 1)]
        return np.concatenate(passes)[start - first * len(members) : stop - first * len(members)]

    def _random(self, number: int, turn: int, use: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, STREAM, number, turn, use))


def spread_order(dataset: Dataset, seed: int, *, balanced: bool) -> Spread:
    """The order that spreads the groups of the column `group`.

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
    return Spread(groups, seed, balanced=balanced)
