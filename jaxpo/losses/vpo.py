"""Value-incentivised preference optimisation (arXiv:2405.19320)."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Array, Bool, Float

from jaxpo.losses.dpo import dpo
from jaxpo.losses.numerics import check_choice, clean, keep


def vpo(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    calibration_logps: Float[Array, "C"],
    ref_calibration_logps: Float[Array, "C"],
    *,
    form: Literal["offline", "online"] = "offline",
    beta: float = 0.1,
    alpha: float | None = None,
    where: Bool[Array, "B"] | None = None,
    calibration_where: Bool[Array, "C"] | None = None,
) -> tuple[Float[Array, "B"], Float[Array, "C"]]:
    """VPO: DPO, and the optimal value of the fitted reward as a likelihood term on calibration responses.

        d(y) = log pi(y) - log ref(y)
        L_pair = softplus(-beta (d_w - d_l)),    L_calibration = s alpha beta d(y),    s = 1 online, -1 offline

    Online is optimism: the likelihood of calibration responses goes down, away from what is known. Offline is
    pessimism: it goes up. The two terms are averaged each over its own responses. The online sum is not bounded below:
    keep alpha small, and draw the responses anew in every round.

    Args:
      chosen_logps: `[B]` log pi of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` of the rejected one.
      ref_chosen_logps: `[B]` the chosen one under the frozen reference.
      ref_rejected_logps: `[B]` the rejected one.
      calibration_logps: `[C]` log pi of responses of a fixed distribution, whose mean reward is set to 0.
      ref_calibration_logps: `[C]` the same under the reference.
      form: "offline" or "online".
      beta: strength of the tie to the reference.
      alpha: weight of the value; None = 0.1 offline, 0.01 online.
      where: `[B]` False where there is no pair.
      calibration_where: `[C]` False where there is no calibration response; None = `where`.

    Returns:
      `[B]` and `[C]` float32; 0 where there is nothing.

    Limits: `dpo` at alpha = 0; the online and the offline sum of the same responses are twice `dpo`. With responses of
    the reference the second term is -s alpha beta KL(ref || pi) in expectation; `xpo` is the online form with these and
    alpha beta as its alpha, up to a constant. With the chosen responses offline it is DPO and alpha beta times their
    negative log-likelihood.

    Reference: Cen et al. 2024, arXiv:2405.19320, the policy side of Eqs. 9 and 14.
    """
    check_choice("form", form, ("offline", "online"))
    pair = dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=beta, where=where)
    here = where if calibration_where is None else calibration_where
    p, r = clean(here, calibration_logps, ref_calibration_logps)
    return pair, keep(here, signed_weight(form, alpha) * beta * (p - r))


def signed_weight(form: str, alpha: float | None) -> float:
    """`s alpha`: above 0 online, below 0 offline."""
    online = form == "online"
    weight = (0.01 if online else 0.1) if alpha is None else alpha
    return weight if online else -weight
