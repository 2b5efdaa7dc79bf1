"""Odds ratio preference optimisation (arXiv:2403.07691)."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import at_most, both, clean, keep, per_token, softplus

CEILING = -1e-7
"""Highest mean log-prob whose odds are told apart: above it float32 cannot, and log(1 - p) runs to infinity."""


def log_odds(mean_logps: Float[Array, "..."]) -> Float[Array, "..."]:
    """`log(p / (1 - p)) = a - log(1 - e^a)` of a probability given as its logarithm a <= 0; finite for every a.

    Kink at `CEILING`: flat above it, and at it the derivative is that of the formula, 1 / (1 - e^a).
    """
    a = at_most(mean_logps, CEILING)
    near_one = a > -math.log(2.0)
    # Each branch sees only arguments it is exact for, so that the other one's gradient stays finite.
    log1mexp = jnp.where(
        near_one,
        jnp.log(-jnp.expm1(jnp.where(near_one, a, -1.0))),
        jnp.log1p(-jnp.exp(jnp.where(near_one, -1.0, a))),
    )
    return a - log1mexp


def orpo(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    *,
    beta: float = 0.1,
    where: Bool[Array, "B"] | None = None,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """ORPO: fine-tuning on the chosen response, plus the logistic loss of the log odds ratio of mean probabilities.

        a = P / |y|,    lo(a) = a - log(1 - e^a)
        L_or = beta softplus(-(lo(a_w) - lo(a_l))),    L_nll = -P_w

    The two terms have different denominators: a step minimises `sum(L_or) / pairs + sum(L_nll) / chosen tokens`, both
    counted over the whole step. That is why they are returned apart.

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      chosen_lengths: `[B]` |y_w| in tokens.
      rejected_lengths: `[B]` |y_l|.
      beta: weight of the odds ratio, the paper's lambda. It scales the term and not its argument.
      where: `[B]` False where there is no pair.

    Returns:
      `(L_or [B], L_nll [B])`, float32; 0 where there is no pair or no token on either side.

    Limits: beta = 0 is fine-tuning; equal means give beta log 2; for unlikely responses (e^a -> 0) the log odds ratio
    is SimPO's margin a_w - a_l. A mean log-prob above -1e-7 counts as -1e-7 and takes no gradient from L_or
    (kink at -1e-7: the slope there is the formula's).

    Reference: Hong, Lee, Thorne 2024, arXiv:2403.07691, Eq. 6 and 7.
    """
    where = both(where, chosen_lengths + rejected_lengths > 0)
    p_w, p_l, n_w, n_l = clean(where, chosen_logps, rejected_logps, chosen_lengths, rejected_lengths)
    ratio = log_odds(per_token(p_w, n_w)) - log_odds(per_token(p_l, n_l))
    return keep(where, beta * softplus(-ratio)), keep(where, -p_w)
