"""Refined regularised preference optimisation (arXiv:2504.12083)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpo.losses.numerics import both, keep, masked_sum, softplus


def rrpo(
    chosen_logps: Float[Array, "N T"],
    rejected_logps: Float[Array, "N T2"],
    ref_chosen_logps: Float[Array, "N T"],
    ref_rejected_logps: Float[Array, "N T2"],
    chosen_kl: Float[Array, "N T"],
    chosen_mask: Bool[Array, "N T"],
    rejected_mask: Bool[Array, "N T2"],
    chosen_phrases: Int[Array, "N T"],
    rejected_phrases: Int[Array, "N T2"],
    *,
    beta: float = 0.1,
    alpha: float = 0.01,
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N"]:
    """RRPO: DPO on the phrases that differ, and a token-wise KL to the reference on the whole chosen response.

        rho_t = log pi(y_t) - log pi_ref(y_t)
        u = sum_{phrase tokens of y_w} rho_t - sum_{phrase tokens of y_l} rho_t
        L = softplus(-beta u) + alpha sum_{t <= |y_w|} KL(pi_ref || pi)_t

    Args:
      chosen_logps: `[N, T]` per-token log-probs of the chosen response, in nats.
      rejected_logps: `[N, T2]`.
      ref_chosen_logps: `[N, T]` under the frozen reference.
      ref_rejected_logps: `[N, T2]`.
      chosen_kl: `[N, T]` KL(reference || policy) over the whole vocabulary at each token, >= 0, with its gradient.
      chosen_mask: `[N, T]` True on response tokens; other entries of all arrays may hold anything.
      rejected_mask: `[N, T2]`.
      chosen_phrases: `[N, T]` 0 on text that both responses share, k >= 1 on the k-th differing phrase. Only the sum
        over all phrases counts.
      rejected_phrases: `[N, T2]`.
      beta: strength of the tie to the reference (0.1 to 0.9).
      alpha: weight of the KL (0.01 to 0.1).
      where: `[N]` False where there is no pair.

    Returns:
      `[N]` float32 loss; 0 where there is no pair or no token on either side.

    Limits: every token marked and alpha = 0 is DPO. Without a marked phrase the first term is log 2 and the gradient
    is that of the KL alone; at policy = reference the loss is log 2.

    Reference: Sarkar and Etemad 2025, arXiv:2504.12083. As printed, with the KL inside the negated expectation, the
    objective would reward a large KL; the released code adds it as a penalty, as here.
    """
    where = both(where, jnp.any(chosen_mask, axis=-1) | jnp.any(rejected_mask, axis=-1))
    on_w, on_l = chosen_mask & where[:, None], rejected_mask & where[:, None]
    marked_w, marked_l = on_w & (chosen_phrases > 0), on_l & (rejected_phrases > 0)
    u_w = masked_sum(chosen_logps, marked_w) - masked_sum(ref_chosen_logps, marked_w)
    u_l = masked_sum(rejected_logps, marked_l) - masked_sum(ref_rejected_logps, marked_l)
    return keep(where, softplus(-beta * (u_w - u_l)) + alpha * masked_sum(chosen_kl, on_w))
