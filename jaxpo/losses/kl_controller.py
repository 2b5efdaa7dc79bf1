"""The weight of the KL in the reward: fixed, or led towards a target. The state is the weight itself."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def fixed_kl(coef: Float[Array, ""] | float, kl: Float[Array, ""] | float, **settings: float) -> Float[Array, ""]:
    """The weight as it is, with the arguments of `adaptive_kl`."""
    return jnp.asarray(coef).astype(jnp.float32)


def adaptive_kl(
    coef: Float[Array, ""] | float,
    kl: Float[Array, ""] | float,
    *,
    target: float = 6.0,
    horizon: float = 10000.0,
    answers: float,
) -> Float[Array, ""]:
    """The weight after a step: raised where the KL is above its target, lowered where it is below.

        e = clip(kl / target - 1, -0.2, 0.2),    c' = c (1 + e answers / horizon)

    Args:
      coef: c >= 0, before.
      kl: mean over the step's answers of the KL summed over their tokens, nats.
      target: KL that is aimed at.
      horizon: answers over which the weight may change by 0.2 of itself.
      answers: of this step.

    Returns:
      Scalar float32 >= 0 for answers <= 5 horizon.

    Reference: Ziegler et al. 2019, arXiv:1909.08593, section 2.2; horizon and defaults as of TRL's former PPO trainer.
    """
    c, k = (jnp.asarray(x).astype(jnp.float32) for x in (coef, kl))
    error = jnp.clip(k / target - 1.0, -0.2, 0.2)
    return c * (1.0 + error * answers / horizon)
