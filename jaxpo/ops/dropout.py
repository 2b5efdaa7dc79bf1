"""Dropout whose draw belongs to a row, wherever the row is computed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def dropout(x: Float[Array, "R S D"], keys: Key[Array, "R"], rate: float) -> Float[Array, "R S D"]:
    """Zero each entry with probability `rate` and scale the rest, so that the mean over draws is x.

        y = x m / (1 - rate),   m ~ Bernoulli(1 - rate), independent per entry

    Args:
      x: activations.
      keys: one key per row: the draw depends on nothing else, so that it is the same under accumulation and sharding.
      rate: in [0, 1).

    Returns:
      Of x's shape and type; x itself at rate 0.

    Reference:
      Srivastava et al. 2014, JMLR 15, section 10 (scaled at training time).
    """
    if not rate:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros((), x.dtype))
