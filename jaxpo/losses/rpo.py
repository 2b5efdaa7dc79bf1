"""Regularised preference optimisation: DPO plus the likelihood of the chosen response (arXiv:2405.16436)."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import check_choice, clean, keep, per_token, softplus


def rpo(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    *,
    beta: float = 0.01,
    eta: float = 0.005,
    variant: Literal["sum", "average", "tokens"] = "sum",
    where: Bool[Array, "B"] | None = None,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """RPO: the best policy against an adversarial reward is DPO plus SFT on the chosen responses.

        h = beta ((P_w - R_w) - (P_l - R_l)),    L_prefer = softplus(-h)
        "sum":      L_sft = -eta beta P_w
        "average":  L_sft = -eta P_w / |y_w|
        "tokens":   L_sft = -eta P_w, to be divided by the chosen tokens of the whole step

    The step minimises `sum(L_prefer) / pairs + sum(L_sft) / pairs`; in "tokens" the second denominator is the number of
    chosen tokens, which is why the two are returned apart. The three differ by factors of beta and |y_w|: an eta of one
    is not an eta of another.

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      ref_chosen_logps: `[B]` R_w, the same under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      chosen_lengths: `[B]` |y_w| in tokens; only "average" reads it.
      beta: strength of the tie to the reference: 0.01 or 0.05 with "sum", 0.5 with "average".
      eta: weight of the likelihood term: 0.005 with "sum", 0.2 with "average".
      variant: "sum" is the paper's main text; "average" its appendix F and the authors' preferred setting, better for
        reasoning; "tokens" is what TRL makes of `loss_type=["sigmoid", "sft"]` with `loss_weights=[1, eta]`.
      where: `[B]` False where there is no pair.

    Returns:
      `(L_prefer [B], L_sft [B])`, float32, 0 where there is no pair.

    Limits: eta = 0 is DPO. At policy = reference the "sum" loss is log 2 - eta beta R_w with slope -beta (1/2 + eta) in
    P_w; the slope -beta (sigmoid(-h) + eta) does not vanish for large h. With equal chosen lengths n, "average" and
    "tokens" agree, and "sum" at eta / (beta n) has their mean.

    Reference: Liu et al. 2024, arXiv:2405.16436, the RPO objective ("sum") and appendix F ("average");
    rpo_trainer.py of the authors' repository.
    """
    check_choice("variant", variant, ("sum", "average", "tokens"))
    p_w, p_l, r_w, r_l, n_w = clean(
        where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, chosen_lengths
    )
    h = beta * ((p_w - r_w) - (p_l - r_l))
    likelihood = {"sum": beta * p_w, "average": per_token(p_w, n_w), "tokens": p_w}[variant]
    return keep(where, softplus(-h)), keep(where, -eta * likelihood)
