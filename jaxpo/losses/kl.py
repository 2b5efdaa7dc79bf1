"""Estimates of KL(pi || ref) at the tokens that pi drew, and the one whose value and gradient are both right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.importance import LARGEST
from jaxpo.losses.numerics import check_choice, clean, keep

Estimator = Literal["k1", "k2", "k3"]


def kl_k1(
    logps: Float[Array, "..."], ref_logps: Float[Array, "..."], *, where: Bool[Array, "..."] | None = None
) -> Float[Array, "..."]:
    """The plain estimate: unbiased, of either sign.

        k1 = log pi - log ref

    Args:
      logps: `[...]` log-probs of the tokens under the policy that drew them, nats.
      ref_logps: `[...]` under the reference.
      where: `[...]` False where there is no token; there the arrays may hold anything, NaN included.

    Returns:
      `[...]` float32, 0 where there is no token.

    Limits: its expectation is the KL, but the expectation of its gradient is 0: it belongs into the reward.

    Reference: Schulman 2020, "Approximating KL divergence". verl's `kl`.
    """
    p, r = clean(where, logps, ref_logps)
    return p - r


def kl_k2(
    logps: Float[Array, "..."], ref_logps: Float[Array, "..."], *, where: Bool[Array, "..."] | None = None
) -> Float[Array, "..."]:
    """Half the squared log-ratio: biased, but its gradient is that of the KL in expectation.

        k2 = (log pi - log ref)^2 / 2

    Args and returns as `kl_k1`; >= 0.

    Limits: 0 with slope 0 at policy = reference; the KL to second order around it.

    Reference: Schulman 2020, "Approximating KL divergence". verl's `mse`.
    """
    p, r = clean(where, logps, ref_logps)
    return 0.5 * (p - r) ** 2


def kl_k3(
    logps: Float[Array, "..."],
    ref_logps: Float[Array, "..."],
    *,
    bound: float = LARGEST,
    cap: float | None = None,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """The unbiased estimate that is never negative.

        d = clip(log ref - log pi, -bound, bound),    k3 = min(e^d - d - 1, cap)

    Args:
      logps: `[...]` log-probs of the tokens under the policy that drew them, nats.
      ref_logps: `[...]` under the reference.
      bound: of the log-ratio, so that no exponential overflows.
      cap: of the estimate; None = none. verl takes 10.
      where: `[...]` False where there is no token; there the arrays may hold anything, NaN included.

    Returns:
      `[...]` float32 >= 0, 0 where there is no token.

    Limits: its expectation is the KL (within the bounds); the expectation of its gradient is that of KL(ref || pi).
    Kinks at the bound and at the cap, beyond which there is no gradient.

    Reference: Schulman 2020, "Approximating KL divergence"; Shao et al. 2024, arXiv:2402.03300, eq. 4. verl's
    `low_var_kl`.
    """
    p, r = clean(where, logps, ref_logps)
    d = jnp.clip(r - p, -bound, bound)
    value = jnp.expm1(d) - d
    return keep(where, value if cap is None else jnp.minimum(value, cap))


ESTIMATORS: dict[str, Callable[..., Float[Array, "..."]]] = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


def kl_straight_through(
    logps: Float[Array, "..."],
    ref_logps: Float[Array, "..."],
    *,
    estimator: Estimator = "k3",
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """The value of one estimate with the gradient of k2, which is right in expectation.

        k = sg(k_value - k2) + k2

    Args:
      logps: `[...]` log-probs of the tokens under the policy that drew them, nats.
      ref_logps: `[...]` under the reference.
      estimator: that of the value: "k1", "k2" or "k3", with its bounds.
      where: `[...]` False where there is no token; there the arrays may hold anything, NaN included.

    Returns:
      `[...]` float32, 0 where there is no token. Its slope in log pi is log pi - log ref whatever the value.

    Reference: Liu et al. 2025, "Rethinking KL regularization in RLHF", arXiv:2510.01555. verl's names with a `+`.
    """
    check_choice("estimator", estimator, tuple(ESTIMATORS))
    value = ESTIMATORS[estimator](logps, ref_logps, where=where)
    slope = kl_k2(logps, ref_logps, where=where)
    return jax.lax.stop_gradient(value) + (slope - jax.lax.stop_gradient(slope))
