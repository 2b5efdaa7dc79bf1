"""Step-level preferences by tree search (arXiv:2405.00451): DPO on sibling steps, smoothed by their visits."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import both, check_choice, clean, keep, masked_sum, smoothed_logistic


def mcts_dpo(
    chosen_logps: Float[Array, "B T"],
    rejected_logps: Float[Array, "B T"],
    ref_chosen_logps: Float[Array, "B T"],
    ref_rejected_logps: Float[Array, "B T"],
    chosen_step: Bool[Array, "B T"],
    rejected_step: Bool[Array, "B T"],
    smoothing: Float[Array, "B"],
    *,
    beta: float = 0.1,
    length_power: float = 0.0,
    form: Literal["sigmoid", "ipo"] = "sigmoid",
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Step DPO: two steps that a search tried after the same beginning, each label as sure as the visits make it.

        z = rho_w / |w|^p - rho_l / |l|^p,    rho = sum over the step's tokens of log pi - log ref
        L = (1 - a) softplus(-beta z) + a softplus(beta z)    (ipo: (z - 1 / (2 beta))^2)

    Args:
      chosen_logps: `[B, T]` log-probabilities of the tokens of the beginning and the better step, in nats.
      rejected_logps: `[B, T]` of the beginning and the worse step.
      ref_chosen_logps: `[B, T]` the first under the reference.
      ref_rejected_logps: `[B, T]` the second.
      chosen_step: `[B, T]` True on the tokens of the better step: from the first one at which the two differ.
      rejected_step: `[B, T]` likewise.
      smoothing: `[B]` a in [0, 1/2], N_l / (N_w + N_l) of the visits. A constant, no gradient passes.
      beta: strength of the tie to the reference.
      length_power: p, how much of a step's length its log-ratio is divided by.
      form: "sigmoid", or "ipo", which takes no smoothing.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: `dpo` of the steps at a = 0 and p = 0; at a = 1/2 the gradient at z = 0 is 0. What both share is
    nowhere.

    Reference: Xie et al. 2024, arXiv:2405.00451, Eq. 6, and its authors' trainer.
    """
    check_choice("form", form, ("sigmoid", "ipo"))
    sides = (
        step_log_ratio(chosen_logps, ref_chosen_logps, chosen_step, where, length_power),
        step_log_ratio(rejected_logps, ref_rejected_logps, rejected_step, where, length_power),
    )
    z = sides[0] - sides[1]
    (a,) = clean(where, smoothing)
    if form == "ipo":
        return keep(where, jnp.square(z - 1.0 / (2.0 * beta)))
    return keep(where, smoothed_logistic(beta * z, jax.lax.stop_gradient(a)))  # type: ignore[arg-type]


def step_log_ratio(
    logps: Float[Array, "B T"],
    ref_logps: Float[Array, "B T"],
    step: Bool[Array, "B T"],
    where: Bool[Array, "B"] | None,
    power: float,
) -> Float[Array, "B"]:
    """`[B]` rho / |y|^p of a step: its log-ratio, divided by so much of its length."""
    here = step if where is None else both(step, where[:, None])
    p, r = clean(here, logps, ref_logps)
    total = masked_sum(p - r, here)
    if power == 0:
        return total
    return total / jnp.maximum(jnp.sum(here, axis=-1).astype(jnp.float32), 1.0) ** power
