"""Preference ranking optimisation (arXiv:2306.17492)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, per_token
from jaxpo.losses.ranking import one_against


def pro_ranking(
    logps: Float[Array, "B K"],
    lengths: Float[Array, "B K"],
    rewards: Float[Array, "B K"] | None,
    where: Bool[Array, "B K"],
    *,
    sft_weight: float = 0.05,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """PRO: each response against all worse ones, sharper the larger the reward gap, plus the best one's likelihood.

        p_k = P_k / |y_k|,    w_ki = r_k - r_i,    w_kk = max_{i > k} w_ki
        L_rank = sum_{k < n} [ logsumexp(w_kk p_k, {w_ki p_i}_{i > k}) - w_kk p_k ]
        L_sft = -sft_weight (n - 1)^2 P_1,    L = L_rank + L_sft

    The ranking score is a mean over tokens, the likelihood a sum: read sft_weight (n - 1)^2 against the length.

    Args:
      logps: `[B, K]` P, log-probability of each response, summed over its tokens, in nats; **best response first**.
      lengths: `[B, K]` |y| in tokens.
      rewards: `[B, K]` r, descending (no gradient); None makes every w 1, plain Plackett-Luce on p.
      where: `[B, K]` False where the list has no such response; n counts the others.
      sft_weight: the paper's beta.

    Returns:
      `(L_rank [B], L_sft [B])`, float32; both 0 for fewer than two responses.

    Limits: n = 2 and a gap of 1 give softplus(-(p_1 - p_2)). A constant added to r changes nothing, a factor on r
    scales p. Equal rewards give sum_k log(n - k + 1) without gradient. Unless the gaps are equal, a constant added to
    all p does change the loss.

    Reference: Song et al. 2023, arXiv:2306.17492; the official code's `compute_loss` (its T_k^i is 1 / w_ki), with
    logsumexp for its log(1e-10 + sum of exp).
    """
    total, n_tokens = clean(where, logps, lengths)
    p = per_token(total, n_tokens)
    index = jnp.arange(p.shape[1])
    worse = (index[None, :] > index[:, None]) & where[:, :, None] & where[:, None, :]
    gaps = jnp.ones(worse.shape, jnp.float32) if rewards is None else _gaps(rewards, where)
    own = jnp.max(jnp.where(worse, gaps, 0.0), axis=2) * p
    rank = jnp.sum(one_against(own, gaps * p[:, None, :], worse), axis=1)
    first = where & (jnp.cumsum(where, axis=1) == 1)
    n = jnp.sum(where, axis=1)
    sft = -sft_weight * jnp.square(jnp.maximum(n - 1.0, 0.0)) * jnp.sum(jnp.where(first, total, 0.0), axis=1)
    return rank, sft


def _gaps(rewards: Float[Array, "B K"], where: Bool[Array, "B K"]) -> Float[Array, "B K K"]:
    (r,) = clean(where, jax.lax.stop_gradient(rewards))
    return r[:, :, None] - r[:, None, :]
