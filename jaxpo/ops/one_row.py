"""Reductions over a batch of one row, which XLA for CPU computes badly with the axis of rows in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

Tree = Any


def without_one_row(f: Callable[..., Tree], *args: Tree) -> Tree:
    """`f(*args)` of arrays `[R, ...]`; where R is 1 computed without that axis, and given back with it.

    XLA for CPU reduces `[1, S, V]` on one core, by way of an array in memory: ten times as long as `[S, V]`
    (docs/speed.md).

    Args:
      f: takes and returns trees of arrays with any number of leading axes.
    """
    if jax.tree.leaves(args)[0].shape[0] != 1:
        return f(*args)
    # Reshaped: the gradient of an axis that is put in by other means is a sum over it.
    found = f(*jax.tree.map(lambda x: x.reshape(x.shape[1:]), args))
    return jax.tree.map(lambda y: y.reshape(1, *y.shape), found)
