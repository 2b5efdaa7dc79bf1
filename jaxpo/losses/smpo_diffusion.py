"""SmPO-Diffusion (arXiv:2506.02698): how sure a reward model is of a pair scales its logit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.diffusion_dpo import diffusion_dpo
from jaxpo.losses.numerics import clean, keep

PICKSCORE = (0.1154353, 0.2820157)
"""Least and largest PickScore of the authors' data set."""


def smpo_diffusion(
    chosen_errors: Float[Array, "B"],
    rejected_errors: Float[Array, "B"],
    ref_chosen_errors: Float[Array, "B"],
    ref_rejected_errors: Float[Array, "B"],
    chosen_rewards: Float[Array, "B"],
    rejected_rewards: Float[Array, "B"],
    *,
    beta: float = 2000.0,
    gamma: float = 10.0,
    factor: float = 0.5,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """SmPO-Diffusion: the loss of DDIM-InPO with a soft label instead of a hard one.

        p = sigmoid(r'_w - r'_l),    L = -log sigmoid(-f beta gamma (2 p - 1) (s_w - s_l))

    Args:
      chosen_errors, rejected_errors, ref_chosen_errors, ref_rejected_errors: `[B]` as in `inpo_ddim`; SmPO's inversion
        has one ReNoise correction per segment and no added noise.
      chosen_rewards: `[B]` r'_w of `smpo_rewards`; a constant.
      rejected_rewards: `[B]` r'_l. One that is larger than r'_w turns the pair round.
      beta: 2000 for SD 1.5, 5000 for SDXL.
      gamma: scale of the soft label.
      factor: f, as in `diffusion_dpo`.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: equal rewards cost log 2 with a gradient of exactly 0; gamma = 1 and p = 1 is `inpo_ddim`. Exchanging the
    images together with their rewards changes nothing. Rewards within [0, 1] weigh at most gamma tanh(1/2) = .46 gamma.

    Reference: Lu et al. 2025, arXiv:2506.02698; the authors' code, train.py.
    """
    weights = smpo_weights(chosen_rewards, rejected_rewards, gamma=gamma, where=where)
    errors = (chosen_errors, rejected_errors, ref_chosen_errors, ref_rejected_errors)
    return diffusion_dpo(*errors, weights, beta=beta, factor=factor, where=where)


def smpo_weights(
    chosen_rewards: Float[Array, "B"],
    rejected_rewards: Float[Array, "B"],
    *,
    gamma: float = 10.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """gamma (2 sigmoid(r'_w - r'_l) - 1) = gamma tanh((r'_w - r'_l) / 2): `[B]` float32, without gradient.

    Reference: Lu et al. 2025, arXiv:2506.02698: the log-density (p_w)^alpha (p_l)^(gamma - alpha), alpha = gamma p.
    """
    w, v = clean(where, chosen_rewards, rejected_rewards)
    return keep(where, gamma * jnp.tanh(0.5 * jax.lax.stop_gradient(w - v)))


def smpo_rewards(
    rewards: Float[Array, "..."], lowest: float = PICKSCORE[0], highest: float = PICKSCORE[1]
) -> Float[Array, "..."]:
    """r' = (r - r_min) / (r_max - r_min), with the least and largest reward of the whole data set.

    Raises:
      ValueError: all rewards are alike.
    """
    if not highest > lowest:
        raise ValueError(f"smpo_rewards: the largest reward, {highest}, is not above the least, {lowest}")
    return (jnp.asarray(rewards).astype(jnp.float32) - lowest) / (highest - lowest)
