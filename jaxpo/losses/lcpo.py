"""Latent collective preference optimisation, also RE-PO (arXiv:2509.24159)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpo.losses.numerics import clean, keep, per_token, softplus

CLIP = 1e-4
"""Reliabilities are kept in [CLIP, 1 - CLIP], so that their logits stay finite."""


def lcpo(
    margin: Float[Array, "B"],
    reliability: Float[Array, "B"],
    *,
    where: Bool[Array, "B"] | None = None,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """LCPO: each pair counts in both orders, weighted by the posterior probability that its label is right.

        s = L(y_l > y_w) - L(y_w > y_l),    w = sg(sigmoid(s + logit eta)),    L = w softplus(-s) + (1 - w) softplus(s)

    Args:
      margin: `[B]` s, the base loss of the pair in the flipped order minus that in the given order
        (`lcpo_margin_dpo`, `_ipo`, `_simpo`, `_cpo`).
      reliability: `[B]` eta of the pair's annotator: probability that a label of theirs is right. No gradient.
      where: `[B]` False where there is no pair.

    Returns:
      `(loss [B], posterior w [B])`, float32, both 0 where there is no pair.

    Limits: dL/ds = sigmoid(s) - w, which is the gradient of -log(p eta + (1 - p)(1 - eta)) with p = sigmoid(s);
    eta = 1 would be the logistic loss of s (DPO for the DPO margin), eta = 1/2 has no gradient. For eta > 1/2 the
    gradient fades for implausible labels but never reverses; for eta < 1/2 it does.

    Reference: Cao et al. 2025, arXiv:2509.24159, Eq. 2 to 7 and Algorithm 1.
    """
    s, eta = clean(where, margin, reliability)
    eta = jnp.clip(eta, CLIP, 1.0 - CLIP)
    w = jax.lax.stop_gradient(jax.nn.sigmoid(s + jnp.log(eta) - jnp.log1p(-eta)))
    return keep(where, w * softplus(-s) + (1.0 - w) * softplus(s)), keep(where, w)


def lcpo_margin_dpo(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta: float = 0.1,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Margin of DPO, L = softplus(-h): `s = h = beta ((P_w - R_w) - (P_l - R_l))`.

    Args as `dpo`. Returns `[B]` float32, 0 where there is no pair.

    Limits: sigmoid(s) is the Bradley-Terry probability of the given order.

    Reference: Cao et al. 2025, arXiv:2509.24159, Table 1, the row of DPO.
    """
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return beta * ((p_w - r_w) - (p_l - r_l))


def lcpo_margin_ipo(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta: float = 0.1,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Margin of IPO on sums, L = (D - 1 / (2 beta))^2 with D = (P_w - R_w) - (P_l - R_l): `s = 2 D / beta`.

    In closed form: the difference of the two squares would cancel in float32.

    Args as `ipo_sum`. Returns `[B]` float32, 0 where there is no pair.

    Limits: DPO's margin at 2 / beta.

    Reference: Cao et al. 2025, arXiv:2509.24159, Table 1, the row of IPO, which has sums.
    """
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return (2.0 / beta) * ((p_w - r_w) - (p_l - r_l))


def lcpo_margin_simpo(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    *,
    beta: float = 2.0,
    gamma: float = 0.5,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Margin of SimPO, d = beta (P_w / |y_w| - P_l / |y_l|): `s = softplus(gamma + d) - softplus(gamma - d)`.

    Args as `simpo`. Returns `[B]` float32, 0 where there is no pair.

    Limits: odd in d; d for gamma = 0.

    Reference: Cao et al. 2025, arXiv:2509.24159, Table 1, the row of SimPO.
    """
    p_w, p_l, n_w, n_l = clean(where, chosen_logps, rejected_logps, chosen_lengths, rejected_lengths)
    d = beta * (per_token(p_w, n_w) - per_token(p_l, n_l))
    return softplus(gamma + d) - softplus(gamma - d)


def lcpo_margin_cpo(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    *,
    beta: float = 0.1,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Margin of CPO, L = softplus(-beta (P_w - P_l)) - P_w: `s = (1 + beta) (P_w - P_l)`.

    Args as `cpo`. Returns `[B]` float32, 0 where there is no pair.

    Limits: large, because it is a sum over tokens without a small factor: posteriors are close to 0 or 1.

    Reference: Cao et al. 2025, arXiv:2509.24159, Table 1, the row of CPO.
    """
    p_w, p_l = clean(where, chosen_logps, rejected_logps)
    return (1.0 + beta) * (p_w - p_l)


def lcpo_stats(
    posterior: Float[Array, "B"],
    annotator: Int[Array, "B"],
    num_annotators: int,
    *,
    where: Bool[Array, "B"] | None = None,
) -> dict[str, Array]:
    """Sum of posteriors and number of pairs per annotator, `[K]` each; adds over parts of a batch. No gradient."""
    rows = jnp.ones_like(annotator, dtype=bool) if where is None else where
    member = ((annotator[:, None] == jnp.arange(num_annotators)) & rows[:, None]).astype(jnp.float32)
    w = jax.lax.stop_gradient(jnp.where(rows, posterior, 0.0))
    return {"total": w @ member, "count": jnp.sum(member, axis=0)}


def update_reliability(
    reliability: Float[Array, "K"], stats: dict[str, Array], *, alpha: float = 0.1
) -> Float[Array, "K"]:
    """`eta_k <- (1 - alpha) eta_k + alpha mean of the annotator's posteriors`, once per step.

    Annotators without a pair in the step keep their value; alpha = 1 on the full data is the exact M step.
    """
    mean = stats["total"] / jnp.maximum(stats["count"], 1.0)
    moved = jnp.clip((1.0 - alpha) * reliability + alpha * mean, CLIP, 1.0 - CLIP)
    return jnp.where(stats["count"] > 0, moved, reliability)


def lcpo_em(
    margin: Float[Array, "N"],
    annotator: Int[Array, "N"],
    num_annotators: int,
    *,
    eta: float = 0.9,
    tolerance: float = 1e-6,
    max_iterations: int = 10_000,
    where: Bool[Array, "N"] | None = None,
) -> tuple[Float[Array, "N"], Float[Array, "K"], Int[Array, ""]]:
    """Exact EM over a whole data set at fixed margins: whose labels are right, and which.

        E:  w_i = sigmoid(s_i + logit eta_k(i)),    M:  eta_k = mean of w_i over the pairs of annotator k

    Args:
      margin: `[N]` s, as in `lcpo`, under the model that judges the labels.
      annotator: `[N]` k, every one in [0, K).
      num_annotators: K.
      eta: reliability that every annotator starts with.
      tolerance: stop when no reliability moves by more.
      max_iterations: stop after so many iterations in any case.
      where: `[N]` False where there is no pair.

    Returns:
      `(posterior w [N], reliability eta [K], iterations [])`: w is 0 where there is no pair; annotators without a pair
      keep their start; iterations equal to `max_iterations` mean that it did not converge.

    Limits: each iteration raises the sum of log(p eta + (1 - p)(1 - eta)), p = sigmoid(s), which is concave in every
    eta_k: with calibrated margins the reliabilities reach the truth from any start inside (0, 1). Margins of 0 tell
    nothing and keep the start.

    Reference: Cao et al. 2025, arXiv:2509.24159, Eq. 4 to 7 with the exact M step, and the convergence theorem.
    """
    n = margin.shape[0]
    rows = jnp.ones((n,), dtype=bool) if where is None else where
    (s,) = clean(rows, margin)
    count = _sums(rows.astype(jnp.float32), annotator, num_annotators)

    def expect(reliability: Array) -> Array:
        kept = jnp.clip(reliability, CLIP, 1.0 - CLIP)
        return keep(rows, jax.nn.sigmoid(s + (jnp.log(kept) - jnp.log1p(-kept))[annotator]))

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        old, _, done = state
        total = _sums(expect(old), annotator, num_annotators)
        new = update_reliability(old, {"total": total, "count": count}, alpha=1.0)
        return new, jnp.max(jnp.abs(new - old)), done + 1

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        return (state[1] > tolerance) & (state[2] < max_iterations)

    start = (jnp.full((num_annotators,), eta, jnp.float32), jnp.float32(jnp.inf), jnp.int32(0))
    reliability, _, iterations = jax.lax.while_loop(unfinished, step, start)
    return expect(reliability), reliability, iterations


BLOCK = 4096


def _sums(x: Array, annotator: Array, num_annotators: int) -> Array:
    """Sum per annotator, in blocks: a running float32 sum over millions of rows would lose digits."""
    block = jnp.arange(x.shape[0]) // BLOCK
    blocks = -(-x.shape[0] // BLOCK)
    parts = jax.ops.segment_sum(x, block * num_annotators + annotator, num_segments=blocks * num_annotators)
    return jnp.sum(parts.reshape(blocks, num_annotators), axis=0)
