"""Preferences by regret instead of by partial return (arXiv:2206.02231): statistics of segments, and their loss.

A segment of H steps visits s_0, a_0, ..., s_H. Both models compare one number of either segment; nothing is discounted
inside a segment.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, softplus


def regret_reward(
    statistics_1: Float[Array, "B"],
    statistics_2: Float[Array, "B"],
    labels: Float[Array, "B"],
    *,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Cross-entropy of a preference between two segments.

        P(1 > 2) = sigmoid(s_1 - s_2),    L = -y log P - (1 - y) log(1 - P)

    Args:
      statistics_1, statistics_2: `[B]` s, larger is better: minus the regret, or the partial return.
      labels: `[B]` y: 1 = the first is preferred, 0 = the second, 1/2 = neither. No gradient.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 >= 0, 0 where there is no pair. The logistic scale is 1, since that of the reward is free.

    Limits: log 2 at equal statistics, where a label of 1/2 is best; P(1 > 2) + P(2 > 1) = 1.

    Reference: Knox et al. 2022, arXiv:2206.02231, eq. 1 to 3.
    """
    one, two, y = clean(where, statistics_1, statistics_2, labels)
    apart, y = one - two, jax.lax.stop_gradient(y)
    return keep(where, y * softplus(-apart) + (1.0 - y) * softplus(apart))


def partial_returns(features: Float[Array, "... d"], weights: Float[Array, "d"]) -> Float[Array, "..."]:
    """`g = w . phi`: the sum of a segment's rewards, from the sums of its features."""
    return jnp.asarray(features).astype(jnp.float32) @ jnp.asarray(weights).astype(jnp.float32)


def deterministic_regret(
    returns: Float[Array, "..."], start_values: Float[Array, "..."], end_values: Float[Array, "..."]
) -> Float[Array, "..."]:
    """`V*(s_0) - (g + V*(s_H))`: what a segment lost against optimal behaviour, where transitions are deterministic.

    Limits: with V* = 0 everywhere it is minus the partial return. Shaping rewards by a potential changes nothing.

    Reference: Knox et al. 2022, arXiv:2206.02231, eq. 4.
    """
    return start_values - (returns + end_values)


def segment_regret(
    values: Float[Array, "... H"], action_values: Float[Array, "... H"], mask: Bool[Array, "... H"] | None = None
) -> Float[Array, "..."]:
    """`sum_t (V*(s_t) - Q*(s_t, a_t))`: minus the optimal advantages, for any transitions.

    Args:
      values: `[..., H]` V* of the states of a segment.
      action_values: `[..., H]` Q* of its states and actions.
      mask: `[..., H]` False after the end; None = all count.

    Returns:
      `[...]` >= 0, and 0 exactly where every action is optimal. Equal to `deterministic_regret` where transitions are
      deterministic and nothing is discounted.

    Reference: Knox et al. 2022, arXiv:2206.02231, eq. 5.
    """
    v, q = clean(mask, values, action_values)
    return jnp.sum(v - q, axis=-1)


def improved_values(
    successor_features: Float[Array, "P ... d"], weights: Float[Array, "d"], *, temperature: float = 0.001
) -> Float[Array, "..."]:
    """V of the best of several policies at every state, smooth in the weights of the reward.

        V~(s) = sum_p softmax_p(psi_p(s) . w / T) (psi_p(s) . w)

    Args:
      successor_features: `[P, ..., d]` psi: discounted sums of features from a state on, under each of P policies.
      weights: `[d]` w of the reward.
      temperature: T; 0.001 is the code's, very stiff: 0.05 to 0.1 is easier to descend.

    Limits: the maximum over the policies as T goes to 0, their mean as it grows.

    Reference: Knox et al. 2022, arXiv:2206.02231, section 4; generalised policy improvement.
    """
    each = partial_returns(successor_features, weights)
    return jnp.sum(jax.nn.softmax(each / temperature, axis=0) * each, axis=0)


def noiseless_preference(
    statistics_1: Float[Array, "B"], statistics_2: Float[Array, "B"], *, tolerance: float = 1e-6
) -> Float[Array, "B"]:
    """1 where the first statistic is larger, 0 where the second is, 1/2 where they lie within the tolerance."""
    apart = jnp.asarray(statistics_1) - jnp.asarray(statistics_2)
    return jnp.where(jnp.abs(apart) <= tolerance, 0.5, (apart > 0).astype(jnp.float32))
