"""Pointwise reward modelling: scores that are to equal ratings; and classes, of which ratings are the shares."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.listwise import masked_log_softmax
from jaxpo.losses.numerics import check_choice, clean
from jaxpo.losses.ranking import point_mse, point_sigmoid

Form = Literal["mse", "bce", "softmax"]


def rating(
    scores: Float[Array, "B C"],
    ratings: Float[Array, "B C"],
    where: Bool[Array, "B C"],
    *,
    form: Form = "mse",
    low: float = 0.0,
    high: float = 1.0,
) -> Float[Array, "B"]:
    """Squared error of a score, or cross-entropy of scores that are logits, against the rating of each aspect.

        mse: L = sum_c (r_c - t_c)^2
        bce: L = sum_c y_c softplus(-r_c) + (1 - y_c) softplus(r_c),    y = (t - low) / (high - low)
        softmax: L = - sum_c y_c log softmax(r)_c,    y = t / sum_c t

    Args:
      scores: `[B, C]` r, one per aspect.
      ratings: `[B, C]` t.
      where: `[B, C]` False where an aspect was not rated.
      form: "mse", "bce", or "softmax", of classes that exclude each other: t is 0 or more, 1 of the class and 0 of the
        others, or how many have said each.
      low, high: bce alone: the ends of the scale of the ratings.

    Returns:
      `[B]` float32, summed over the rated aspects.

    Limits: mse is 0 iff every score is its rating; bce has the gradient sigmoid(r) - y, 0 where the score is the logit
    of the rating, and for ratings at the ends of the scale is the loss of an outcome reward model. softmax is log C for
    equal scores, its gradient is softmax(r) - y, and a shift of a row's scores changes nothing; 0 where sum t is 0.

    Reference: Wang et al. 2024, HelpSteer2, arXiv:2406.08673, section 3.1 (regression); Cobbe et al. 2021,
    arXiv:2110.14168 (cross-entropy).
    """
    check_choice("form", form, ("mse", "bce", "softmax"))
    r, t = clean(where, scores, ratings)
    if form == "mse":
        return point_mse(r, t, where)
    if form == "softmax":
        total = jnp.sum(t, axis=-1, keepdims=True)
        shares = jnp.where(total > 0, t / jnp.where(total > 0, total, 1.0), 0.0)
        return -jnp.sum(shares * masked_log_softmax(r, where), axis=-1)
    return point_sigmoid(r, jnp.where(where, (t - low) / (high - low), 0.0), where)
