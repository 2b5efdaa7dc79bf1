"""Self-supervised preference optimisation: tell how much key content a response has lost (arXiv:2409.17791)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpo.losses.numerics import both, clean, keep


def spo_degree(
    base_loss: Float[Array, "N"],
    chosen_logits: Float[Array, "N K K"],
    rejected_logits: Float[Array, "N K K"],
    chosen_has_phrases: Bool[Array, "N"],
    rejected_has_phrases: Bool[Array, "N"],
    *,
    gamma: float = 0.1,
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N"]:
    """A pair loss plus the degree losses of both responses.

        L = L_align + gamma (L_deg(y_w) + L_deg(y_l)) / 2

    Args:
      base_loss: `[N]` L_align, any pairwise loss.
      chosen_logits: `[N, K, K]` from `degree_logits`: row k for the response without its level-k key content.
      rejected_logits: `[N, K, K]`.
      chosen_has_phrases: `[N]` False where the response has no key phrase; its degree loss is 0.
      rejected_has_phrases: `[N]`.
      gamma: weight of the auxiliary task (0.01 to 1).
      where: `[N]` False where there is no pair.

    Returns:
      `[N]` float32 loss, 0 where there is no pair.

    Limits: gamma = 0 is the base loss; a zero head adds gamma log K. Swapping the two responses' logits changes
    nothing: the task uses no preference label.

    Reference: Li et al. 2024, arXiv:2409.17791. The paper's structure; level grid, pooling, head and the average over
    the two responses are this project's reconstruction, as no code is public.
    """
    (base,) = clean(where, base_loss)
    w = degree_loss(chosen_logits, where=both(where, chosen_has_phrases))
    v = degree_loss(rejected_logits, where=both(where, rejected_has_phrases))
    return keep(where, base + gamma * 0.5 * (w + v))


def degree_loss(logits: Float[Array, "N K K"], *, where: Bool[Array, "N"] | None = None) -> Float[Array, "N"]:
    """`L_deg = -(1/K) sum_k log softmax(logits_k)_k`: cross-entropy of telling the K levels apart, float32.

    Args:
      logits: `[N, K, K]`, row k is the head's output for level k.
      where: `[N]` False where there is no response or no key phrase: 0 there.
    """
    (logits,) = clean(None if where is None else where[:, None, None], logits)
    right = jnp.diagonal(jax.nn.log_softmax(logits, axis=-1), axis1=-2, axis2=-1)
    return keep(where, -jnp.mean(right, axis=-1))


def keep_masks(rank: Int[Array, "N T"], mask: Bool[Array, "N T"], *, levels: int = 4) -> Bool[Array, "N K T"]:
    """Which tokens stay at each level of removal.

    Level k = 0 .. K-1 takes away the `round(k n / (K - 1))` (half up) highest-scoring of a response's n key phrases:
    nothing at level 0, all of them at level K-1. The masks are nested.

    Args:
      rank: `[N, T]` 0 off the key phrases, r >= 1 on the phrase with the r-th highest score.
      mask: `[N, T]` True on response tokens.
      levels: K >= 2.
    """
    rank = jnp.where(mask, rank, 0)
    count = jnp.max(rank, axis=-1, keepdims=True, initial=0)
    level = jnp.arange(levels)
    removed = (2 * level * count + (levels - 1)) // (2 * (levels - 1))  # integers: exact, half up
    gone = (rank[:, None, :] > 0) & (rank[:, None, :] <= removed[:, :, None])
    return mask[:, None, :] & ~gone


def pool_levels(x: Float[Array, "N T C"], kept: Bool[Array, "N K T"]) -> Float[Array, "N K C"]:
    """Mean of the kept positions' entries at each level, float32; the zero vector where nothing is kept."""
    real = jnp.any(kept, axis=1)[..., None]
    x = jnp.where(real, jnp.asarray(x).astype(jnp.float32), 0.0)
    weights = kept.astype(jnp.float32)
    total = jnp.einsum("nkt,ntc->nkc", weights, x)
    return total / jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1.0)


def degree_logits(
    hidden: Float[Array, "N T D"],
    kept: Bool[Array, "N K T"],
    weight: Float[Array, "D K"],
    bias: Float[Array, "K"],
) -> Float[Array, "N K K"]:
    """`f_k W + b` with f_k the mean of the final hidden states at the positions kept at level k.

    Computed as the mean of `h W`, which is the same and never needs f.

    Args:
      hidden: `[N, T, D]` the policy's final hidden state at each response token (the state that has read it).
      kept: `[N, K, T]` from `keep_masks`.
      weight: `[D, K]` of the head, which is thrown away after training.
      bias: `[K]`.
    """
    return pool_levels(jnp.asarray(hidden).astype(jnp.float32) @ weight, kept) + bias
