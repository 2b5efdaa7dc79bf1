"""How well predicted ratings agree with those given."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.objectives.base import OfSums


def agreement(
    predicted: Float[Array, "N C"], ratings: Float[Array, "N C"], where: Bool[Array, "N C"]
) -> dict[str, Any]:
    """`rmse` over all ratings, and `correlation`: Pearson's, the mean over the aspects that vary."""
    x, y = (jnp.where(where, a, 0.0) for a in (predicted, ratings))
    squares = {"error": jnp.sum(jnp.square(x - y)), "count": jnp.sum(where.astype(jnp.float32))}
    moments = {"n": where.astype(jnp.float32), "x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}
    return {
        "rmse": OfSums(squares, rmse),
        "correlation": OfSums({name: jnp.sum(a, axis=0) for name, a in moments.items()}, correlation),
    }


def rmse(sums: dict[str, Array]) -> Array:
    """`sqrt(sum e^2 / n)`."""
    return jnp.sqrt(sums["error"] / jnp.maximum(sums["count"], 1.0))


def correlation(sums: dict[str, Array]) -> Array:
    """Of the moments of each aspect, `[C]`; 0 where neither varies."""
    n = jnp.maximum(sums["n"], 1.0)
    mean_x, mean_y = sums["x"] / n, sums["y"] / n
    spread = (sums["xx"] / n - mean_x**2) * (sums["yy"] / n - mean_y**2)
    varies = spread > 1e-12
    each = (sums["xy"] / n - mean_x * mean_y) / jnp.sqrt(jnp.where(varies, spread, 1.0))
    return jnp.sum(jnp.where(varies, each, 0.0)) / jnp.maximum(jnp.sum(varies), 1)
