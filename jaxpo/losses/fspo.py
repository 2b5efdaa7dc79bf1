"""Few-shot preference optimisation: a pair of one user, judged after pairs of the same user (arXiv:2502.19312)."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpo.losses.numerics import check_choice, clean, keep, smoothed_logistic


def fspo(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    user_weight: Float[Array, "B"] | None = None,
    *,
    form: Literal["ipo", "dpo"] = "ipo",
    beta: float = 0.01,
    label_smoothing: float = 0.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """FSPO: IPO or DPO on sums of log-probs given a prompt that shows N labelled pairs of the same user.

        h = (P_w - R_w) - (P_l - R_l),    P = log pi(y | shots, x)
        ipo:  L = (h - 1 / (2 beta))^2
        dpo:  L = (1 - e) softplus(-beta h) + e softplus(beta h)

    Args:
      chosen_logps: `[B]` P_w given shots and question, summed over the response's tokens, in nats.
      rejected_logps: `[B]` P_l.
      ref_chosen_logps: `[B]` R_w under the frozen few-shot SFT model, given the same prompt.
      ref_rejected_logps: `[B]` R_l.
      user_weight: `[B]` what each pair counts, no gradient; `user_weights` makes the mean one over users. None = 1.
      form: the paper's main loss "ipo", or "dpo".
      beta: tau of IPO, strength of the tie to the reference.
      label_smoothing: e, probability that a label is flipped; of the form dpo.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: without shots and with one user this is `ipo_sum`, or `dpo`. At policy = reference 1 / (4 beta^2), or log 2.
    The form ipo is 0 exactly at h = 1 / (2 beta) and grows beyond; dpo falls in h throughout.

    Reference: Singh et al. 2025, arXiv:2502.19312, Eq. 2; forms, sums and beta: its authors' trainer.
    """
    check_choice("form", form, ("ipo", "dpo"))
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    h = (p_w - r_w) - (p_l - r_l)
    loss = jnp.square(h - 1.0 / (2.0 * beta)) if form == "ipo" else smoothed_logistic(beta * h, label_smoothing)
    if user_weight is not None:
        loss = jax.lax.stop_gradient(clean(where, user_weight)[0]) * loss
    return keep(where, loss)


def user_weights(user: Int[Array, "B"], *, where: Bool[Array, "B"] | None = None) -> Float[Array, "B"]:
    """What each pair counts so that the mean over pairs is the mean over users of the mean over each user's pairs.

        w_i = B / (S n_i),    n_i pairs of the pair's user, S users, B pairs;    sum w_i = B

    The users of all pairs that are averaged over must be known: an objective that uses it is coupled.

    Args:
      user: `[B]` number of each pair's user.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32, 0 where there is no pair.

    Limits: 1 where all users have equally many pairs. A user whose pairs are all there twice counts as before.

    Reference: arXiv:2502.19312, the outer expectation over users.
    """
    here = jnp.ones_like(user, dtype=bool) if where is None else where
    own = jnp.sum((user[:, None] == user[None, :]) & here[None, :], axis=1)
    share = jnp.where(here, 1.0 / jnp.maximum(own, 1), 0.0)
    return share * jnp.sum(here) / jnp.maximum(jnp.sum(share), 1.0)
