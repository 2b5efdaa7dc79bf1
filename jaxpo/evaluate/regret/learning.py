"""Weights of a reward learnt from preferences between segments, and how good the policy is that they lead to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxpo.errors import ConfigError
from jaxpo.evaluate.regret.processes import (
    GAMMA,
    Process,
    greedy_policy,
    optimal_values,
    scaled_return,
    successor_features,
)
from jaxpo.evaluate.regret.segments import Preferences
from jaxpo.losses.regret_reward import deterministic_regret, improved_values, partial_returns, regret_reward

Model = Literal["regret", "partial_return"]
NEAR_OPTIMAL = 0.9
"""Scaled return of a policy that counts as near-optimal."""


@dataclass(frozen=True)
class Fit:
    """How weights are learnt.

    Attributes:
      temperature: of `improved_values`. The code's 0.001 is stiff; 0.1 suits gradient methods.
      steps: of Adam on all pairs.
      learning_rate: of Adam; falls linearly to 0 where `decays`.
      decays: see there.
      policies: of the successor features.
      gamma: of planning.
    """

    temperature: float = 0.001
    steps: int = 5000
    learning_rate: float = 0.5
    decays: bool = False
    policies: int = 40
    gamma: float = GAMMA

    def __post_init__(self) -> None:
        """Raises ConfigError for a number out of range."""
        for name in ("temperature", "learning_rate", "steps", "policies"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: {getattr(self, name)} must be above 0.")
        if not 0 < self.gamma < 1:
            raise ConfigError(f"gamma: {self.gamma} must lie between 0 and 1.")


def policy_features(
    process: Process, rng: np.random.Generator, fit: Fit, *, without: np.ndarray | None = None
) -> np.ndarray:
    """`[P, S, d]` successor features of policies that are optimal for random rewards.

    Args:
      without: true weights: a policy whose values they make optimal is left out, as it is for synthetic tests.

    Raises:
      ConfigError: only the optimal policy was found.
    """
    found: list[np.ndarray] = []
    best = None if without is None else optimal_values(process, without, gamma=fit.gamma)[0]
    for _ in range(20 * fit.policies):
        weights = rng.standard_normal((process.features.shape[-1],))
        psi = successor_features(process, greedy_policy(process, weights, gamma=fit.gamma), gamma=fit.gamma)
        same = best is not None and np.allclose(psi @ without, best, atol=1e-6)
        if not same:
            found.append(psi)
        if len(found) == fit.policies:
            return np.stack(found)
    if not found:
        raise ConfigError("every random reward has the true optimal policy; nothing else is left to compare with.")
    return np.stack(found)


def learn(process: Process, data: Preferences, model: Model, fit: Fit, successors: np.ndarray) -> np.ndarray:
    """`w [d]` of the smallest loss that Adam saw on all pairs and their swapped copies.

    Args:
      successors: `[P, S, d]` of `policy_features`; the partial return needs none of it.
    """
    d = process.features.shape[-1]
    sides = (data.first, data.second)
    features = np.stack([s.features for s in sides])
    ends = np.stack([successors[:, s.states[:, [0, -1]]] for s in sides])  # [2, P, N, 2, d]
    if model == "partial_return":
        ends = np.zeros((2, 1, *ends.shape[2:]))
    given = (jnp.asarray(features, jnp.float32), jnp.asarray(ends, jnp.float32), jnp.asarray(data.labels, jnp.float32))
    return np.asarray(_descended(*given, jnp.zeros(d), fit), np.float64)


def segment_statistics(features: Array, ends: Array, weights: Array, temperature: float) -> Array:
    """`[..., N]` minus the regret under the learnable V~; minus it with V~ = 0 is the partial return."""
    values = improved_values(ends, weights, temperature=temperature)
    return -deterministic_regret(partial_returns(features, weights), values[..., 0], values[..., 1])


@partial(jax.jit, static_argnames="fit")
def _descended(features: Array, ends: Array, labels: Array, start: Array, fit: Fit) -> Array:
    rate = optax.linear_schedule(fit.learning_rate, 0.0, fit.steps) if fit.decays else fit.learning_rate
    adam = optax.adam(rate)

    def loss(weights: Array) -> Array:
        one, two = (segment_statistics(features[i], ends[i], weights, fit.temperature) for i in range(2))
        both = regret_reward(one, two, labels) + regret_reward(two, one, 1.0 - labels)
        return 0.5 * jnp.mean(both)

    def step(state: Any, _: None) -> tuple[Any, None]:
        weights, moments, best, least = state
        value, gradient = jax.value_and_grad(loss)(weights)
        best, least = jnp.where(value < least, weights, best), jnp.minimum(value, least)
        updates, moments = adam.update(gradient, moments)
        return (optax.apply_updates(weights, updates), moments, best, least), None

    # At weights of 0 all policies are alike, and V~ is as smooth as it is uninformed.
    begun = (start, adam.init(start), start, jnp.inf)
    (last, _, best, least), _ = jax.lax.scan(step, begun, None, length=fit.steps)
    return jnp.where(loss(last) < least, last, best)


def quality(process: Process, learnt: np.ndarray, true: np.ndarray, *, gamma: float = GAMMA) -> float:
    """Scaled return, under the true weights, of the policy that is best for the learnt ones."""
    return scaled_return(process, greedy_policy(process, learnt, gamma=gamma), true, gamma=gamma)
