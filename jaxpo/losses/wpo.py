"""Weighted preference optimisation (arXiv:2406.11827)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, per_token


def wpo_weight(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    chosen_collision: Float[Array, "B"],
    rejected_collision: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    *,
    maximum: float | None = 1.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """WPO: weight of a pair by how likely the current policy is to write its two responses.

        log w(y) = (1/|y|) sum_t [log pi(y_t) - log sum_v pi(v)^2],    weight = sg(min(1, w(y_w) w(y_l)))

    The pair's loss, of whatever method, is multiplied by it. A token sampled from the policy has probability
    sum_v pi(v)^2 on average: dividing by it makes weights comparable between confident and uncertain positions.

    Args:
      chosen_logps: `[B]` log pi of the chosen response under the policy, summed over its tokens, in nats.
      rejected_logps: `[B]` of the rejected response.
      chosen_collision: `[B]` sum over the chosen response's tokens of log sum_v pi(v)^2 (`vocab.log_collision`).
      rejected_collision: `[B]` of the rejected response.
      chosen_lengths: `[B]` |y_w| in tokens.
      rejected_lengths: `[B]` |y_l|.
      maximum: upper bound of the weight; None = none, as in TRL 1.16.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 weight in (0, maximum], 0 where there is no pair. No gradient.

    Limits: 1 for a policy that is uniform over the vocabulary at every token. An empty response counts as w = 1.

    Reference: Zhou et al. 2024, arXiv:2406.11827, Eq. 2 and the sampled alignment that follows it; the bound of 1 is in
    the authors' code, not in TRL's.
    """
    arguments = (
        chosen_logps,
        rejected_logps,
        chosen_collision,
        rejected_collision,
        chosen_lengths,
        rejected_lengths,
    )
    p_w, p_l, c_w, c_l, n_w, n_l = clean(where, *(jax.lax.stop_gradient(jnp.asarray(x)) for x in arguments))
    log_weight = per_token(p_w - c_w, n_w) + per_token(p_l - c_l, n_l)
    if maximum is not None:
        # Bounded before the exponential, which could overflow.
        log_weight = jnp.minimum(log_weight, jnp.log(jnp.float32(maximum)))
    return keep(where, jnp.exp(log_weight))
