"""Preference losses that also teach the policy to explain the preference: RDPO, RORPO, RSimPO (arXiv:2407.14477)."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.dpo import dpo
from jaxpo.losses.numerics import both, check_choice, clean, keep, per_token, softplus
from jaxpo.losses.orpo import orpo
from jaxpo.losses.simpo import simpo


def rationales(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    rationale_logps: Float[Array, "B"],
    rationale_lengths: Float[Array, "B"],
    *,
    base: Literal["dpo", "orpo", "simpo"] = "dpo",
    form: Literal["linear", "sigmoid"] = "linear",
    beta: float = 0.1,
    gamma: float = 0.1,
    simpo_gamma: float = 0.5,
    where: Bool[Array, "B"] | None = None,
) -> tuple[Float[Array, "B"], Float[Array, "B"], Float[Array, "B"]]:
    """A pair loss plus the likelihood of a rationale r that explains the pair: p(y_w > y_l, r | x).

        dpo:    L_prefer = softplus(-beta ((P_w - R_w) - (P_l - R_l))),      a = log pi(r | x_r), summed over tokens
        orpo:   L_prefer = beta softplus(-(lo_w - lo_l)),  L_nll = -P_w,     a = log pi(r | x_r) / |r|
        simpo:  L_prefer = softplus(-(beta (P_w / |y_w| - P_l / |y_l|) - m)), a as for orpo
        L_rationale = -gamma a    (form "sigmoid": softplus(-gamma a))

    with the log-odds lo = b - log(1 - e^b) of the mean b = P / |y|. A step minimises `sum(L_prefer + L_rationale) /
    pairs + sum(L_nll) / chosen tokens`; that is why the terms are returned apart.

    Args:
      chosen_logps: `[B]` P_w, summed over the chosen response's tokens, in nats.
      rejected_logps: `[B]` P_l.
      ref_chosen_logps: `[B]` R_w under the frozen reference; read by the dpo base alone, as is R_l.
      ref_rejected_logps: `[B]` R_l.
      chosen_lengths: `[B]` |y_w| in tokens; read by the orpo and simpo bases.
      rejected_lengths: `[B]` |y_l|.
      rationale_logps: `[B]` log pi(r | x_r), summed over the rationale's own tokens; never compared with a reference.
      rationale_lengths: `[B]` |r| in tokens; 0 where the pair has no rationale: the term is then 0.
      base: the pair loss: RDPO, RORPO or RSimPO.
      form: "linear" is the paper's RDPO and the released RORPO "simple"; "sigmoid" is the released code's RDPO and its
        RORPO "sigmoid".
      beta: of the pair loss.
      gamma: weight of the rationale; it multiplies a sum under dpo and means otherwise (released: 0.1 or 0.001; 1).
      simpo_gamma: m, target margin of the simpo base.
      where: `[B]` False where there is no pair.

    Returns:
      `(L_prefer [B], L_nll [B], L_rationale [B])`, float32, 0 where there is no pair; L_nll is 0 unless base is orpo.

    Limits: gamma = 0 is the base, plus log 2 in the sigmoid form. In the rationale's log-prob the sigmoid form has half
    of the linear form's slope where gamma a is small and the same where it is large. Base orpo has the kink of `orpo`.

    Reference: Just et al. 2024, arXiv:2407.14477; the authors' trainers for the sigmoid form and RORPO. RSimPO is
    reconstructed: the paper names it without a formula.
    """
    check_choice("base", base, ("dpo", "orpo", "simpo"))
    check_choice("form", form, ("linear", "sigmoid"))
    explained = both(where, rationale_lengths > 0)
    a, n_r = clean(explained, rationale_logps, rationale_lengths)
    a = a if base == "dpo" else per_token(a, n_r)
    rationale = keep(explained, -gamma * a if form == "linear" else softplus(-gamma * a))
    nll = jnp.zeros_like(a)
    if base == "dpo":
        prefer = dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=beta, where=where)
    elif base == "simpo":
        pair = (chosen_logps, rejected_logps, chosen_lengths, rejected_lengths)
        prefer = simpo(*pair, beta=beta, gamma=simpo_gamma, where=where)
    else:
        prefer, nll = orpo(chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, beta=beta, where=where)
    return prefer, nll, rationale
