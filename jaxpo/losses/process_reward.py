"""Outcome and process reward models: cross-entropy on whether an answer, or each of its steps, is right."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import check_choice, clean, keep, softplus

How = Literal["min", "product", "last", "mean"]


def outcome_reward(
    scores: Float[Array, "B"], label: Float[Array, "B"], *, where: Bool[Array, "B"] | None = None
) -> Float[Array, "B"]:
    """Outcome reward model: is the answer right?

        L = y softplus(-r) + (1 - y) softplus(r)

    Args:
      scores: `[B]` r, the logit that the answer is right.
      label: `[B]` y in [0, 1].
      where: `[B]` False where there is no answer.

    Returns:
      `[B]` float32 loss, 0 where there is no answer.

    Limits: dL/dr = sigmoid(r) - y. Of a head with two classes, r is the difference of their logits and this their
    cross-entropy. One right and one wrong answer cost more than their Bradley-Terry loss.

    Reference: Cobbe et al. 2021, arXiv:2110.14168, section 4.
    """
    r, y = clean(where, scores, label)
    return keep(where, y * softplus(-r) + (1.0 - y) * softplus(r))


def process_reward(
    scores: Float[Array, "B T"],
    labels: Float[Array, "B T"],
    where: Bool[Array, "B T"],
    *,
    last_step_only: bool = False,
) -> Float[Array, "B"]:
    """Process reward model: is each step of the answer right?

        L = sum_t y_t softplus(-r_t) + (1 - y_t) softplus(r_t),    over the positions t at which a step ends

    Args:
      scores: `[B, T]` r, the logit that the step that ends here is right.
      labels: `[B, T]` y in [0, 1].
      where: `[B, T]` True at the last token of each labelled step.
      last_step_only: the label of the last labelled step alone counts.

    Returns:
      `[B]` float32, summed over each answer's steps.

    Limits: with last_step_only, or one step, it is `outcome_reward`.

    Reference: Lightman et al. 2023, arXiv:2305.20050, section 2.6; Uesato et al. 2022, arXiv:2211.14275.
    """
    seen = last_of_row(where) if last_step_only else where
    r, y = clean(seen, scores, labels)
    return jnp.sum(jnp.where(seen, y * softplus(-r) + (1.0 - y) * softplus(r), 0.0), axis=-1)


def solution_score(
    scores: Float[Array, "... T"], where: Bool[Array, "... T"], *, how: How = "min"
) -> Float[Array, "..."]:
    """One number for an answer: what its steps' probabilities of being right come to.

        p_t = sigmoid(r_t),    min_t p_t,  prod_t p_t,  p_last,  or mean_t p_t

    Args:
      scores: `[..., T]` r.
      where: `[..., T]` True at the last token of each step.
      how: "min", "product", "last" or "mean".

    Returns:
      `[...]` float32 in [0, 1]; 0 for an answer without steps.

    Limits: all four are p of a single step; product <= min <= mean. Kink of min where two worst steps are equal.

    Reference: Lightman et al. 2023, arXiv:2305.20050, appendix F (product, min); Wang et al. 2024, arXiv:2312.08935.
    """
    check_choice("how", how, ("min", "product", "last", "mean"))
    r, some = clean(where, scores)[0], jnp.any(where, axis=-1)
    if how == "min":
        found = jax.nn.sigmoid(jnp.min(jnp.where(where, r, jnp.inf), axis=-1, initial=jnp.inf))
    elif how == "product":
        found = jnp.exp(-jnp.sum(jnp.where(where, softplus(-r), 0.0), axis=-1))
    elif how == "last":
        found = jnp.sum(jnp.where(last_of_row(where), jax.nn.sigmoid(r), 0.0), axis=-1)
    else:
        steps = jnp.maximum(jnp.sum(where, axis=-1), 1)
        found = jnp.sum(jnp.where(where, jax.nn.sigmoid(r), 0.0), axis=-1) / steps
    return jnp.where(some, found, 0.0)


def last_of_row(where: Bool[Array, "... T"]) -> Bool[Array, "... T"]:
    """True at the last True of each row alone."""
    after = jnp.flip(jnp.cumsum(jnp.flip(where, axis=-1), axis=-1), axis=-1)
    return where & (after == 1)
