"""Bradley-Terry reward modelling."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, smoothed_logistic


def bradley_terry(
    chosen_rewards: Float[Array, "B"],
    rejected_rewards: Float[Array, "B"],
    margin: Float[Array, "B"] | None = None,
    *,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    center_rewards_coefficient: float = 0.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Negative log-likelihood that the chosen response wins, with margin, label smoothing and centring.

        d = (r_w - r_l - m) / tau,    L = (1 - e) softplus(-d) + e softplus(d) + c (r_w + r_l)^2

    Args:
      chosen_rewards: `[B]` r_w.
      rejected_rewards: `[B]` r_l.
      margin: `[B]` m, how much better the chosen response is known to be; None = 0.
      temperature: tau.
      label_smoothing: e, probability that a label is flipped; the optimum then has sigmoid(d) = 1 - e.
      center_rewards_coefficient: c, fixes the constant that the model leaves free (0.01 where it is used).
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: log 2 for equal rewards; without centring a constant added to every reward changes nothing.

    Reference: Bradley and Terry 1952; margin: Touvron et al. 2023, arXiv:2307.09288, Eq. 2; centring: Eisenstein et al.
    2023, arXiv:2312.09244.
    """
    r_w, r_l = clean(where, chosen_rewards, rejected_rewards)
    d = r_w - r_l
    if margin is not None:
        d = d - clean(where, margin)[0]
    loss = smoothed_logistic(d / temperature, label_smoothing)
    if center_rewards_coefficient:
        loss = loss + center_rewards_coefficient * jnp.square(r_w + r_l)
    return keep(where, loss)
