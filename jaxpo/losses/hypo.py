"""Hybrid preference optimisation (arXiv:2406.01462): the reverse KL to the reference on the policy's own samples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpo.losses.numerics import clean, keep


def hypo(
    logps: Float[Array, "N"],
    weights: Float[Array, "N"],
    *,
    kl_weight: float = 1e-4,
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N"]:
    """HyPO's regulariser: a surrogate whose gradient is that of the reverse KL, for samples of the policy.

        L = lambda sg(w) log pi(y),    w = log pi(y) - log ref(y), less a baseline

    It is added to `dpo` on offline pairs; each is averaged over its own examples. Its value means nothing: log the mean
    of log pi - log ref. Differentiating that mean instead has an expected gradient of 0.

    Args:
      logps: `[N]` log pi of unlabelled samples of the policy, summed over their tokens, in nats.
      weights: `[N]` w of `hypo_weights`; constants, no gradient passes.
      kl_weight: lambda.
      where: `[N]` False where there is no sample.

    Returns:
      `[N]` float32, 0 where there is no sample.

    Limits: 0 at lambda = 0, where the method is `dpo`, and on the reference. Alone it leads to the reference.

    Reference: Song et al. 2024, arXiv:2406.01462, Algorithm 1.
    """
    p, w = clean(where, logps, weights)
    return keep(where, kl_weight * jax.lax.stop_gradient(w) * p)


def hypo_weights(
    log_ratios: Float[Array, "N"],
    groups: Int[Array, "N"],
    *,
    leave_one_out: bool = True,
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N"]:
    """What the score of each sample is weighed by: its log-ratio, less the mean of the others of its prompt.

        w_i = d_i - (1 / (k - 1)) sum_{j in the group, j != i} d_j,    d = log pi - log ref

    Any constant may be taken off without changing the expected gradient; the others' mean lowers its variance. A sample
    that is alone in its group keeps its log-ratio.

    Args:
      log_ratios: `[N]` d, nats, of the policy that drew the samples.
      groups: `[N]` the samples of one prompt have one number.
      leave_one_out: False keeps the log-ratios.
      where: `[N]` False where there is no sample.

    Returns:
      `[N]` float32, 0 where there is no sample.

    Limits: 0 where all samples of a group have one log-ratio, and for a policy that is the reference.

    Reference: Song et al. 2024, arXiv:2406.01462, Algorithm 1, with the leave-one-out baseline of Ahmadian et al. 2024.
    """
    (d,) = clean(where, log_ratios)
    here = jnp.ones(d.shape, bool) if where is None else where
    alike = (groups[:, None] == groups[None, :]) & here[None, :] & ~jnp.eye(d.shape[0], dtype=bool)
    others = jnp.sum(alike.astype(jnp.float32), axis=1)
    mean = jnp.sum(jnp.where(alike, d[None, :], 0.0), axis=1) / jnp.maximum(others, 1.0)
    return keep(where, d - mean if leave_one_out else d)
