"""Direct preference optimisation under other divergences, f-DPO (arXiv:2309.16240)."""

from __future__ import annotations

from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import at_most, check_choice, clean, keep, softplus

Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]

LARGEST_EXPONENT = 80.0
"""e^80 is still a float32 after it is scaled; beyond it scores are flat."""


def deformed_log(x: Float[Array, "..."], alpha: float) -> Float[Array, "..."]:
    """`(1 - e^(-alpha x)) / alpha`: x for alpha -> 0, bent down for alpha > 0.

    The exponent -alpha x stops at 80. Kink there: the derivative at 80 itself is that of the exponential.
    """
    if isinstance(alpha, (int, float)) and alpha == 0:
        return x
    return -jnp.expm1(at_most(-alpha * x, LARGEST_EXPONENT)) / alpha


def divergence_score(log_ratio: Float[Array, "..."], divergence: Divergence, alpha: float) -> Float[Array, "..."]:
    """`f'(e^rho)` up to a constant: the reward, over beta, of a response with log-ratio rho under that divergence."""
    check_choice("divergence", divergence, get_args(Divergence))
    scores = {
        "reverse_kl": lambda: log_ratio,
        "forward_kl": lambda: deformed_log(log_ratio, 1.0),
        "js_divergence": lambda: -softplus(-log_ratio),
        "alpha_divergence": lambda: deformed_log(log_ratio, alpha),
    }
    return scores[divergence]()


def fdpo(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta: float = 0.1,
    divergence: Divergence = "js_divergence",
    alpha: float = 0.5,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """f-DPO: DPO whose tie to the reference is another f-divergence than the reverse KL.

        s(rho) = f'(e^rho),    L = softplus(-beta (s(P_w - R_w) - s(P_l - R_l)))

        reverse_kl        s = rho
        forward_kl        s = 1 - e^-rho
        js_divergence     s = log sigmoid(rho)                 (up to a constant)
        alpha_divergence  s = (1 - e^(-alpha rho)) / alpha

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      ref_chosen_logps: `[B]` R_w, the same under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      beta: strength of the tie to the reference.
      divergence: one of the four above. TRL's `f_divergence_type`.
      alpha: of the alpha-divergence, in (0, 1), as in the paper. TRL's `f_alpha_divergence_coef` is 1 - alpha.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: alpha -> 0 and reverse_kl are DPO, alpha = 1 is forward_kl. The exponents of forward_kl and of the
    alpha-divergence stop at 80, beyond which the score is flat (kink at 80: the slope of the exponential); log 2 at
    policy = reference.

    Reference: Wang et al. 2023, arXiv:2309.16240, the generalised DPO objective and Table 1.
    """
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    chosen, rejected = (divergence_score(rho, divergence, alpha) for rho in (p_w - r_w, p_l - r_l))
    return keep(where, softplus(-beta * (chosen - rejected)))
