"""GSPO-token (arXiv:2507.18071): one ratio per answer, with a gradient per token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.importance import clipped_surrogate, constant, log_ratios, trained
from jaxpo.losses.numerics import clean, keep


def gspo_token(
    logps: Float[Array, "N T"],
    old_logps: Float[Array, "N T"],
    advantages: Float[Array, "N T"],
    mask: Bool[Array, "N T"],
    *,
    epsilon: float = 3e-4,
    epsilon_high: float | None = 4e-4,
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N T"]:
    """The answer's ratio in value, the token's own log-probability in gradient, so that advantages may differ by token.

        s = exp(mean_t (log pi - log pi_old)),    s_t = sg(s) pi_t / sg(pi_t)
        l = -min(s_t A_t, clip(s_t, 1 - epsilon, 1 + epsilon_high) A_t)

    Args:
      logps: `[N, T]` log-probs of the answers' tokens, nats.
      old_logps: `[N, T]` under the policy that wrote them; no gradient.
      advantages: `[N, T]`; no gradient.
      mask: `[N, T]` True on the tokens that are trained on; the others may hold anything, NaN included.
      epsilon: how far the ratio may fall.
      epsilon_high: how far it may rise; None = epsilon.
      where: `[N]` False where there is no answer.

    Returns:
      `[N, T]` float32, 0 outside the mask; average over an answer's tokens, then over answers.

    Limits: with one advantage per answer, value and gradient of that average are GSPO's (GRPO with sequence-level
    ratios). Kinks at the clips and at a mean log-ratio of +-20; unlike GSPO's, the gradient goes on beyond the latter.

    Reference: Zheng et al. 2025, arXiv:2507.18071, section 4.3; the clips of its section 5.1.
    """
    on = trained(mask, where)
    now = clean(on, logps)[0]
    ratio = jax.lax.stop_gradient(jnp.exp(log_ratios(logps, old_logps, on, level="sequence")))
    own = ratio * jnp.exp(now - jax.lax.stop_gradient(now))
    terms = clipped_surrogate(own, constant(on, advantages), epsilon=epsilon, epsilon_high=epsilon_high)
    return keep(on, terms)
