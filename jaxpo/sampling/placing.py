"""Rows are given their slots: all that came at once, in one call."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
from flax import struct
from jaxtyping import Int

from jaxpo.sampling import cache as caches
from jaxpo.sampling.programs import Compute, State, spread

Array = Any


@struct.dataclass
class Placed:
    """Rows that get a slot, n at most.

    Attributes:
      slot: `[n]`, B = none.
      tokens, length: `[n, T]`, `[n]`.
      pages, last, known, copied: `[n, pages]`, `[n]`, `[n]`, `[n, 2]`, where each goes on from, see `cache.load`.
    """

    slot: Int[Array, "n"]
    tokens: Int[Array, "n T"]
    length: Int[Array, "n"]
    pages: Int[Array, "n m"]
    last: Int[Array, "n"]
    known: Int[Array, "n"]
    copied: Int[Array, "n 2"]

    @classmethod
    def nobody(cls, rows: int, slots: int, context: int, pages: int, none: int) -> Placed:
        """Room for so many rows, as arrays of the host.

        Args:
          slots: how many there are.
          context, pages: positions of a row, and its pages.
          none: the page that there is not.
        """
        return cls(
            slot=np.full(rows, slots, np.int32),
            tokens=np.zeros((rows, context), np.int32),
            length=np.zeros(rows, np.int32),
            pages=np.full((rows, pages), none, np.int32),
            last=np.full(rows, none, np.int32),
            known=np.zeros(rows, np.int32),
            copied=np.full((rows, 2), none, np.int32),
        )


@partial(jax.jit, static_argnames="compute", donate_argnames="state")
def place(state: State, store: caches.Store, rows: Placed, count: Int[Array, ""], *, compute: Compute) -> State:
    """Give slots to the first `count` of the rows, one after another."""

    def one(i: Array, state: State) -> State:
        row = jax.tree.map(lambda x: x[i], rows)
        cache = caches.load(compute.config, state.cache, store, row.slot, row.pages, row.last, row.known, row.copied)
        tokens = state.tokens.at[row.slot].set(row.tokens, mode="drop")
        return spread(compute, State(cache, tokens, state.length.at[row.slot].set(row.length, mode="drop")))

    return jax.lax.fori_loop(0, count, one, state)
