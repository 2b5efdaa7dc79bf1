"""The LFM2 report's family of length-normalised preference objectives (arXiv:2511.23404)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import both, clean, keep, per_token, softplus

Relative = Callable[[Array], Array]
Absolute = Callable[[Array, Array], Array]


def logistic(u: Float[Array, "B"]) -> Float[Array, "B"]:
    """`-log sigmoid(u)`."""
    return softplus(-u)


def hinged(u: Float[Array, "B"]) -> Float[Array, "B"]:
    """`max(0, 1 - u)`. Kink at u = 1: the derivative there is 0."""
    return jax.nn.relu(1.0 - u)


def squared(u: Float[Array, "B"]) -> Float[Array, "B"]:
    """`u^2`."""
    return jnp.square(u)


def apo_zero_term(a: Float[Array, "B"], b: Float[Array, "B"]) -> Float[Array, "B"]:
    """`sigmoid(b) - sigmoid(a)`: raises the chosen reward and lowers the rejected one."""
    return jax.nn.sigmoid(b) - jax.nn.sigmoid(a)


def apo_down_term(a: Float[Array, "B"], b: Float[Array, "B"]) -> Float[Array, "B"]:
    """`sigmoid(a) - sigmoid(a - b)`: lowers both rewards, the rejected one more."""
    return jax.nn.sigmoid(a) - jax.nn.sigmoid(a - b)


def length_normalized(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    *,
    beta: float = 5.0,
    relative: Relative | None = logistic,
    margin: float = 0.0,
    omega: float = 1.0,
    absolute: Absolute | None = None,
    lam: float = 1.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Relative plus absolute term of the two rewards per token.

        a = beta (P_w - R_w) / |y_w|,    b = beta (P_l - R_l) / |y_l|
        L = omega f(a - b - m) + lambda delta(a, b)

    Args:
      chosen_logps: `[B]` P_w, summed over the chosen response's tokens, in nats.
      rejected_logps: `[B]` P_l.
      ref_chosen_logps: `[B]` R_w under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      chosen_lengths: `[B]` |y_w| in tokens.
      rejected_lengths: `[B]` |y_l|.
      beta: reward scale; 5 on means per token acts like 5/n on sums of n tokens.
      relative: f (`logistic`, `hinged`, `squared`); None = no relative term.
      margin: m.
      omega: weight of the relative term.
      absolute: delta (`apo_zero_term`, `apo_down_term`); None = no absolute term.
      lam: weight of the absolute term.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss; 0 where there is no pair or no token on either side.

    Limits: reference log-probs of 0 and m = gamma give SimPO; `squared`, m = 1/2, omega = 1/beta^2 gives IPO on means
    with tau = beta; repeating all tokens changes nothing; a common shift of a and b leaves f alone, not delta.

    Reference: LFM2 Technical Report, Liquid AI 2025, arXiv:2511.23404, section on preference alignment. It names
    `sigmoid_norm` and `apo_zero_norm`, but not which omega, lambda and delta each model used.
    """
    where = both(where, chosen_lengths + rejected_lengths > 0)
    p_w, p_l, r_w, r_l, n_w, n_l = clean(
        where,
        chosen_logps,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        chosen_lengths,
        rejected_lengths,
    )
    a = beta * per_token(p_w - r_w, n_w)
    b = beta * per_token(p_l - r_l, n_l)
    loss = jnp.zeros_like(a)
    if relative is not None:
        loss = loss + omega * relative(a - b - margin)
    if absolute is not None:
        loss = loss + lam * absolute(a, b)
    return keep(where, loss)


def sigmoid_norm(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    *,
    beta: float = 5.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """The family's DPO-like member, which is LN-DPO: logistic loss of the difference of rewards per token.

        L = softplus(-beta ((P_w - R_w) / |y_w| - (P_l - R_l) / |y_l|))

    Args and returns as `length_normalized`, with f = `logistic`, m = 0, omega = 1 and no absolute term.
    `jaxpo.losses.lndpo` is this function at its own paper's beta.

    Limits: log 2 at policy = reference, with slope -beta / (2 |y_w|) in P_w; with all lengths n it is DPO at beta / n;
    one-token responses, DPO; without a reference and with a margin, SimPO.

    Reference: Ahrabian et al. 2024, arXiv:2407.15229, LN-DPO; LFM2 Technical Report, arXiv:2511.23404; TRL's
    `loss_type="sigmoid_norm"`.
    """
    return length_normalized(
        chosen_logps,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        chosen_lengths,
        rejected_lengths,
        beta=beta,
        where=where,
    )


def lndpo(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    *,
    beta: float = 2.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """LN-DPO: DPO on log-ratios per token; `sigmoid_norm` with the default beta of its own paper.

        L = softplus(-beta ((P_w - R_w) / |y_w| - (P_l - R_l) / |y_l|))

    Args, returns and limits as `sigmoid_norm`.

    Reference: Ahrabian et al. 2024, arXiv:2407.15229.
    """
    return sigmoid_norm(
        chosen_logps,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        chosen_lengths,
        rejected_lengths,
        beta=beta,
        where=where,
    )


def apo_zero_norm(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    *,
    beta: float = 5.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """The family's APO-zero-like member: raise the chosen reward per token, lower the rejected one, each by itself.

        a = beta (P_w - R_w) / |y_w|,    b = beta (P_l - R_l) / |y_l|,    L = sigmoid(b) - sigmoid(a)

    Args and returns as `length_normalized`, with omega = 0, lambda = 1 and delta = `apo_zero_term`.

    Limits: 0 at policy = reference; with all lengths n it is `apo_zero` at beta / n, less 1; slopes in P never exceed
    beta / (4 |y|).

    Reference: LFM2 Technical Report, arXiv:2511.23404; the form of delta follows arXiv:2408.06266, Eq. 7.
    """
    return length_normalized(
        chosen_logps,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        chosen_lengths,
        rejected_lengths,
        beta=beta,
        relative=None,
        absolute=apo_zero_term,
        where=where,
    )


def apo_down_norm(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    *,
    beta: float = 5.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """The family's APO-down-like member: lower both rewards per token, the rejected one more.

        a = beta (P_w - R_w) / |y_w|,    b = beta (P_l - R_l) / |y_l|,    L = sigmoid(a) - sigmoid(a - b)

    Args and returns as `length_normalized`, with omega = 0, lambda = 1 and delta = `apo_down_term`.

    Limits: 0 at policy = reference; with all lengths n it is `apo_down` at beta / n, less 1.

    Reference: our completion of the family of arXiv:2511.23404 with arXiv:2408.06266, Eq. 8.
    """
    return length_normalized(
        chosen_logps,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        chosen_lengths,
        rejected_lengths,
        beta=beta,
        relative=None,
        absolute=apo_down_term,
        where=where,
    )


def hinge_per_token(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    *,
    beta: float = 5.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """The family's hinge member: no gradient once the difference of rewards per token reaches 1.

        L = max(0, 1 - beta ((P_w - R_w) / |y_w| - (P_l - R_l) / |y_l|))

    Args and returns as `length_normalized`, with f = `hinged`, m = 0, omega = 1 and no absolute term.

    Limits: 1 at policy = reference; with all lengths n it is `hinge` at beta / n. Kink where the difference is 1: the
    derivative there is 0.

    Reference: our completion of the family of arXiv:2511.23404 with the hinge of arXiv:2309.06657.
    """
    return length_normalized(
        chosen_logps,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        chosen_lengths,
        rejected_lengths,
        beta=beta,
        relative=hinged,
        where=where,
    )
