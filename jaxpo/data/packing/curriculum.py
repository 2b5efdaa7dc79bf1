"""From easy to hard: the order of training that a column of difficulties gives, as an order over the packing plan.

Reference: LFM2 Technical Report (arXiv 2511.23404), section 4: training data ordered by predicted difficulty. Number of
phases and the share that is mixed in are unpublished.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from jaxpo.config import Curriculum
from jaxpo.data.packing.best_fit import random_order
from jaxpo.data.rows.files.listing import unsaid
from jaxpo.data.rows.formats import Row, list_files, read_rows
from jaxpo.data.tokens.dataset import Dataset

# Streams of the random generator, so that no two draws of one seed are the same.
MIXED, DEALT, WITHIN = 1, 2, 3
CHUNK = 4096
_LARGEST = 1e300  # of a float, and less than what is not finite
REMEDY = (
    "Every row needs a number, larger for harder ones: `jaxpo data difficulty` predicts it for the rows without; "
    '`ungraded="spread"` deals them over all phases; or leave data.curriculum out.'
)
Place = tuple[int, int]


def read_difficulties(files: Iterable[str | Path], curriculum: Curriculum) -> dict[Place, float]:
    """The difficulty of every row that has one, by (number of the file, number of the row).

    Raises:
      DataError: a row without the column where none may be ungraded, or with something else than a finite number in it.
    """
    paths = list_files(files, say=unsaid)
    numbers = {path: i for i, path in enumerate(paths)}
    column, spread = curriculum.column, curriculum.ungraded == "spread"
    rows = (row for row in read_rows(paths) if column in row.data or not spread)
    return {(numbers[row.file], row.number): difficulty_of(row, column) for row in rows}


def difficulty_of(row: Row, column: str) -> float:
    """One row's difficulty; DataError names file, row and field."""
    if column not in row.data:
        raise row.error("the curriculum's column is missing.", field=column, remedy=REMEDY)
    return as_difficulty(row, column, REMEDY)


def as_difficulty(row: Row, column: str, remedy: str) -> float:
    """The number in a row's column; DataError when something else than a finite number is there."""
    value = row.data[column]
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        raise row.error(f"{value!r} is not a difficulty.", field=column, remedy=remedy)
    return float(value)


def curriculum_order(
    dataset: Dataset, difficulties: Mapping[Place, float], curriculum: Curriculum, seed: int
) -> np.ndarray:
    """Example numbers in the order of training; see `easy_to_hard`. A split document's pieces share its difficulty."""
    found = np.empty(len(dataset))
    for start in range(0, len(dataset), CHUNK):
        stop = min(start + CHUNK, len(dataset))
        for i, example in enumerate(dataset.store.read(range(start, stop)), start):
            found[i] = difficulties.get((example.file, example.row), math.nan)
    return easy_to_hard(found, curriculum.phases, curriculum.mix, seed)


def easy_to_hard(difficulties: np.ndarray, phases: int, mix: float, seed: int) -> np.ndarray:
    """A permutation in which the difficulty rises from phase to phase.

        m = round(mix n) examples, drawn at random, are dealt evenly over the phases; the other n - m are sorted by
        difficulty and cut into `phases` equal parts; each phase is shuffled. NaN counts as drawn, beside m others.

    phases = n and mix = 0 sort completely; mix = 1 or phases = 1 shuffle completely.

    Args:
      difficulties: `[n]`, larger is harder; ties are broken at random; NaN where nobody knows.
      phases: at most n of them count.

    Returns:
      int64 `[n]`: every number 0 .. n-1 once. It depends on the arguments only.
    """
    n = len(difficulties)
    phases = max(1, min(phases, n))
    drawn = random_order(seed, 0, n, MIXED)
    unknown = np.isnan(difficulties[drawn])
    mixed, rest = np.split(drawn[~unknown], [round(mix * np.count_nonzero(~unknown))])
    mixed = np.concatenate([mixed, drawn[unknown]])
    rest = rest[np.argsort(difficulties[rest], kind="stable")]
    mixed = mixed[random_order(seed, 0, len(mixed), DEALT)]
    parts = []
    # `array_split` makes the first parts the longer ones: turned around, the two remainders even out.
    for i, (own, dealt) in enumerate(
        zip(np.array_split(rest, phases), np.array_split(mixed, phases)[::-1], strict=True)
    ):
        phase = np.concatenate([own, dealt])
        parts.append(phase[random_order(seed, i, len(phase), WITHIN)])
    return np.concatenate(parts).astype(np.int64)
