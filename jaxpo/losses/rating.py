"""Pointwise reward modelling: scores that are to equal ratings."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import check_choice, clean
from jaxpo.losses.ranking import point_mse, point_sigmoid

Form = Literal["mse", "bce"]


def rating(
    scores: Float[Array, "B C"],
    ratings: Float[Array, "B C"],
    where: Bool[Array, "B C"],
    *,
    form: Form = "mse",
    low: float = 0.0,
    high: float = 1.0,
) -> Float[Array, "B"]:
    """Squared error of a score, or cross-entropy of a score that is a logit, against the rating of each aspect.

        mse: L = sum_c (r_c - t_c)^2
        bce: L = sum_c y_c softplus(-r_c) + (1 - y_c) softplus(r_c),    y = (t - low) / (high - low)

    Args:
      scores: `[B, C]` r, one per aspect.
      ratings: `[B, C]` t.
      where: `[B, C]` False where an aspect was not rated.
      form: "mse" or "bce".
      low, high: bce alone: the ends of the scale of the ratings.

    Returns:
      `[B]` float32, summed over the rated aspects.

    Limits: mse is 0 iff every score is its rating; bce has the gradient sigmoid(r) - y, 0 where the score is the logit
    of the rating, and for ratings at the ends of the scale is the loss of an outcome reward model.

    Reference: Wang et al. 2024, HelpSteer2, arXiv:2406.08673, section 3.1 (regression); Cobbe et al. 2021,
    arXiv:2110.14168 (cross-entropy).
    """
    check_choice("form", form, ("mse", "bce"))
    r, t = clean(where, scores, ratings)
    if form == "mse":
        return point_mse(r, t, where)
    return point_sigmoid(r, jnp.where(where, (t - low) / (high - low), 0.0), where)
