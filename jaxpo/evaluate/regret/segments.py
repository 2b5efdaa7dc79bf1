"""Segments of a decision process, and who prefers which of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np

from jaxpo.evaluate.regret.processes import GAMMA, Process, optimal_values
from jaxpo.losses.regret_reward import deterministic_regret, noiseless_preference, segment_regret

Statistic = Literal["regret", "deterministic_regret", "partial_return"]


@dataclass(frozen=True)
class Segments:
    """N walks of H steps.

    Attributes:
      states: `[N, H + 1]`.
      actions: `[N, H]`.
      features: `[N, d]` summed over the steps.
    """

    states: np.ndarray
    actions: np.ndarray
    features: np.ndarray

    def __getitem__(self, which: np.ndarray) -> Segments:
        return Segments(self.states[which], self.actions[which], self.features[which])


@dataclass(frozen=True)
class Preferences:
    """Pairs of segments and who is preferred: 1 the first, 0 the second, 1/2 neither."""

    first: Segments
    second: Segments
    labels: np.ndarray


def sample_segments(process: Process, rng: np.random.Generator, n: int, *, length: int = 3) -> Segments:
    """N segments of actions drawn uniformly, from states drawn as the process starts; an end is stayed in."""
    states = [rng.choice(len(process.starts), n, p=process.starts)]
    actions = rng.integers(0, process.transitions.shape[1], (n, length))
    features = np.zeros((n, process.features.shape[-1]))
    for t in range(length):
        chances = process.transitions[states[-1], actions[:, t]].cumsum(axis=-1)
        reached = np.argmax(chances > rng.random(n)[:, None] * chances[:, -1:], axis=-1)
        features += process.features[states[-1], actions[:, t], reached]
        states.append(reached)
    return Segments(np.stack(states, axis=1), actions, features)


def statistic(
    process: Process, segments: Segments, weights: np.ndarray, kind: Statistic, *, gamma: float = GAMMA
) -> np.ndarray:
    """`[N]` larger is better: minus the regret by V* and Q* of these weights, or the sum of the rewards."""
    returns = segments.features @ weights
    if kind == "partial_return":
        return returns
    values, q = optimal_values(process, weights, gamma=gamma)
    if kind == "deterministic_regret":
        return -np.asarray(deterministic_regret(returns, values[segments.states[:, 0]], values[segments.states[:, -1]]))
    before = segments.states[:, :-1]
    return -np.asarray(segment_regret(values[before], q[before, segments.actions]), np.float64)


def labelled(
    process: Process,
    weights: np.ndarray,
    rng: np.random.Generator,
    pairs: int,
    *,
    kind: Statistic = "regret",
    noise: bool = False,
    length: int = 3,
    gamma: float = GAMMA,
) -> Preferences:
    """Pairs of segments, labelled as a model of preferences says under the true weights.

    Args:
      noise: draw the label from the model's probability, instead of taking the better one.
    """
    one, two = (sample_segments(process, rng, pairs, length=length) for _ in range(2))
    a, b = (statistic(process, s, weights, kind, gamma=gamma) for s in (one, two))
    if noise:
        labels = (rng.random(pairs) < 1 / (1 + np.exp(np.clip(b - a, -700, 700)))).astype(np.float64)
    else:
        labels = np.asarray(noiseless_preference(jnp.asarray(a), jnp.asarray(b), tolerance=1e-5), np.float64)
    return Preferences(one, two, labels)
