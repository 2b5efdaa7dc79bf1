"""Online DPO (arXiv:2402.04792): the direct loss on a pair that the model wrote and a judge ordered."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.dpo import dpo
from jaxpo.losses.ipo import ipo_sum
from jaxpo.losses.numerics import check_choice

LossType = Literal["sigmoid", "ipo"]


def online_dpo(
    first_logps: Float[Array, "N"],
    second_logps: Float[Array, "N"],
    ref_first_logps: Float[Array, "N"],
    ref_second_logps: Float[Array, "N"],
    first_wins: Bool[Array, "N"],
    *,
    beta: float = 0.1,
    loss_type: LossType = "sigmoid",
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N"]:
    """DPO, or IPO, on two answers of the policy to one prompt.

        L = dpo(chosen, rejected),    chosen = the first answer where first_wins, else the second

    Args:
      first_logps: `[N]` log-probability of one answer, summed over its tokens, in nats.
      second_logps: `[N]` of the other.
      ref_first_logps: `[N]` the same under the frozen reference.
      ref_second_logps: `[N]`.
      first_wins: `[N]` r_1 >= r_2, or what a judge says.
      beta: strength of the tie to the reference.
      loss_type: "sigmoid" (`dpo`), or "ipo" (`ipo_sum`).
      where: `[N]` False where there is no pair.

    Returns:
      `[N]` float32 loss, 0 where there is no pair.

    Limits: as of `dpo` and `ipo_sum`.

    Reference: Guo et al. 2024, arXiv:2402.04792, section 3.
    """
    check_choice("loss_type", loss_type, ("sigmoid", "ipo"))
    wins = jnp.asarray(first_wins).astype(bool)
    own = (jnp.where(wins, first_logps, second_logps), jnp.where(wins, second_logps, first_logps))
    frozen = (jnp.where(wins, ref_first_logps, ref_second_logps), jnp.where(wins, ref_second_logps, ref_first_logps))
    return {"sigmoid": dpo, "ipo": ipo_sum}[loss_type](*own, *frozen, beta=beta, where=where)
