"""In-context ranking preference optimisation (arXiv:2504.15477)."""

from __future__ import annotations

from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpo.losses.numerics import check_choice, clean, per_token
from jaxpo.losses.ranking import one_against, ranks

Weighting = Literal["ndcg", "discount", "reciprocal"]


def irpo_ranking(
    logps: Float[Array, "B K"],
    ref_logps: Float[Array, "B K"],
    lengths: Float[Array, "B K"],
    relevance: Float[Array, "B K"],
    positions: Int[Array, "B K"],
    where: Bool[Array, "B K"],
    *,
    beta: float = 1.0,
    weighting: Weighting = "ndcg",
) -> Float[Array, "B"]:
    """IRPO: each relevant item of a list inside one response against all the others, weighted as in NDCG.

        r_i = (P_i - R_i) / |i|,    w_i = (2^y_i - 1) / log2(1 + t_i)
        L = (1/n) sum_i w_i softplus( log[ 1/(n-1) sum_{j != i} exp(beta (r_j - r_i)) ] )

    Args:
      logps: `[B, K]` P, log-probability of each item's tokens, given all that stands before it, summed, in nats.
      ref_logps: `[B, K]` R under the frozen reference.
      lengths: `[B, K]` |i| in tokens.
      relevance: `[B, K]` y >= 0 (0, 1, 2); items with y = 0 have no weight but stay as competitors.
      positions: `[B, K]` t, 1-based position at which the item should stand (`target_positions`).
      where: `[B, K]` False where the list has no such item; n counts the others.
      beta: scale of the item rewards.
      weighting: w: "ndcg" as above; "discount" is 1 / log2(1 + t_i) for every item; "reciprocal" is (2^y_i - 1) / t_i.

    Returns:
      `[B]` float32, mean over the items of a list; 0 for a list of one item.

    Limits: policy = reference gives w_i log 2 per item, thanks to the 1/(n-1). Two items, y = (1, 0), t = (1, 2): half
    the DPO loss on r. A constant added to r changes nothing. All y = 0: 0. beta -> 0 compares with all others alike.

    Reference: Wu et al. 2025, arXiv:2504.15477; objective as in the official code's `rdpo_loss`, averaged per list
    (there summed over the batch), the item itself left out exactly (there by subtracting 100), and item log-probs read
    with the next-token shift (there without). Whether the paper's formula holds the 1/(n-1) was not verified.
    """
    p, r, n_tokens, y = clean(where, logps, ref_logps, lengths, relevance)
    reward = beta * per_token(p - r, n_tokens)
    n = jnp.sum(where, axis=1).astype(jnp.float32)
    others = where[:, :, None] & where[:, None, :] & ~jnp.eye(p.shape[1], dtype=bool)
    own = reward + jnp.log(jnp.maximum(n - 1.0, 1.0))[:, None]
    terms = item_weights(y, positions, where, weighting=weighting) * one_against(own, reward[:, None, :], others)
    return jnp.sum(terms, axis=1) / jnp.maximum(n, 1.0)


def item_weights(
    relevance: Float[Array, "B K"],
    positions: Int[Array, "B K"],
    where: Bool[Array, "B K"],
    *,
    weighting: Weighting = "ndcg",
) -> Float[Array, "B K"]:
    """`w` of `irpo_ranking`, 0 where there is no item."""
    check_choice("weighting", weighting, get_args(Weighting))
    y, t = clean(where, relevance, jnp.where(where, positions, 1))
    t = jnp.maximum(t, 1.0)
    gain = jnp.exp2(y) - 1.0
    weights = {"ndcg": gain / jnp.log2(1.0 + t), "discount": 1.0 / jnp.log2(1.0 + t), "reciprocal": gain / t}
    return jnp.where(where, weights[weighting], 0.0)


def target_positions(relevance: Float[Array, "B K"], where: Bool[Array, "B K"]) -> Int[Array, "B K"]:
    """1-based position of each item once sorted by descending relevance; equal ones keep their order in the list."""
    (y,) = clean(where, relevance)
    return ranks(y, where)
