"""Listwise preference optimisation through learning to rank (arXiv:2402.01878)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpo.losses.numerics import clean, softplus


def lipo(
    logps: Float[Array, "B K"],
    ref_logps: Float[Array, "B K"],
    labels: Float[Array, "B K"],
    where: Bool[Array, "B K"],
    *,
    beta: float = 0.05,
    gain: bool = True,
    discount: bool = True,
    log_base: float = math.e,
) -> Float[Array, "B"]:
    """LiPO-lambda: logistic loss of every ordered pair of a list, weighted by the change of DCG when the two swap.

        s_i = beta (P_i - R_i),    L = sum_{psi_i > psi_j} D_ij softplus(-(s_i - s_j))
        D_ij = |2^psi_i - 2^psi_j| |1/log(1 + tau_i) - 1/log(1 + tau_j)|,    tau = 1-based rank by descending s

    Args:
      logps: `[B, K]` P, log-probability of each response, summed over its tokens, in nats.
      ref_logps: `[B, K]` R under the frozen reference.
      labels: `[B, K]` psi in [0, 1], larger is better (win probability against the list). Equal labels form no pair.
      where: `[B, K]` False where the list has no such response.
      beta: score scale.
      gain: False replaces |G_i - G_j| by 1.
      discount: False replaces |1/D_i - 1/D_j| by 1.
      log_base: of the discount's logarithm. The paper leaves it open (a constant factor); Rax uses 2.

    Returns:
      `[B]` float32, summed over each list's pairs. The paper takes the mean over lists; Rax divides by all pairs of the
      batch (`label_pairs`).

    Limits: gain = discount = False is the pairwise logistic loss, and K = 2 then is DPO. Two responses labelled 1 and 0
    give DPO times 1/log 2 - 1/log 3. D takes no gradient; equal scores keep their input order. All labels equal, or
    fewer than two responses: 0.

    Reference: Liu et al. 2024, arXiv:2402.01878v3, the lambda loss of section 4 (Eq. 5 to 11).
    """
    p, r, psi = clean(where, logps, ref_logps, labels)
    s = beta * (p - r)
    pair = _ordered(psi, where)
    weight = jnp.ones_like(pair, dtype=jnp.float32)
    if gain:
        weight = weight * jnp.abs(jnp.exp2(psi)[:, :, None] - jnp.exp2(psi)[:, None, :])
    if discount:
        inverse = math.log(log_base) / jnp.log1p(ranks(jax.lax.stop_gradient(s), where).astype(jnp.float32))
        weight = weight * jnp.abs(inverse[:, :, None] - inverse[:, None, :])
    weight = jax.lax.stop_gradient(jnp.where(pair, weight, 0.0))
    return jnp.sum(weight * softplus(-(s[:, :, None] - s[:, None, :])), axis=(1, 2))


def ranks(scores: Float[Array, "B K"], where: Bool[Array, "B K"]) -> Int[Array, "B K"]:
    """1-based rank by descending score among the present entries; equal scores keep their input order."""
    index = jnp.arange(scores.shape[1])
    ahead = (scores[:, None, :] > scores[:, :, None]) | (
        (scores[:, None, :] == scores[:, :, None]) & (index[None, None, :] < index[None, :, None])
    )
    return 1 + jnp.sum(ahead & where[:, None, :], axis=2)


def label_pairs(labels: Float[Array, "B K"], where: Bool[Array, "B K"]) -> Int[Array, "B"]:
    """Number of pairs of each list whose labels differ."""
    return jnp.sum(_ordered(clean(where, labels)[0], where), axis=(1, 2))


def _ordered(psi: Array, where: Array) -> Array:
    return (psi[:, :, None] > psi[:, None, :]) & where[:, :, None] & where[:, None, :]
