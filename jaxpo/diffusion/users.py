"""Users of a personalised model (PPD, arXiv:2501.06655): embeddings of a few of their pairs, and mixtures."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


def projection(key: jax.Array, size: int, tokens: int, width: int) -> Float[Array, "size tokens width"]:
    """A fixed random map from images of `size` numbers to `tokens` vectors, which keeps lengths: N(0, 1 / size)."""
    return jax.random.normal(key, (size, tokens, width)) / jnp.sqrt(size)


def few_shot(
    chosen: Float[Array, "U N ..."] | np.ndarray,
    rejected: Float[Array, "U N ..."] | np.ndarray,
    project: Float[Array, "size M D"],
    *,
    present: Bool[Array, "U N"] | None = None,
) -> Float[Array, "U M D"]:
    """A user as the mean of what they chose less what they did not: u = P mean_n (x_n^+ - x_n^-), a constant.

    It stands in for the hidden states of a vision-language model that is shown the same pairs: any frozen encoder does.

    Args:
      chosen, rejected: `[U, N, ...]` the images of N support pairs per user (4 in the paper), apart from those that are
        trained on.
      project: of `projection`.
      present: `[U, N]` False where a user has fewer pairs; one without any is u = 0, for whom the model is the base.

    Reference: Dang et al. 2025, arXiv:2501.06655, section 3.1, with another encoder.
    """
    users, pairs = chosen.shape[:2]
    apart = (jnp.asarray(chosen) - jnp.asarray(rejected)).astype(jnp.float32).reshape(users, pairs, -1)
    here = jnp.ones((users, pairs), bool) if present is None else present
    count = jnp.maximum(jnp.sum(here, axis=1, keepdims=True), 1)
    mean = jnp.sum(jnp.where(here[..., None], apart, 0.0), axis=1) / count
    return jax.lax.stop_gradient(jnp.einsum("us,smd->umd", mean, project))


def interpolate(users: Float[Array, "K M D"], weights: Float[Array, "... K"]) -> Float[Array, "... M D"]:
    """u = sum_j a_j u_j with sum_j a_j = 1: between users, or between rewards. Exact in the model where M = 1.

    Reference: Dang et al. 2025, arXiv:2501.06655, section 4.3.
    """
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return jnp.einsum("...k,kmd->...md", weights / total, users)
