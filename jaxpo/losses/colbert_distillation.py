"""Distillation of a reranker's scores into a late-interaction retriever, as LFM2-ColBERT is trained."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.listwise import masked_log_softmax, masked_softmax
from jaxpo.losses.numerics import clean

SMALLEST = 1e-8
"""Added to the range of scores."""


def min_max(scores: Float[Array, "B K"], where: Bool[Array, "B K"]) -> Float[Array, "B K"]:
    """`(s - min s) / (max s - min s + 1e-8)` over each list; 0 where there is no document.

    Kinks: the first of several smallest, and of several largest, scores takes the gradient. Where all are equal the
    function jumps: it is 0 there, with gradient 0 instead of 1e8.
    """
    low = _first(scores, jnp.argmin(jnp.where(where, scores, jnp.inf), axis=-1))
    high = _first(scores, jnp.argmax(jnp.where(where, scores, -jnp.inf), axis=-1))
    apart = high > low
    return jnp.where(where & apart, (scores - low) / jnp.where(apart, high - low + SMALLEST, 1.0), 0.0)


def _first(scores: Array, index: Array) -> Array:
    return jnp.take_along_axis(scores, index[..., None], axis=-1)


def colbert_distillation(
    scores: Float[Array, "B K"],
    teacher_scores: Float[Array, "B K"],
    where: Bool[Array, "B K"],
    *,
    normalize: bool = True,
    temperature: float = 1.0,
    teacher_temperature: float = 1.0,
) -> Float[Array, "B"]:
    """KL from the teacher's distribution over a query's documents to the student's.

        s' = (s - min s) / (max s - min s + 1e-8)  if normalize  else s
        p = softmax(t / tau_t),    L = sum_k p_k (log p_k - log softmax(s' / tau)_k)

    Args:
      scores: `[B, K]` s, late-interaction scores of a query and its documents (sums over the query's rows).
      teacher_scores: `[B, K]` t, as they are: bring them to [0, 1] where the student's are. No gradient.
      where: `[B, K]` False where the list has no such document.
      normalize: the student's scores are brought to [0, 1] within each list.
      temperature, teacher_temperature: tau and tau_t; the loss is not multiplied by tau^2.

    Returns:
      `[B]` float32; 0 for a list with fewer than two documents.

    Kinks: where several scores are the smallest or the largest, see `min_max`.

    Limits: a shift of s changes nothing and, normalised, neither does a positive scale: the gradient is orthogonal to
    (1, ..., 1) and to s. Of two documents s' is {0, 1} whatever s is, so that normalised the gradient is 0: give three
    or more. The loss is 0 where both distributions are one.

    Reference: LFM2 technical report 2025, arXiv:2511.23404, section on LFM2-ColBERT; Santhanam et al. 2022,
    arXiv:2112.01488 (distillation); min-max normalisation as in pylate.
    """
    s, t = clean(where, scores, teacher_scores)
    s = min_max(s, where) if normalize else s
    target = jax.lax.stop_gradient(masked_softmax(t / teacher_temperature, where))
    of_teacher = jax.lax.stop_gradient(masked_log_softmax(t / teacher_temperature, where))
    return jnp.sum(target * (of_teacher - masked_log_softmax(s / temperature, where)), axis=-1)
