"""Noise contrastive alignment from pairs (arXiv:2402.05369)."""

from __future__ import annotations

from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, softplus


def nca_pair(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta: float = 0.01,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """NCA for pairs: the chosen reward is raised in absolute terms, and both are held down as noise samples.

        a = beta (P_w - R_w),    b = beta (P_l - R_l),    L = softplus(-a) + 1/2 softplus(a) + 1/2 softplus(b)

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      ref_chosen_logps: `[B]` R_w, the same under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      beta: strength of the tie to the reference.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: 2 log 2 at policy = reference, with slope -beta/4 in P_w and +beta/4 in P_l. It is NCA over two responses
    with all weight on the chosen one. Minimal at a = log 2, b -> -infinity: the chosen likelihood does not run away.

    Reference: Chen et al. 2024, arXiv:2402.05369, NCA on preference pairs; TRL's `loss_type="nca_pair"`.
    """
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    a, b = beta * (p_w - r_w), beta * (p_l - r_l)
    return keep(where, softplus(-a) + 0.5 * softplus(a) + 0.5 * softplus(b))
