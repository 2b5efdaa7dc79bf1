"""Triple preference optimisation (arXiv:2405.16681)."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import check_choice, clean, keep, per_token, smoothed_logistic


def tpo_triple(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    gold_logps: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    *,
    variant: Literal["tpo", "tpo_l", "hinge", "ipo"] = "tpo",
    beta: float = 0.01,
    alpha: float = 1.0,
    gamma: float = 0.5,
    label_smoothing: float = 0.0,
    where: Bool[Array, "B"] | None = None,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """TPO: a reference-free pair loss plus the likelihood of a third, gold response; one step instead of SFT and DPO.

        tpo:    h = beta (P_w - P_l),                                 L_prefer = (1 - e) softplus(-h) + e softplus(h)
        tpo_l:  h = beta (P_w / |y_w| - P_l / |y_l|) - gamma,         L_prefer as for tpo
        hinge:  L_prefer = max(0, 1 - beta (P_w - P_l))
        ipo:    L_prefer = (P_w / |y_w| - P_l / |y_l| - 1 / (2 beta))^2
        L_nll = -alpha P_gold

    The two terms have different denominators: a step minimises `sum(L_prefer) / pairs + sum(L_nll) / gold tokens`, both
    counted over the whole step. That is why they are returned apart.

    Args:
      chosen_logps: `[B]` P_w, summed over the chosen (second best) response's tokens, in nats.
      rejected_logps: `[B]` P_l, the worst response; 0 for an empty one.
      gold_logps: `[B]` P_gold, the best response; 0 for an empty one.
      chosen_lengths: `[B]` |y_w| in tokens; read by tpo_l and ipo alone.
      rejected_lengths: `[B]` |y_l|.
      variant: form of the pair term.
      beta: reward scale; about 0.01 for sums, 2 to 10 for the means of tpo_l.
      alpha: weight of the likelihood term. TRL's `tpo_alpha`.
      gamma: target reward margin of tpo_l (0.3 to 10). TRL's `tpo_l_gamma`.
      label_smoothing: e, probability that a label is flipped; of tpo and tpo_l.
      where: `[B]` False where there is no triple.

    Returns:
      `(L_prefer [B], L_nll [B])`, float32, 0 where there is no triple.

    Limits: gold = chosen is CPO; alpha = 0 is DPO against a uniform reference, and for tpo_l SimPO; beta = 0 leaves
    log 2 and SFT on the gold response. hinge has a kink at beta (P_w - P_l) = 1: the derivative there is 0.

    Reference: Saeidi et al. 2024, arXiv:2405.16681; tpo_l: its later revision; hinge and ipo: TRL's `TPOTrainer`.
    """
    check_choice("variant", variant, ("tpo", "tpo_l", "hinge", "ipo"))
    p_w, p_l, p_gold = clean(where, chosen_logps, rejected_logps, gold_logps)
    difference = p_w - p_l
    if variant in ("tpo_l", "ipo"):
        n_w, n_l = clean(where, chosen_lengths, rejected_lengths)
        difference = per_token(p_w, n_w) - per_token(p_l, n_l)
    if variant == "hinge":
        prefer = jax.nn.relu(1.0 - beta * difference)
    elif variant == "ipo":
        prefer = jnp.square(difference - 1.0 / (2.0 * beta))
    else:
        prefer = smoothed_logistic(beta * difference - (gamma if variant == "tpo_l" else 0.0), label_smoothing)
    return keep(where, prefer), keep(where, -alpha * p_gold)
