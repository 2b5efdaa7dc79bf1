"""Binary classifier optimisation on pairs, without a shift (arXiv:2404.04656)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.bco import bco


def bco_pair(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta: float = 0.1,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """BCO on both rows of a pair at shift 0: binary cross-entropy of good against bad.

        L = softplus(-beta (P_w - R_w)) + softplus(beta (P_l - R_l))

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      ref_chosen_logps: `[B]` R_w, the same under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      beta: strength of the tie to the reference.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: 2 log 2 at policy = reference. With r = beta (P - R) it is log(1 + e^-(r_w - r_l) + e^-r_w + e^r_l), hence
    more than the pair's DPO loss.

    Reference: Jung et al. 2024, arXiv:2404.04656, with shift 0; TRL's `loss_type="bco_pair"`.
    """
    good, bad = jnp.ones(jnp.shape(chosen_logps), bool), jnp.zeros(jnp.shape(chosen_logps), bool)
    chosen = bco(chosen_logps, ref_chosen_logps, good, jnp.zeros(()), beta=beta, where=where)
    return chosen + bco(rejected_logps, ref_rejected_logps, bad, jnp.zeros(()), beta=beta, where=where)
