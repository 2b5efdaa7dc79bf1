"""XPO (arXiv:2405.21046): online DPO with a bonus for exploring."""

from __future__ import annotations

from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean
from jaxpo.losses.online_dpo import LossType, online_dpo


def xpo(
    logps: Float[Array, "N"],
    other_logps: Float[Array, "N"],
    ref_logps: Float[Array, "N"],
    ref_other_logps: Float[Array, "N"],
    own_wins: Bool[Array, "N"],
    *,
    alpha: float = 1e-5,
    beta: float = 0.1,
    loss_type: LossType = "sigmoid",
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N"]:
    """Online DPO between the policy's answer and the reference's, with a bonus for leaving the latter.

        L = dpo(chosen, rejected) + alpha log pi(y_ref)

    Args:
      logps: `[N]` log-probability of the policy's own answer, summed over its tokens, in nats.
      other_logps: `[N]` log pi(y_ref), of the answer that the reference wrote.
      ref_logps: `[N]` the own answer under the frozen reference.
      ref_other_logps: `[N]` the reference's answer under it.
      own_wins: `[N]` True where the policy's answer is preferred.
      alpha: weight of the bonus.
      beta: strength of the tie to the reference.
      loss_type: "sigmoid" or "ipo".
      where: `[N]` False where there is no pair.

    Returns:
      `[N]` float32 loss, 0 where there is no pair.

    Limits: `online_dpo` at alpha = 0.

    Reference: Xie et al. 2024, arXiv:2405.21046, Algorithm 1.
    """
    pair = (logps, other_logps, ref_logps, ref_other_logps, own_wins)
    bonus = alpha * clean(where, other_logps)[0]
    return online_dpo(*pair, beta=beta, loss_type=loss_type, where=where) + bonus
