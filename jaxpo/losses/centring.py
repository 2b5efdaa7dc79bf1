"""The centring term of reward models."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep


def centring(
    chosen_rewards: Float[Array, "B"],
    rejected_rewards: Float[Array, "B"],
    *,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Squared sum of a pair's rewards: fixes the constant that every loss on their difference leaves free.

        L = (r_w + r_l)^2

    Args:
      chosen_rewards, rejected_rewards: `[B]` r_w, r_l.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32, to be multiplied by its coefficient (0.01 where it is used); 0 where there is no pair.

    Limits: symmetric, and blind to the difference; 0 where the rewards are opposite.

    Reference: Eisenstein et al. 2023, arXiv:2312.09244.
    """
    r_w, r_l = clean(where, chosen_rewards, rejected_rewards)
    return keep(where, jnp.square(r_w + r_l))
