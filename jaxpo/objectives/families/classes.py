"""How well predicted classes of tokens agree with the given ones: per class, and of whole entities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxpo.data.rows.tagged import BEGINS, GOES_ON
from jaxpo.objectives.base import OfSums

NONE = -1
"""The kind of a word that is part of no entity."""


def going_on(classes: Sequence[str]) -> tuple[int, ...]:
    """Of every class that of the pieces after a word's first: I-X of B-X where there is such a class, else its own."""
    further = {name: f"{GOES_ON}{name.removeprefix(BEGINS)}" for name in classes if name.startswith(BEGINS)}
    return tuple(classes.index(further[name]) if further.get(name) in classes else i for i, name in enumerate(classes))


def class_metrics(
    predicted: Int[Array, "N T"], label: Int[Array, "N T"], where: Bool[Array, "N T"], classes: Sequence[str]
) -> dict[str, Any]:
    """`f1/CLASS` of each, and `macro_f1`, the mean over the classes that are given or predicted.

    F1 = 2 hits / (given + predicted), 0 where there is neither.
    """
    each = jnp.arange(len(classes))
    given, told = ((x[..., None] == each) & where[..., None] for x in (label, predicted))
    axes = tuple(range(where.ndim))
    sums = {
        name: jnp.sum(x.astype(jnp.float32), axis=axes)
        for name, x in (("hits", given & told), ("given", given), ("predicted", told))
    }
    own = {f"f1/{name}": OfSums({k: x[i] for k, x in sums.items()}, f1) for i, name in enumerate(classes)}
    return {"macro_f1": OfSums(sums, macro_f1), **own}


def f1(sums: dict[str, Array]) -> Array:
    """`2 hits / (given + predicted)`; 0 where there is neither."""
    both = sums["given"] + sums["predicted"]
    return 2.0 * sums["hits"] / jnp.maximum(both, 1.0)


def macro_f1(sums: dict[str, Array]) -> Array:
    """The mean of `f1` over the classes that occur."""
    there = sums["given"] + sums["predicted"] > 0
    return jnp.sum(jnp.where(there, f1(sums), 0.0)) / jnp.maximum(jnp.sum(there), 1)


def entity_f1(
    predicted: Int[Array, "N T"], label: Int[Array, "N T"], where: Bool[Array, "N T"], classes: Sequence[str]
) -> OfSums:
    """F1 of entities: hits have the same first word, the same last one, and the same kind (CoNLL-2003).

    An entity begins at B-X, and at I-X behind anything but a word of kind X; it ends before the next word that does not
    go on with it. Words without a label are passed over.
    """
    given, told = (_entities(x, where, classes) for x in (label, predicted))
    hits = given[0] & told[0] & (given[1] == told[1]) & (given[2] == told[2])
    parts = {"hits": hits, "given": given[0], "predicted": told[0]}
    return OfSums({name: jnp.sum(x.astype(jnp.float32)) for name, x in parts.items()}, f1)


def _entities(
    tags: Int[Array, "N T"], where: Bool[Array, "N T"], classes: Sequence[str]
) -> tuple[Bool[Array, "N T"], Int[Array, "N T"], Int[Array, "N T"]]:
    """Where an entity begins; its kind; and the next labelled place that is no part of it, T = there is none."""
    names = sorted({name[2:] for name in classes if name.startswith((BEGINS, GOES_ON))})
    kinds = [names.index(name[2:]) if name.startswith((BEGINS, GOES_ON)) else NONE for name in classes]
    kind = jnp.where(where, jnp.asarray(kinds)[tags], NONE)
    anew = jnp.asarray([name.startswith(BEGINS) for name in classes])[tags]
    at = jnp.broadcast_to(jnp.arange(tags.shape[1]), tags.shape)
    labelled = jax.lax.cummax(jnp.where(where, at, -1), axis=1)
    before = jnp.pad(labelled[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    kind_before = jnp.take_along_axis(kind, jnp.maximum(before, 0), axis=1)
    kind_before = jnp.where(before >= 0, kind_before, NONE)
    begins = where & (kind != NONE) & (anew | (kind != kind_before))
    stops = where & (begins | (kind == NONE))
    after = jax.lax.cummin(jnp.where(stops, at, tags.shape[1]), axis=1, reverse=True)
    stop = jnp.pad(after[:, 1:], ((0, 0), (0, 1)), constant_values=tags.shape[1])
    return begins, kind, stop
