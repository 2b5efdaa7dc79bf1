"""Late interaction: the score of a query and a document from a vector for each of their tokens (ColBERT)."""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Masked = Literal["-inf", "zero"]
BUDGET = 1 << 24
"""Similarities that `maxsim_all` holds at once; 64 MiB in float32."""


def maxsim(
    queries: Float[Array, "... Q E"],
    documents: Float[Array, "... T E"],
    asks: Bool[Array, "... Q"] | None = None,
    kept: Bool[Array, "... T"] | None = None,
    *,
    masked: Masked = "-inf",
) -> Float[Array, "..."]:
    """`score = sum_{i asks} max_{j kept} <q_i, d_j>` in float32 (ColBERT, arXiv 2004.12832, equation 3).

    The first of several equal maxima takes the gradient. A document without a kept row scores 0, with gradient 0. The
    similarities are computed again in the backward pass.

    Args:
      queries, documents: leading axes are broadcast.
      asks: rows of the query that count; None = all.
      kept: rows of the document that can be found; None = all.
      masked: what a row that is not kept is worth. "-inf" never wins; "zero" is pylate's in training: it multiplies
        such similarities by 0, so that they beat negative ones.
    """
    return _maxsim(queries, documents, asks, kept, masked)


def maxsim_all(
    queries: Float[Array, "N Q E"],
    documents: Float[Array, "M T E"],
    asks: Bool[Array, "N Q"] | None = None,
    kept: Bool[Array, "M T"] | None = None,
    *,
    masked: Masked = "-inf",
) -> Float[Array, "N M"]:
    """`maxsim` of every query with every document, a few queries at a time: `[N, M, Q, T]` never exists."""
    n, q, _ = queries.shape
    m, t, _ = documents.shape
    each = max(1, min(n, BUDGET // max(1, m * q * t)))
    asks = jnp.ones((n, q), bool) if asks is None else asks
    steps = -(-n // each)
    pad = ((0, steps * each - n), (0, 0))
    queries = jnp.pad(queries, (*pad, (0, 0))).reshape(steps, each, q, -1)
    asks = jnp.pad(asks, pad).reshape(steps, each, q)

    def some(_: None, block: tuple[Array, Array]) -> tuple[None, Array]:
        vectors, asking = block
        return None, _maxsim(vectors[:, None], documents[None], asking[:, None], kept, masked)

    return jax.lax.scan(some, None, (queries, asks))[1].reshape(steps * each, m)[:n]


@functools.partial(jax.checkpoint, static_argnums=(4,))
def _maxsim(queries: Array, documents: Array, asks: Array | None, kept: Array | None, masked: Masked) -> Array:
    found = jnp.einsum("...qe,...te->...qt", queries, documents, preferred_element_type=jnp.float32)
    if kept is not None and masked == "zero":
        found = jnp.where(kept[..., None, :], found, 0.0)
    elif kept is not None:
        found = jnp.where(kept[..., None, :], found, -jnp.inf)
    first = jnp.argmax(found, axis=-1, keepdims=True)
    best = jnp.take_along_axis(found, first, axis=-1)[..., 0]
    best = jnp.where(jnp.isneginf(best), 0.0, best)
    return jnp.sum(best if asks is None else jnp.where(asks, best, 0.0), axis=-1)
