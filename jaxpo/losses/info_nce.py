"""Contrast of the document that answers a query with others."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpo.losses.listwise import masked_log_softmax
from jaxpo.losses.numerics import clean, keep


def info_nce(
    scores: Float[Array, "B M"],
    where: Bool[Array, "B M"],
    target: Int[Array, "B"] | None = None,
    *,
    temperature: float = 1.0,
) -> Float[Array, "B"]:
    """Cross-entropy of the positive document among all that a query is compared with.

        L = -log softmax(s / tau)_target

    Args:
      scores: `[B, M]` s, of a query and M documents: its own, and, of in-batch contrast, those of the other queries.
      where: `[B, M]` False where there is no document, or one that must not count as a negative.
      target: `[B]` place of the positive; None = 0.
      temperature: tau; cosines want a small one (0.02 to 0.05), late interaction, which sums 32 of them, is sharp at 1.

    Returns:
      `[B]` float32; 0 where the positive is absent, or is alone.

    Limits: log M for equal scores; a shift of a query's scores changes nothing; gradients of a row sum to 0.

    Reference: van den Oord et al. 2018, arXiv:1807.03748, equation 4; with in-batch negatives Karpukhin et al. 2020,
    arXiv:2004.04906.
    """
    (s,) = clean(where, scores)
    place = jnp.zeros(s.shape[:1], jnp.int32) if target is None else target
    there = jnp.take_along_axis(where, place[:, None], axis=-1)[:, 0]
    found = jnp.take_along_axis(masked_log_softmax(s / temperature, where), place[:, None], axis=-1)[:, 0]
    return keep(there, -found)
