"""Bradley-Terry reward modelling."""

from __future__ import annotations

from jaxtyping import Array, Bool, Float

from jaxpo.losses.centring import centring
from jaxpo.losses.numerics import clean, keep, smoothed_logistic, softplus


def bradley_terry(
    chosen_rewards: Float[Array, "B"],
    rejected_rewards: Float[Array, "B"],
    margin: Float[Array, "B"] | None = None,
    *,
    weight: Float[Array, "B"] | None = None,
    probability: Float[Array, "B"] | None = None,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    center_rewards_coefficient: float = 0.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Negative log-likelihood that the chosen response wins: margin, weight, soft labels, smoothing, centring.

        d = (r_w - r_l - m) / tau,    q = (1 - e) p + e (1 - p)
        L = w [q softplus(-d) + (1 - q) softplus(d)] + c (r_w + r_l)^2

    Args:
      chosen_rewards: `[B]` r_w.
      rejected_rewards: `[B]` r_l.
      margin: `[B]` m, how much better the chosen response is known to be; may be negative; None = 0.
      weight: `[B]` w, what the pair counts: the other use of a known strength, which scales instead of shifting;
        None = 1.
      probability: `[B]` p in [0, 1], that the chosen response is the better one (a share of votes); None = 1.
      temperature: tau.
      label_smoothing: e, probability that a label is flipped; for p = 1 the optimum then has sigmoid(d) = 1 - e.
      center_rewards_coefficient: c, fixes the constant that the model leaves free (0.01 where it is used).
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: log 2 for equal rewards; without centring a constant added to every reward changes nothing. Soft labels are
    the cross-entropy with p, and smoothing by e is a soft label 1 - e.

    Reference: Bradley and Terry 1952; margin: Touvron et al. 2023, arXiv:2307.09288, Eq. 2; centring: Eisenstein et al.
    2023, arXiv:2312.09244.
    """
    r_w, r_l = clean(where, chosen_rewards, rejected_rewards)
    d = r_w - r_l
    if margin is not None:
        d = d - clean(where, margin)[0]
    d = d / temperature
    if probability is None:
        loss = smoothed_logistic(d, label_smoothing)
    else:
        p = clean(where, probability)[0]
        q = (1.0 - label_smoothing) * p + label_smoothing * (1.0 - p)
        loss = q * softplus(-d) + (1.0 - q) * softplus(d)
    if weight is not None:
        loss = clean(where, weight)[0] * loss
    if center_rewards_coefficient:
        loss = loss + center_rewards_coefficient * centring(r_w, r_l)
    return keep(where, loss)
