"""Provably robust DPO: an unbiased loss under label flips of known rate (arXiv:2403.00409)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, softplus


def rdpo_robust(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta: float = 0.1,
    label_smoothing: float | Float[Array, "B"] = 0.1,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """rDPO: DPO's losses of both orders, combined so that the expectation over flips is the clean DPO loss.

        h = beta ((P_w - R_w) - (P_l - R_l)),    L = [(1 - e) softplus(-h) - e softplus(h)] / (1 - 2 e)

    Computed as `softplus(-h) - h e / (1 - 2 e)`, which is the same and does not cancel.

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      ref_chosen_logps: `[B]` R_w, the same under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      beta: strength of the tie to the reference.
      label_smoothing: e in [0, 1/2), probability that a label is flipped; one for all pairs, or `[B]`, one for each (of
        its annotator). No gradient is needed in it.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair. It may be negative.

    Limits: e = 0 is DPO. (1 - e) L(w, l) + e L(l, w) is DPO's loss for every e. The loss falls for ever: its slope in h
    tends to -e / (1 - 2 e), so that it wants early stopping. For labels that say y_1 > y_2 with frequency f it is least
    at h = logit((f - e) / (1 - 2 e)), the clean logit; DPO at logit(f).

    Reference: Ray Chowdhury, Kini and Natarajan 2024, arXiv:2403.00409, the rDPO loss; TRL's `loss_type="robust"`.
    """
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    e = jnp.asarray(label_smoothing, jnp.float32)
    e = e if where is None else jnp.where(where, e, 0.0)
    h = beta * ((p_w - r_w) - (p_l - r_l))
    return keep(where, softplus(-h) - h * (e / (1.0 - 2.0 * e)))


def unbiased_under_flips(
    given: Float[Array, "B"], flipped: Float[Array, "B"], *, label_smoothing: float | Float[Array, "B"]
) -> Float[Array, "B"]:
    """`[(1 - e) L(w, l) - e L(l, w)] / (1 - 2 e)`: rDPO's correction for any loss of a pair.

    Args:
      given: `[B]` the loss of the pair as it is labelled.
      flipped: `[B]` its loss in the other order.
      label_smoothing: e in [0, 1/2), probability that a label is flipped.

    Returns:
      `[B]` float32. Its expectation over flips is the loss of the true order, whatever the loss (IPO, a hinge, probit,
      a reward model's); for DPO use `rdpo_robust`, which does not cancel.

    Reference: Ray Chowdhury, Kini and Natarajan 2024, arXiv:2403.00409, which shows it for other pair losses too.
    """
    a, b, e = clean(None, given, flipped, jnp.asarray(label_smoothing))
    return ((1.0 - e) * a - e * b) / (1.0 - 2.0 * e)
