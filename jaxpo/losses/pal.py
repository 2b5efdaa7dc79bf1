"""Pluralistic alignment: ideal points that users mix of shared prototypes (arXiv:2406.08469)."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpo.losses.numerics import check_choice, clean, keep, softplus

LARGEST_SCALE = 100.0
"""Of the similarities of PAL-B."""
WEIGHTINGS = ("cumulative", "mean", "last")


def pal(
    chosen_scores: Float[Array, "B T"],
    rejected_scores: Float[Array, "B T"],
    weights: Float[Array, "B T"],
    *,
    form: Literal["hinge", "logistic"] = "hinge",
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """PAL: a pair's loss at every position after the two responses part, weighted.

        d_t = score_t(y_w) - score_t(y_l)
        hinge (PAL-A):    L = sum_t w_t max(0, 1 - d_t),      score = -|x' - u'|     (`pal_distance`)
        logistic (PAL-B): L = sum_t w_t softplus(-d_t),       score = s cos(u', x')  (`pal_similarity`)

    Args:
      chosen_scores, rejected_scores: `[B, T]`, how near the state after token t is to the user's ideal point.
      weights: `[B, T]` of `pal_token_weights`; what lies where they are 0 does not matter.
      form: see above. The hinge has a kink at d = 1, where its gradient is 0.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: exchanging the responses and the label changes nothing; all weight on the last position is a margin loss, or
    Bradley-Terry, of the exported reward.

    Reference: Chen et al. 2024, arXiv:2406.08469; the authors' code, src/loss_function.py.
    """
    check_choice("form", form, ("hinge", "logistic"))
    w = jnp.asarray(weights).astype(jnp.float32)
    inside = w > 0 if where is None else (w > 0) & where[:, None]
    c, r = clean(inside, chosen_scores, rejected_scores)
    d = c - r
    terms = jnp.where(d < 1.0, 1.0 - d, 0.0) if form == "hinge" else softplus(-d)
    return keep(where, jnp.sum(jnp.where(inside, w * terms, 0.0), axis=-1))


def pal_distance(items: Float[Array, "... d"], ideal: Float[Array, "... d"]) -> Float[Array, "..."]:
    """|x' - u'|, not squared; its kink at 0, an item at the ideal point, has the gradient 0.

    Reference: Chen et al. 2024, arXiv:2406.08469, the authors' code, src/pal_rm_a.
    """
    return _length(jnp.asarray(items).astype(jnp.float32) - jnp.asarray(ideal).astype(jnp.float32))


def pal_similarity(
    items: Float[Array, "... d"], ideal: Float[Array, "... d"], log_scale: Float[Array, ""]
) -> Float[Array, "..."]:
    """s cos(u', x') with s = min(e^z, 100); 0 where a vector is 0.

    Args:
      items: `[..., d]` x'.
      ideal: `[..., d]` u'.
      log_scale: z; above log 100 it has no gradient, a kink.

    Reference: Chen et al. 2024, arXiv:2406.08469, the authors' code, src/pal_rm_b.
    """
    x, u = (jnp.asarray(v).astype(jnp.float32) for v in (items, ideal))
    lengths = _length(x) * _length(u)
    cosine = jnp.sum(x * u, axis=-1) / jnp.where(lengths > 0, lengths, 1.0)
    z = jnp.asarray(log_scale).astype(jnp.float32)
    largest = jnp.log(LARGEST_SCALE)
    return jnp.where(z < largest, jnp.exp(jnp.where(z < largest, z, 0.0)), LARGEST_SCALE) * cosine


def pal_token_weights(
    first_difference: Int[Array, "B"],
    end: Int[Array, "B"],
    length: int,
    *,
    weighting: Literal["cumulative", "mean", "last"] = "cumulative",
) -> Float[Array, "B T"]:
    """Weights of the n positions [first difference, end): j / (n (n + 1) / 2) of the j-th; 1 / n; or 1 at the last.

    Args:
      first_difference: `[B]` position of the first token in which the two responses differ.
      end: `[B]` one past the last token of the longer one.
      length: T.
      weighting: see above.

    Returns:
      `[B, T]` float32; they add up to 1, or to 0 for an empty span, which then counts as a loss of 0.

    Reference: Chen et al. 2024, arXiv:2406.08469, the authors' code, "cumulative" by default.
    """
    check_choice("weighting", weighting, WEIGHTINGS)
    t, start, n = jnp.arange(length), first_difference[:, None], (end - first_difference)[:, None]
    inside = (t >= start) & (t < end[:, None])
    span = jnp.maximum(n, 1).astype(jnp.float32)
    place = (t - start + 1).astype(jnp.float32)
    if weighting == "cumulative":
        w = place / (span * (span + 1.0) / 2.0)
    else:
        w = 1.0 / span if weighting == "mean" else (place == span).astype(jnp.float32)
    return jnp.where(inside, w, 0.0)


def pal_mixture(logits: Float[Array, "... K"], *, temperature: float = 1.0) -> Float[Array, "... K"]:
    """w = softmax(logits / tau): a user as a convex combination of K prototypes."""
    return jax.nn.softmax(jnp.asarray(logits).astype(jnp.float32) / temperature, axis=-1)


def pal_bound(ideal: Float[Array, "B d"], radius: float, *, where: Bool[Array, "B"] | None = None) -> Float[Array, "B"]:
    """max(|u'| - c, 0), which keeps ideal points within a ball; a kink on its surface, and none where u' is 0.

    Reference: the authors' configurations name it (c = 23 for PAL-A, 4 for PAL-B), their code leaves it out.
    """
    (u,) = clean(None if where is None else where[:, None], ideal)
    beyond = _length(u) - radius
    return keep(where, jnp.where(beyond > 0, beyond, 0.0))


def _length(x: Float[Array, "... d"]) -> Float[Array, "..."]:
    """|x|, with the gradient 0 where x is 0."""
    square = jnp.sum(x * x, axis=-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
