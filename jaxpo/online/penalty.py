"""The KL to the reference as a part of the reward: its size in a generation, and its weight from one to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.losses import adaptive_kl
from jaxpo.losses.kl import ESTIMATORS
from jaxpo.objectives.families.rollouts import OLD_LOGPS, REF_LOGPS
from jaxpo.objectives.methods.rollouts import Penalty
from jaxpo.online.answers import Group

Columns = Mapping[str, Sequence[np.ndarray]]


@dataclass(frozen=True)
class Padded:
    """Per-token numbers of a generation's answers, one per row: those of the tokens that the model wrote, side by side.

    What an environment says between two turns has no place in a row: the next token of the model follows the last one.

    Attributes:
      own: of each answer, its tokens that the model wrote.
      mask: `[N, T]` True on them.
    """

    own: Sequence[np.ndarray]
    mask: np.ndarray

    def rows(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Float64 `[N, T]`, 0 outside the mask."""
        found = np.zeros(self.mask.shape)
        found[self.mask] = np.concatenate(
            [np.asarray(x, np.float64)[on] for x, on in zip(values, self.own, strict=True)]
        )
        return found

    def parts(self, rows: np.ndarray) -> list[np.ndarray]:
        """The rows' numbers as float32, answer by answer; 0 where the model did not write."""
        found = [np.zeros(len(on), np.float32) for on in self.own]
        for part, on, row, mask in zip(found, self.own, rows, self.mask, strict=True):
            part[on] = row[mask]
        return found


def padded(groups: Sequence[Group], longest: int) -> Padded:
    """Rows of at most `longest` tokens, of all answers of these groups in order."""
    own = [answer.own for group in groups for answer in group.answers]
    written = np.asarray([on.sum() for on in own])
    return Padded(own, np.arange(longest)[None, :] < written[:, None])


def token_kl(penalty: Penalty, grid: Padded, columns: Columns) -> np.ndarray:
    """`[N, T]` estimate at every token of KL(policy that the trainer saw || reference)."""
    old, ref = grid.rows(columns[OLD_LOGPS]), grid.rows(columns[REF_LOGPS])
    return np.asarray(ESTIMATORS[penalty.estimator](old, ref, where=grid.mask), np.float64)


def next_coef(penalty: Penalty, before: Mapping[str, Any] | None, answers: int) -> float:
    """Weight of a generation's KL, from what was written down of the generation before; the first has the setting's.

    Args:
      before: "kl_coef", and "kl" of an answer on average.
      answers: of a generation.
    """
    if before is None or penalty.target is None:
        return penalty.coef
    coef, kl = before["kl_coef"], before["kl"]
    return float(adaptive_kl(coef, kl, target=penalty.target, horizon=penalty.horizon, answers=answers))
