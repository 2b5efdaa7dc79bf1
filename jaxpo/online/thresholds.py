"""Thresholds that are searched while the policy is trained: a fold over what is in the ledger of every generation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.errors import RunError
from jaxpo.objectives.methods.constrained_rlhf import ThresholdSearch
from jaxpo.online.generation import Generation
from jaxpo.online.nelder_mead import Search, Simplex, nelder_mead

REACHED = 0.05
"""A mean reward within this share of its threshold has reached it."""
PATIENCE, AT_BOUND = 10, 0.95
"""Generations in which a threshold has not been reached before it is said, and the multiplier that counts as bound."""


@dataclass(frozen=True)
class Tried:
    """Where a search stands.

    Attributes:
      thresholds: `[K]` of the generation to come.
      due: the generation before ended a vertex, whose score is asked for before these thresholds count.
      over: the search has ended; these are the best.
    """

    thresholds: np.ndarray
    due: bool
    over: bool


def reached(values: Sequence[float] | np.ndarray, thresholds: Sequence[float] | np.ndarray) -> bool:
    """Whether every mean reward lies within 5% of its threshold."""
    v, theta = np.asarray(values, np.float64), np.asarray(thresholds, np.float64)
    return bool(np.all(np.abs(v - theta) <= REACHED * np.abs(theta)))


def first_simplex(search: ThresholdSearch) -> np.ndarray:
    """`[K + 1, K]` drawn uniformly in the guessed box."""
    low, high = np.asarray(search.low), np.asarray(search.high)
    return np.random.default_rng(search.seed).uniform(low, high, (len(low) + 1, len(low)))


def replayed(search: ThresholdSearch, lines: Iterable[Mapping[str, Any]], score: float | None = None) -> Tried:
    """The search after these generations.

    Args:
      lines: of every generation so far, in order: "returns", and "score" where it was measured before the generation,
        which is when the vertex before had ended.
      score: measured now; None = not yet.
    """
    machine = nelder_mead(first_simplex(search), Simplex())
    vertex, over, spent, due = next(machine), False, 0, False
    for line in lines:
        if due:
            vertex, over = _told(machine, -line["score"])
            spent = 0
        spent += 1
        due = not over and (spent >= search.generations or reached(line["returns"], vertex))
    if due and score is not None:
        vertex, over = _told(machine, -score)
        due = False
    return Tried(vertex, due, over)


def _told(machine: Search, value: float) -> tuple[np.ndarray, bool]:
    """The next vertex; or the best one, where the search has ended."""
    try:
        return machine.send(value), False
    except StopIteration as end:
        return end.value, True


@dataclass
class Searching:
    """Thresholds of a run, generation by generation.

    Attributes:
      names: of the rewards that are held.
      rewards: of all rewards.
      score: (state, name of a reward) -> its mean over held-out prompts.
    """

    search: ThresholdSearch
    names: Sequence[str]
    rewards: Sequence[str]
    score: Callable[[Any, str], float]

    def line(self, generation: Generation, before: Sequence[Mapping[str, Any]], state: Any) -> dict[str, Any]:
        """What is written down of a generation: its thresholds, mean rewards, and the score where one was due."""
        found, scored = replayed(self.search, before), dict[str, float]()
        if found.due:
            scored["score"] = self.score(state, self.search.score)
            if not np.isfinite(scored["score"]):
                raise RunError(
                    f"the reward {self.search.score!r} says nothing of any answer to the held-out prompts, and "
                    "thresholds are searched by it; see why it fails, or name another (threshold_search.score)."
                )
            found = replayed(self.search, before, scored["score"])
        thresholds = dict(zip(self.names, found.thresholds.tolist(), strict=True))
        returns = [mean_reward(generation, self.rewards.index(name)) for name in self.names]
        return {"thresholds": thresholds, "returns": returns, "searched": found.over, **scored}


def searching(method: Any, rewards: Sequence[str], score: Callable[[Any, str], float]) -> Searching | None:
    """The search of a method's thresholds; None where they stay."""
    search = method.threshold_search
    return None if search is None else Searching(search, method.streams[1:], rewards, score)


def mean_reward(generation: Generation, number: int) -> float:
    """Over the answers that have this reward; 0 without any."""
    values = generation.rewards[..., number]
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else 0.0


def out_of_reach(
    names: Sequence[str],
    returns: Sequence[Sequence[float]],
    thresholds: Mapping[str, float],
    weights: Sequence[float] | np.ndarray,
    *,
    bound: str,
) -> dict[str, str]:
    """What is said, by name, of thresholds that the last generations missed with their multiplier at its bound.

    Args:
      returns: `[G][K]` mean rewards of the last generations.
      weights: `[K]` multipliers.
      bound: of them; "sigmoid" asks for nothing more where a reward is above its threshold.
    """
    if len(returns) < PATIENCE or bound == "unbounded":
        return {}
    found = {}
    for i, name in enumerate(names):
        theta, values = thresholds[name], [row[i] for row in returns[-PATIENCE:]]
        below = all(theta - v > REACHED * abs(theta) for v in values) and weights[i] > AT_BOUND
        above = all(v - theta > REACHED * abs(theta) for v in values) and weights[i] < -AT_BOUND
        if below or above:
            found[name] = (
                f"the threshold {theta:g} of {name} seems out of reach: its multiplier is at {weights[i]:.2f}, and the "
                f"mean reward of the last {PATIENCE} generations was {min(values):.4g} to {max(values):.4g}. A bounded "
                "multiplier cannot go further (at -1 one reward counts half of the KL); give another threshold, a "
                'smaller kl_coef, or bound "unbounded" (said once)'
            )
    return found
