"""Kahneman-Tversky optimisation (arXiv:2402.01306) and the unpaired form of APO-zero (arXiv:2408.06266)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep


def kto(
    logps: Float[Array, "B"],
    ref_logps: Float[Array, "B"],
    label: Bool[Array, "B"],
    kl: Float[Array, ""] | float,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """KTO: the value of gains and losses around a reference point, on single responses labelled good or bad.

        u = beta (P - R - z),    L = lambda_D (1 - sigmoid(u)) for label 1,    lambda_U sigmoid(u) for label 0

    Couples the batch through the reference point z, which the caller computes from the whole step (`kto_kl`) and which
    takes no gradient.

    Args:
      logps: `[B]` P, log-probability of the response, summed over its tokens, in nats.
      ref_logps: `[B]` R under the frozen reference.
      label: `[B]` True for a good response.
      kl: z >= 0, estimate of the divergence of policy from reference, in nats.
      beta: sharpness of the value function around z.
      desirable_weight: lambda_D. Keep lambda_D n_good / (lambda_U n_bad) within about [1, 4/3].
      undesirable_weight: lambda_U.
      where: `[B]` False where there is no row.

    Returns:
      `[B]` float32 loss, 0 where there is no row.

    Limits: lambda / 2 at P - R = z. The slope in P is -+ lambda beta sigmoid(u) sigmoid(-u): it vanishes on rows far
    from z on either side, badly mis-scored ones too (`bco`'s does not). z = 0 is `apo_zero_unpaired`.

    Reference: Ethayarajh et al. 2024, arXiv:2402.01306, Eq. 7 and the loss that follows it.
    """
    p, r = clean(where, logps, ref_logps)
    good = jnp.asarray(label).astype(bool)
    u = beta * (p - r - jax.lax.stop_gradient(jnp.asarray(kl).astype(jnp.float32)))
    gain, loss = desirable_weight * jax.nn.sigmoid(-u), undesirable_weight * jax.nn.sigmoid(u)
    return keep(where, jnp.where(good, gain, loss))


def kto_kl(
    logps: Float[Array, "B"], ref_logps: Float[Array, "B"], *, where: Bool[Array, "B"] | None = None
) -> Float[Array, ""]:
    """`z = sg(max(0, mean of P - R))` over responses under prompts that they do not answer, of the whole step.

    Args:
      logps: `[B]` log-probability of another row's response under this row's prompt, summed over its tokens, in nats.
      ref_logps: `[B]` the same under the frozen reference.
      where: `[B]` False where there is no such response.

    Returns:
      Scalar float32, 0 when there is no response at all. No gradient.

    Reference: Ethayarajh et al. 2024, arXiv:2402.01306, section 4.1. TRL rotates the responses of one device's
    micro-batch against their prompts, so that its z depends on how the batch is cut; here the loader pairs them.
    """
    p, r = clean(where, jax.lax.stop_gradient(logps), ref_logps)
    rows = jnp.ones_like(p) if where is None else where.astype(jnp.float32)
    mean = jnp.sum(rows * (p - r)) / jnp.maximum(jnp.sum(rows), 1.0)
    return jnp.maximum(jax.lax.stop_gradient(mean), 0.0)


def apo_zero_unpaired(
    logps: Float[Array, "B"],
    ref_logps: Float[Array, "B"],
    label: Bool[Array, "B"],
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """APO-zero on single responses: raises good ones and lowers bad ones against the reference.

        rho = P - R,    L = lambda_D (1 - sigmoid(beta rho)) for label 1,    lambda_U sigmoid(beta rho) for label 0

    Args and returns as `kto`, without its reference point.

    Limits: `kto` at z = 0. The two rows of a pair add up to the paired APO-zero, 1 at policy = reference.

    Reference: D'Oosterlinck et al. 2024, arXiv:2408.06266, Eq. 7, taken apart as TRL's `apo_zero_unpaired` does.
    """
    weights = {"desirable_weight": desirable_weight, "undesirable_weight": undesirable_weight}
    return kto(logps, ref_logps, label, 0.0, beta=beta, where=where, **weights)
