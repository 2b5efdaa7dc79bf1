"""Multi-objective direct preference optimisation (arXiv:2310.03708)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import check_choice, clean, keep, softplus


def modpo(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    chosen_rewards: Float[Array, "B C"],
    rejected_rewards: Float[Array, "B C"],
    *,
    weights: Sequence[float] = (0.5, 0.5),
    beta: float = 0.1,
    form: Literal["logistic", "hinge"] = "logistic",
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """MODPO: DPO on one objective's pairs, with the frozen rewards of the other objectives as a margin.

        g(y) = (beta (P(y) - R(y)) - sum_k w_k r_k(x, y)) / w_0,    h = g(y_w) - g(y_l)
        L = softplus(-h)    (hinge: max(0, 1 - h))

    Args:
      chosen_logps: `[B]` P_w, summed over the chosen response's tokens, in nats.
      rejected_logps: `[B]` P_l.
      ref_chosen_logps: `[B]` R_w under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      chosen_rewards: `[B, C]` r_1 .. r_C of the chosen response; constants, no gradient passes. A reward that DPO on
        objective k has learnt is beta_k (log pi_k - log pi_ref), summed over tokens.
      rejected_rewards: `[B, C]` of the rejected response.
      weights: w_0 > 0 of the objective that labelled the pairs, then w_1 .. w_C.
      beta: strength of the tie to the reference.
      form: logistic, or the hinge of the released code.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: w = (1, 0, ..) is DPO; rewards that are equal on both sides leave DPO at beta / w_0; a constant added to
    both sides changes nothing. At pi proportional to pi_ref exp(w . r / beta), h is the true gap of objective 0. As w_0
    goes to 0 the logits grow as 1 / w_0: at w_0 = 0 train on another objective's pairs. The hinge has a kink at h = 1:
    the derivative there is 0.

    Reference: Zhou et al. 2024, arXiv:2310.03708, the MODPO loss of Section 3.2; hinge: its authors' trainer.
    """
    check_choice("form", form, ("logistic", "hinge"))
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    m_w, m_l = clean(None if where is None else where[:, None], chosen_rewards, rejected_rewards)
    h = modpo_reward(p_w, r_w, m_w, weights=weights, beta=beta) - modpo_reward(
        p_l, r_l, m_l, weights=weights, beta=beta
    )
    return keep(where, softplus(-h) if form == "logistic" else jax.nn.relu(1.0 - h))


def modpo_reward(
    logps: Float[Array, "B"],
    ref_logps: Float[Array, "B"],
    rewards: Float[Array, "B C"],
    *,
    weights: Sequence[float] = (0.5, 0.5),
    beta: float = 0.1,
) -> Float[Array, "B"]:
    """The reward of objective 0 that a MODPO policy stands for: `g = (beta (P - R) - sum_k w_k r_k) / w_0`.

    Args and weights as `modpo`, for one response; no gradient reaches `rewards`. Returns `[B]` float32.

    Reference: Zhou et al. 2024, arXiv:2310.03708, Section 3.2.
    """
    if len(weights) != rewards.shape[-1] + 1:
        raise ValueError(f"modpo: {len(weights)} weights for 1 + {rewards.shape[-1]} objectives")
    p, r, m = clean(None, logps, ref_logps, rewards)
    frozen = jax.lax.stop_gradient(m) @ jnp.asarray(weights[1:], jnp.float32)
    return (beta * (p - r) - frozen) / weights[0]
