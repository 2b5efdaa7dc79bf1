"""Caches of the engine: a row for each slot, or rows that share pages; and the store of prompts that were read before.

What a model remembers is of two kinds. Keys and values lie at every position (`Decoder.per_position`); what
convolutions and windows remember is the state after the last position. A prompt can be gone on from wherever both are
known: at the border of every page, for which `Store` keeps the state, and at the end of the prompt.

With dense slots a page is copied into a row, with pages the row names it. All functions here run inside programs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

from jaxpo.models.family import TextConfig, decoder
from jaxpo.sharding import constrain

Tree = Any


@struct.dataclass
class Store:
    """What is kept of N pages of prompts.

    Attributes:
      layers: per layer the state after each page `[N, ...]`; with dense slots also what lies at its positions
        `[N, page, ...]`, which otherwise is in the cache itself.
    """

    layers: Tree


def empty(
    config: TextConfig, slots: int, length: int, dtype: Any, pages: int, page: int, paged: bool
) -> tuple[Any, Store]:
    """A cache for `slots` rows of `length` positions, and a store for so many pages."""
    model = decoder(config)
    cache = model.cache(config, slots, length, dtype, (pages, page) if paged else None)

    def kept(entry: Tree) -> Tree:
        return {
            name: jnp.zeros(
                (pages, page, *x.shape[2:]) if name in model.per_position else (pages, *x.shape[1:]), x.dtype
            )
            for name, x in entry.items()
            if not (paged and name in model.per_position)
        }

    return cache, Store({i: kept(entry) for i, entry in cache.layers.items()})


def _each(config: TextConfig, cache: Any, position: Callable[..., Array], state: Callable[..., Array]) -> Tree:
    """`layers` with `position(layer, name, x)` for what lies at positions and `state(layer, name, x)` for the rest."""
    names = decoder(config).per_position
    return {
        i: {name: (position if name in names else state)(i, name, x) for name, x in entry.items()}
        for i, entry in cache.layers.items()
    }


def take(config: TextConfig, cache: Any, slots: Int[Array, "P"]) -> Any:
    """The rows of these slots as a cache of their own; pages stay where they are."""

    def rows(x: Array) -> Array:
        return jnp.take(x, slots, axis=0, mode="clip")

    paged = cache.table is not None
    layers = _each(config, cache, lambda i, name, x: x if paged else rows(x), lambda i, name, x: rows(x))
    return dataclasses.replace(
        cache, layers=layers, length=rows(cache.length), table=rows(cache.table) if paged else None
    )


def put(config: TextConfig, cache: Any, slots: Int[Array, "P"], new: Any) -> Any:
    """The cache with these rows put back; slots that do not exist are left out."""

    def rows(x: Array, y: Array) -> Array:
        return x.at[slots].set(y, mode="drop")

    paged = cache.table is not None
    layers = _each(
        config,
        cache,
        lambda i, name, x: new.layers[i][name] if paged else rows(x, new.layers[i][name]),
        lambda i, name, x: rows(x, new.layers[i][name]),
    )
    return dataclasses.replace(cache, layers=layers, length=rows(cache.length, new.length))


def load(
    config: TextConfig,
    cache: Any,
    store: Store,
    slot: Int[Array, ""],
    pages: Int[Array, "n"],
    last: Int[Array, ""],
    length: Int[Array, ""],
    copied: Int[Array, "2"],
) -> Any:
    """The cache with a slot that goes on from what the store has.

    Args:
      pages: of the row, in order; with dense slots those that are copied into it.
      last: the page after which the state is taken; N = the row begins anew.
      length: positions that are known.
      copied: (from, to): with pages one of them, which the row will write in, is copied; N = none.
    """

    # What the row has not written yet is zero, not what another left there: it is weighted with 0, and 0 NaN is NaN.
    def position(i: str, name: str, x: Array) -> Array:
        if cache.table is not None:
            own = jnp.where(jnp.arange(pages.shape[0]) < length // x.shape[1], x.shape[0], pages)
            x = x.at[own].set(0, mode="drop")
            return x.at[copied[1]].set(x[jnp.minimum(copied[0], x.shape[0] - 1)], mode="drop")
        held = jnp.take(store.layers[i][name], pages, axis=0, mode="fill", fill_value=0)
        return x.at[slot].set(held.reshape(-1, *held.shape[2:])[: x.shape[1]], mode="drop")

    def state(i: str, name: str, x: Array) -> Array:
        held = jnp.take(store.layers[i][name], last, axis=0, mode="fill", fill_value=0)
        return x.at[slot].set(held, mode="drop")

    table = None if cache.table is None else cache.table.at[slot].set(pages, mode="drop")
    seen = cache.length.at[slot].set(length, mode="drop")
    return dataclasses.replace(cache, layers=_each(config, cache, position, state), length=seen, table=table)


def save(
    config: TextConfig,
    store: Store,
    rows: Any,
    start: Int[Array, "P"],
    pages: Int[Array, "P n"],
    ends: Int[Array, "P"],
    page: int,
) -> tuple[Store, Any]:
    """The store with the pages that rows have read in one step, and the rows; with pages, ends are copied among them.

    Args:
      rows: after the step, with its `borders`.
      start: positions that were known before it.
      pages: where the whole pages of the step go; N = not kept.
      ends: where the page goes in which a row's prompt ends, with the state there; N = not kept.
    """
    paged, names = rows.table is not None, decoder(config).per_position
    whole, lanes = pages.reshape(-1), jnp.arange(pages.shape[0])
    room = pages.shape[1] * page
    final = rows.length // page

    def at_positions(i: str, name: str, x: Array) -> Array:
        new = rows.layers[i][name]
        columns = start[:, None] + jnp.arange(room)
        read = jnp.take_along_axis(new, _wide(columns, new), axis=1, mode="clip")
        x = x.at[whole].set(read.reshape(-1, page, *read.shape[2:]), mode="drop")
        last = jnp.take_along_axis(new, _wide(final[:, None] * page + jnp.arange(page), new), axis=1, mode="clip")
        return x.at[ends].set(last, mode="drop")

    def state(i: str, name: str, x: Array) -> Array:
        known = rows.borders[i][name]
        x = x.at[whole].set(known.reshape(-1, *known.shape[2:]), mode="drop")
        return x.at[ends].set(rows.layers[i][name], mode="drop")

    kept = Store(
        {
            i: {name: (at_positions if name in names else state)(i, name, x) for name, x in entry.items()}
            for i, entry in store.layers.items()
        }
    )
    rows = dataclasses.replace(rows, borders=None)
    if not paged:
        return kept, rows
    source = jnp.take_along_axis(rows.table, final[:, None], axis=1, mode="clip")[lanes, 0]
    copied = _each(
        config,
        rows,
        lambda i, name, x: x.at[ends].set(jnp.take(x, source, axis=0, mode="clip"), mode="drop"),
        lambda i, name, x: x,
    )
    return kept, dataclasses.replace(rows, layers=copied)


def _wide(index: Int[Array, "P c"], x: Array) -> Int[Array, "P c *1"]:
    return index.reshape(*index.shape, *(1,) * (x.ndim - 2))


def spread(config: TextConfig, cache: Any) -> Any:
    """The cache with its rows over the devices that share rows, and heads over those that share products."""
    paged = cache.table is not None
    layers = _each(
        config,
        cache,
        lambda i, name, x: constrain(x, None if paged else "batch", None, "kv_heads_act", None),
        lambda i, name, x: constrain(x, "batch", *(None,) * (x.ndim - 1)),
    )
    table = constrain(cache.table, "batch", None) if paged else None
    return dataclasses.replace(cache, layers=layers, length=constrain(cache.length, "batch"), table=table)


def spread_store(config: TextConfig, store: Store) -> Store:
    """The store with heads over the devices that share products, and the rest on each of them."""
    names = decoder(config).per_position

    def place(name: str, x: Array) -> Array:
        return constrain(x, None, None, "kv_heads_act", None) if name in names else constrain(x, *(None,) * x.ndim)

    return Store({i: {name: place(name, x) for name, x in entry.items()} for i, entry in store.layers.items()})
