"""Joint preference optimisation over instruction-response pairs (arXiv:2404.00530)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import both, keep, masked_sum, softplus


def dove(
    chosen_logps: Float[Array, "N T"],
    rejected_logps: Float[Array, "N T2"],
    ref_chosen_logps: Float[Array, "N T"],
    ref_rejected_logps: Float[Array, "N T2"],
    chosen_mask: Bool[Array, "N T"],
    rejected_mask: Bool[Array, "N T2"],
    chosen_prompt_mask: Bool[Array, "N T"],
    rejected_prompt_mask: Bool[Array, "N T2"],
    *,
    beta: float = 0.1,
    joint: bool = True,
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N"]:
    """DOVE: DPO on the joint probability of instruction and response; the two instructions may differ.

        h = beta (log pi(x_w, y_w)/ref(x_w, y_w) - log pi(x_l, y_l)/ref(x_l, y_l)),    L = softplus(-h)

    Args:
      chosen_logps: `[N, T]` per-token log-probs of the preferred instruction and its response, in nats.
      rejected_logps: `[N, T2]` of the other instruction and its response.
      ref_chosen_logps: `[N, T]` under the frozen reference.
      ref_rejected_logps: `[N, T2]`.
      chosen_mask: `[N, T]` True on response tokens; entries under neither mask may hold anything.
      rejected_mask: `[N, T2]`.
      chosen_prompt_mask: `[N, T]` True on instruction tokens except the first of the sequence, which nothing predicts.
      rejected_prompt_mask: `[N, T2]`.
      beta: strength of the tie to the reference.
      joint: False sums over response tokens only: DPO whose two sides have prompts of their own.
      where: `[N]` False where there is no pair.

    Returns:
      `[N]` float32 loss; 0 where there is no pair or no token that counts.

    Limits: equal instructions with equal log-probs give DPO; `L(l > w) - L(w > l) = h`; log 2 at policy = reference. In
    joint mode the instruction's tokens receive the same gradient as the response's: watch log pi(x).

    Reference: Bansal et al. 2024, arXiv:2404.00530.
    """
    on_w = chosen_mask | chosen_prompt_mask if joint else chosen_mask
    on_l = rejected_mask | rejected_prompt_mask if joint else rejected_mask
    where = both(where, jnp.any(on_w, axis=-1) | jnp.any(on_l, axis=-1))
    on_w, on_l = on_w & where[:, None], on_l & where[:, None]
    chosen = masked_sum(chosen_logps, on_w) - masked_sum(ref_chosen_logps, on_w)
    rejected = masked_sum(rejected_logps, on_l) - masked_sum(ref_rejected_logps, on_l)
    return keep(where, softplus(-beta * (chosen - rejected)))
