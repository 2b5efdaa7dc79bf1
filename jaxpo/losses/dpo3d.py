"""DPO's gradients in probability space and two remedies, Flex-DPO and SFT-DPO (3D-Properties, arXiv:2406.07327)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import at_most, clean, keep, softplus


def dpo3d(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta_plus: float = 0.1,
    beta_minus: float = 0.08,
    sft_weight: float = 0.0,
    where: Bool[Array, "B"] | None = None,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """Flex-DPO, a smaller beta on the rejected side, with SFT-DPO's likelihood term.

        h = beta+ (P_w - R_w) - beta- (P_l - R_l),    L_prefer = softplus(-h),    L_sft = -lambda P_w

    A beta- below beta+ slows the drop of the rejected likelihood that drags the chosen one along and moves mass onto
    unseen responses. The terms are returned apart because the second may be averaged over pairs or over chosen tokens.

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      ref_chosen_logps: `[B]` R_w, the same under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      beta_plus: scale of the chosen log-ratio.
      beta_minus: scale of the rejected log-ratio; best a little below beta_plus (0.02 on the paper's poem task).
      sft_weight: lambda, weight of the likelihood term; 0 is Flex-DPO alone.
      where: `[B]` False where there is no pair.

    Returns:
      `(L_prefer [B], L_sft [B])`, float32, 0 where there is no pair.

    Limits: beta- = beta+ and lambda = 0 is DPO; beta- = beta+ is SFT-DPO. Everywhere dL_prefer/dP_l is
    -(beta-/beta+) dL_prefer/dP_w. With beta- unlike beta+, a common shift of both log-ratios changes the loss,
    unlike DPO's.

    Reference: Yan et al. 2024, arXiv:2406.07327, the two regularisers. The paper describes both remedies in words
    and prints no equation of Flex-DPO; whether lambda weighs sums or means per token is not stated.
    """
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    h = beta_plus * (p_w - r_w) - beta_minus * (p_l - r_l)
    return keep(where, softplus(-h)), keep(where, -sft_weight * p_w)


def log_probability_gradients(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta_plus: float = 0.1,
    beta_minus: float = 0.1,
    where: Bool[Array, "B"] | None = None,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """Logs of the magnitudes of DPO's gradients with respect to the two probabilities.

        log |dL/dpi_w| = log beta+ + log sigmoid(-h) - P_w,    log |dL/dpi_l| = log beta- + log sigmoid(-h) - P_l

    In logs, because the gradients themselves are of the size of one over the probability of a whole response.

    Args: as `dpo3d`; equal betas are DPO.

    Returns:
      `(log |dL/dpi_w| [B], log |dL/dpi_l| [B])`, float32, 0 where there is no pair. dL/dpi_w is negative, dL/dpi_l
      positive.

    Limits: with equal betas the second minus the first is P_w - P_l, exactly the log of pi_w / pi_l. As pi_l falls at
    fixed pi_w, |dL/dpi_l| grows without bound like pi_l^(beta - 1) and |dL/dpi_w| vanishes like pi_l^beta.

    Reference: Yan et al. 2024, arXiv:2406.07327, the gradient ratio and Corollaries 1 and 2.
    """
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    fade = -softplus(beta_plus * (p_w - r_w) - beta_minus * (p_l - r_l))
    chosen = jnp.log(jnp.float32(beta_plus)) + fade - p_w
    rejected = jnp.log(jnp.float32(beta_minus)) + fade - p_l
    return keep(where, chosen), keep(where, rejected)


def unseen_mass(logps: Float[Array, "B K"], *, where: Bool[Array, "B K"] | None = None) -> Float[Array, "B"]:
    """`1 - sum_k pi_k`: probability that the policy gives to responses other than the K known ones.

    The mass that the paper's third property, dispersion, speaks of: with K = 2, what neither the chosen nor the
    rejected response of a prompt holds. Rounded sums above 1 give 0; no known response gives 1.
    Kink at a sum of 1: the derivative there is that of 1 - sum, not 0.
    """
    x = jnp.asarray(logps).astype(jnp.float32)
    known = jax.nn.logsumexp(x if where is None else jnp.where(where, x, -jnp.inf), axis=-1)
    return -jnp.expm1(at_most(known, 0.0))
