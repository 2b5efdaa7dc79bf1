"""What the advantages of a rollout are made with, on numpy or jax arrays alike: sums from the end of an answer.

The source makes advantages of a whole rollout on the host, in float64 numpy; the same functions run inside a program on
jax arrays, in float32. They take their functions from the array that they are given.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from jax import Array
from jaxtyping import Bool, Float

A = TypeVar("A", Array, np.ndarray)
"""Either kind; the answer is of the same."""


def namespace(x: A) -> Any:
    """`numpy` or `jax.numpy`."""
    return x.__array_namespace__()


def under(mask: Bool[A, "... T"], x: Float[A, "... T"]) -> Float[A, "... T"]:
    """At least float32, and 0 outside the mask, whatever lies there."""
    xp = namespace(x)
    return xp.where(xp.asarray(mask, dtype=bool), x.astype(xp.result_type(x.dtype, xp.float32)), 0)


def from_the_end(factor: Float[A, "... T"], term: Float[A, "... T"]) -> Float[A, "... T"]:
    """`y_t = term_t + factor_t y_(t+1)`, y = 0 after the last axis, in log2 T steps that double their reach."""
    xp, reach, length = namespace(term), 1, term.shape[-1]
    while reach < length:
        term = term + factor * _ahead(xp, term, reach)
        factor = factor * _ahead(xp, factor, reach)
        reach *= 2
    return term


def _ahead(xp: Any, x: Any, by: int) -> Any:
    """`x_(t + by)`, 0 beyond the end."""
    return xp.concatenate([x[..., by:], xp.zeros_like(x[..., :by])], axis=-1)


def returns_to_go(rewards: Float[A, "... T"], mask: Bool[A, "... T"], *, gamma: float = 1.0) -> Float[A, "... T"]:
    """Discounted rewards from each token on; tokens outside the mask are stepped over and discount nothing.

        R_t = r_t + gamma R_next(t)

    Args:
      rewards: `[..., T]` of tokens, numpy or jax.
      mask: `[..., T]` True on the tokens that the model wrote; the others may hold anything, NaN included.
      gamma: discount per token.

    Returns:
      `[..., T]` of the kind given, 0 outside the mask.

    Limits: the sum of all rewards from the token on at gamma = 1; the reward itself at 0.

    Reference: Williams 1992, "Simple statistical gradient-following algorithms for connectionist RL".
    """
    xp = namespace(rewards)
    r = under(mask, rewards)
    factor = xp.where(xp.asarray(mask, dtype=bool), gamma, 1.0).astype(r.dtype)
    return under(mask, from_the_end(factor, r))
