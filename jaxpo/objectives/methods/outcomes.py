"""What became of a generation's answers, for methods that pay right and wrong ones by their length.

Imports neither jax nor numpy: configurations hold methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Outcomes:
    """Of G groups of K answers.

    Attributes:
      correct: float64 `[G, K]` 1 or 0 by the rewards that verify; NaN where none says it.
      lengths: `[G, K]` tokens that the model wrote.
      finished: bool `[G, K]`, the answer ended by itself.
      tokens: of every answer, `[G][K]`.
      prompts: number of each group's prompt in its dataset.
      rows: the columns of each group's row.
      longest: tokens that an answer may have.
    """

    correct: np.ndarray
    lengths: np.ndarray
    finished: np.ndarray
    tokens: Sequence[Sequence[np.ndarray]]
    prompts: Sequence[int]
    rows: Sequence[Mapping[str, Any]]
    longest: int

    @property
    def known(self) -> np.ndarray:
        """`[G, K]` whether a reward says if the answer is right."""
        known: np.ndarray = self.correct == self.correct  # NaN is not equal to itself
        return known

    @property
    def right(self) -> np.ndarray:
        """`[G, K]`; an answer of which nothing is known is not."""
        right: np.ndarray = self.correct == 1
        return right


def replacing_problems(name: str, stage: Any) -> list[str]:
    """Of methods that order the right answers of a group among themselves: such groups are not to be replaced."""
    if not stage.dynamic_sampling:
        return []
    return [
        f"dynamic_sampling: it replaces prompts whose answers are all right, before {name} pays them by their length, "
        "so that the lengths of problems that are solved would teach nothing; leave it out."
    ]


@dataclass(frozen=True)
class Paid:
    """Rewards as a method pays them.

    Attributes:
      reward: `[G, K]`; NaN where no reward says anything.
      figures: name -> what is logged of the generation.
      kept: bool `[G, K]`; the other answers have their reward, but are neither compared nor trained on. None = all.
    """

    reward: np.ndarray
    figures: Mapping[str, float]
    kept: np.ndarray | None = None
