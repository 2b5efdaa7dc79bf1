"""From rewards to advantages, in float64 numpy: what is compared with what, and by which deviation it is divided.

An answer about which no reward says anything is NaN: it enters no mean and no deviation, and its advantage is 0. So
does one that a method leaves out, whose reward is known all the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jaxpo.objectives.methods.outcomes import Paid
from jaxpo.objectives.methods.rollouts import Advantage

FLAT = 1e-8
"""A group's deviation at which its rewards count as one."""


@dataclass(frozen=True)
class Penalties:
    """What answers lose of their rewards, each `[G, K]`, or 0.

    Attributes:
      ending: for want of an end. It is a part of the reward: shown with it, and pairs are ordered by both.
      kl: the weighted KL to the reference. The reward is shown without it.
    """

    ending: np.ndarray | float = 0.0
    kl: np.ndarray | float = 0.0


@dataclass(frozen=True)
class Shaped:
    """Rewards and advantages of a generation of G groups of K answers.

    Attributes:
      reward: `[G, K]` the weighted sum, less what is lost for want of an end; NaN where there is none.
      advantage: `[G, K]`.
      std: `[G]` of the group's rewards, n - 1; 0 of less than two.
      kept: bool `[G, K]`, answers that are compared and trained on; the method leaves the others out.
    """

    reward: np.ndarray
    advantage: np.ndarray
    std: np.ndarray
    kept: np.ndarray

    @property
    def flat(self) -> np.ndarray:
        """`[G]` True where the rewards of a group do not differ, or there are less than two."""
        return self.std <= FLAT

    @property
    def teaches(self) -> np.ndarray:
        """`[G]` True where answers are trained on whose rewards differ."""
        return deviation(np.where(self.kept, self.reward, np.nan)) > FLAT


def shaped(
    rewards: np.ndarray,
    weights: np.ndarray,
    how: Advantage,
    lengths: np.ndarray,
    *,
    aggregation: str = "sum_then_normalize",
    penalties: Penalties | None = None,
    paid: Callable[[np.ndarray], Paid] | None = None,
) -> Shaped:
    """Rewards of several functions to one advantage per answer.

        r = paid(sum_f w_f r_f - ending)
        sum_then_normalize: A = (r - kl - baseline) / (std + epsilon) + boost 1[r >= 1], over the answers that are kept
        normalize_then_sum: A_f = (r_f - baseline) / (std_f + epsilon);  a = sum_f w_f A_f;
                            A = (a - mean a) / (std a + epsilon), over the generation

    Args:
      rewards: `[G, K, F]`; NaN where a function says nothing.
      weights: `[F]`.
      how: baseline, scale, epsilon.
      lengths: `[G, K]` tokens of the answers that are trained on; 0 of one that is left out.
      penalties: None = none.
      paid: of methods that pay by what became of the answers, of `[G, K]`; with sum_then_normalize.

    Reference: the rules of TRL's GRPO trainer; normalize_then_sum is GDPO (arXiv 2601.05242) there.
    """
    lost = penalties or Penalties()
    total = summed(rewards, weights) - lost.ending
    made = Paid(total, {}) if paid is None else paid(total)
    total, kept = made.reward, np.ones(total.shape, bool) if made.kept is None else made.kept
    std = deviation(total)
    if aggregation == "sum_then_normalize":
        considered = np.where(kept, total, np.nan)
        advantage = compared(considered - lost.kl, how, lengths) + how.boost * (considered >= 1)
        return Shaped(total, np.nan_to_num(advantage), std, kept)
    each = np.stack([compared(rewards[..., f], how, lengths) for f in range(rewards.shape[-1])], axis=-1)
    both = summed(each, weights)
    both = (both - _mean(both)) / (_std(both) + how.epsilon)
    return Shaped(total, np.nan_to_num(both), std, kept)


def summed(rewards: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sum over the last axis of what is there; NaN where nothing is that has a weight."""
    known = ~np.isnan(rewards) & (weights != 0)
    total = np.sum(np.where(known, rewards, 0.0) * weights, axis=-1)
    return np.where(known.any(axis=-1), total, np.nan)


def compared(reward: np.ndarray, how: Advantage, lengths: np.ndarray) -> np.ndarray:
    """`[G, K]` rewards less their baseline, over their deviation; NaN where there is none."""
    mean = _mean(reward, axis=1)[:, None]
    known = np.sum(~np.isnan(reward), axis=1)[:, None]
    if how.baseline == "none":
        centred = reward
    elif how.baseline == "mean":
        centred = np.where(known > 1, reward - mean, reward * 0.0)
    else:
        centred = np.where(known > 1, (reward - mean) * known / np.maximum(known - 1, 1), reward * 0.0)
    if how.scale == "none":
        return centred
    if how.scale in ("tokens", "answers"):
        return whitened(centred, lengths if how.scale == "tokens" else (lengths > 0).astype(float))
    spread = deviation(reward)[:, None] if how.scale == "group" else _std(reward)
    return centred / (spread + how.epsilon)


def whitened(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1 over all tokens, each with its answer's number: `(x - mean) / sqrt(var + 1e-8)`, n - 1.

    With lengths of 1 over all answers; one of length 0 enters neither.
    """
    n = np.where(np.isnan(x), 0.0, lengths)
    known, count = np.nan_to_num(x), max(n.sum(), 1.0)
    mean = np.sum(n * known) / count
    variance = np.sum(n * (known - mean) ** 2) / max(count - 1.0, 1.0)
    return (x - mean) / np.sqrt(variance + 1e-8)


def deviation(reward: np.ndarray) -> np.ndarray:
    """`[G]` standard deviation of each group, n - 1; 0 of less than two."""
    return np.asarray([_std(group) for group in reward])


def _mean(x: np.ndarray, axis: int | None = None) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of nothing it is NaN, which is what is meant
        return np.asarray(np.nanmean(x, axis=axis))


def _std(x: np.ndarray) -> float:
    known = x[~np.isnan(x)]
    return float(np.std(known, ddof=1)) if known.size > 1 else 0.0
