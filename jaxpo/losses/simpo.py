"""Simple preference optimisation with a reference-free reward (arXiv:2405.14734)."""

from __future__ import annotations

from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import both, clean, keep, per_token, smoothed_logistic


def simpo(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    *,
    beta: float = 2.0,
    gamma: float = 0.5,
    label_smoothing: float = 0.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """SimPO: logistic loss of the difference of mean log-probs, minus a target margin. No reference model.

        h = beta (P_w / |y_w| - P_l / |y_l|) - gamma,    L = (1 - e) softplus(-h) + e softplus(h)

    Args:
      chosen_logps: `[B]` P_w, summed over the chosen response's tokens, in nats.
      rejected_logps: `[B]` P_l.
      chosen_lengths: `[B]` |y_w| in tokens.
      rejected_lengths: `[B]` |y_l|.
      beta: reward scale (2 to 10).
      gamma: target reward margin; gamma / beta between 0.3 and 1.6. TRL's `simpo_gamma`.
      label_smoothing: e, probability that a label is flipped.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss; 0 where there is no pair or no token on either side.

    Limits: gamma = 0 and all lengths n with beta_simpo = n beta_cpo gives CPO's preference term.

    Reference: Meng, Xia, Chen 2024, arXiv:2405.14734, Eq. 6.
    """
    where = both(where, chosen_lengths + rejected_lengths > 0)
    p_w, p_l, n_w, n_l = clean(where, chosen_logps, rejected_logps, chosen_lengths, rejected_lengths)
    h = beta * (per_token(p_w, n_w) - per_token(p_l, n_l)) - gamma
    return keep(where, smoothed_logistic(h, label_smoothing))
