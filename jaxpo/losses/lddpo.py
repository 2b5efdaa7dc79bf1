"""Length-desensitised direct preference optimisation (arXiv:2409.06411)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import both, keep, masked_sum, softplus


def tail_weights(mask: Bool[Array, "N T"], partner_mask: Bool[Array, "N T2"], *, alpha: float) -> Float[Array, "N T"]:
    """1 for the first min(|y|, |partner|) response tokens, alpha for the rest, 0 off the response."""
    shared = jnp.minimum(jnp.sum(mask, axis=-1), jnp.sum(partner_mask, axis=-1))
    rank = jnp.cumsum(mask, axis=-1)
    return jnp.where(mask, jnp.where(rank <= shared[:, None], 1.0, alpha), 0.0)


def lddpo(
    chosen_logps: Float[Array, "N T"],
    rejected_logps: Float[Array, "N T2"],
    ref_chosen_logps: Float[Array, "N T"],
    ref_rejected_logps: Float[Array, "N T2"],
    chosen_mask: Bool[Array, "N T"],
    rejected_mask: Bool[Array, "N T2"],
    *,
    beta: float = 0.1,
    alpha: float = 0.5,
    weight_reference: bool = True,
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N"]:
    """LD-DPO: DPO in which the tokens beyond the shorter response's length count alpha.

        l = min(|y_w|, |y_l|),    P^(y) = sum_{t <= l} log pi(y_t) + alpha sum_{t > l} log pi(y_t)   (R^ likewise)
        L = softplus(-beta ((P^_w - R^_w) - (P^_l - R^_l)))

    Args:
      chosen_logps: `[N, T]` per-token log-probs of the chosen response, in nats; t counts response tokens, wherever
        they stand in the row.
      rejected_logps: `[N, T2]`.
      ref_chosen_logps: `[N, T]` under the frozen reference.
      ref_rejected_logps: `[N, T2]`.
      chosen_mask: `[N, T]` True on response tokens; other entries may hold anything.
      rejected_mask: `[N, T2]`.
      beta: strength of the tie to the reference.
      alpha: weight of the tail, in [0, 1]; 0.5 is a good start. TRL's `ld_alpha`.
      weight_reference: weight the reference's tail as well (the derivation; policy = reference then gives log 2).
        False leaves the reference summed in full, as one public implementation does.
      where: `[N]` False where there is no pair.

    Returns:
      `[N]` float32 loss; 0 where there is no pair or no token on either side.

    Limits: alpha = 1, or equal lengths, is DPO; alpha = 0 is DPO on both responses cut to l tokens. Beside an empty
    partner every token is tail.

    Reference: Liu et al. 2024, arXiv:2409.06411.
    """
    w = tail_weights(chosen_mask, rejected_mask, alpha=alpha)
    v = tail_weights(rejected_mask, chosen_mask, alpha=alpha)
    exists = jnp.any(chosen_mask, axis=-1) | jnp.any(rejected_mask, axis=-1)
    where = both(where, exists)
    on_w, on_l = chosen_mask & where[:, None], rejected_mask & where[:, None]
    p_w, p_l = masked_sum(_weigh(w, chosen_logps), on_w), masked_sum(_weigh(v, rejected_logps), on_l)
    if weight_reference:
        ref_chosen_logps, ref_rejected_logps = _weigh(w, ref_chosen_logps), _weigh(v, ref_rejected_logps)
    r_w, r_l = masked_sum(ref_chosen_logps, on_w), masked_sum(ref_rejected_logps, on_l)
    return keep(where, softplus(-beta * ((p_w - r_w) - (p_l - r_l))))


def _weigh(weights: Float[Array, "N T"], x: Float[Array, "N T"]) -> Float[Array, "N T"]:
    # The double where keeps NaN in padding away from the product's gradient.
    return weights * jnp.where(weights > 0, jnp.asarray(x).astype(jnp.float32), 0.0)
