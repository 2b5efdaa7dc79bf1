"""Attention on a mesh: each device attends with its own rows, heads and queries.

Where the positions of a row are spread over devices, queries stay where they are and the keys and values that they can
reach come to them: those of the neighbours where segments or a window are short, else of the whole row. Grouped queries
make these small beside the hidden states, and all devices have the same work.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from jaxpo.ops.halo import with_halo
from jaxpo.sharding import axis_size, current_rules, fitting_spec


def on_mesh(
    attend: Callable[..., Array],
    q: Float[Array, "R S H h"],
    k: Float[Array, "R T G h"],
    v: Float[Array, "R T G h"],
    *of_rows: Array | None,
) -> Float[Array, "R S H h"]:
    """`attend(q, k, v, *of_rows)` under the enclosing mesh; without one of several devices, just that.

    Rows are divided as the rule "batch" says, heads as "heads_act" and "kv_heads_act" say if both divide: then a key
    head is where its query heads are. A dimension that is not divided is computed whole on every device.

    Args:
      of_rows: arrays whose first axis is the rows, or None.
    """
    active = current_rules()
    if active is None or active[0].size == 1:
        return attend(q, k, v, *of_rows)
    rows, heads = fitting_spec(q.shape[:1], ("batch",))[0], _head_axis(q, k)
    of_heads = PartitionSpec(rows, None, heads, None)
    return jax.shard_map(
        lambda q, k, v, of_rows: attend(q, k, v, *of_rows),
        mesh=active[0],
        in_specs=(of_heads, of_heads, of_heads, PartitionSpec(rows)),
        out_specs=of_heads,
        # A kernel does not say over which axes its results vary.
        check_vma=False,
    )(q, k, v, of_rows)


def over_positions(
    attend: Callable[..., Array],
    q: Float[Array, "R S H h"],
    k: Float[Array, "R S G h"],
    v: Float[Array, "R S G h"],
    segment_ids: Int[Array, "R S"],
    key_ids: Int[Array, "R S"],
    *,
    causal: bool,
    most: int | None,
    window: int | None,
) -> Float[Array, "R S H h"]:
    """Attention with the positions of a row spread over devices, under the enclosing mesh, which divides them.

    For the backward pass a device keeps its own queries, keys and values: the others come again. A kernel's forward
    pass then runs again too.

    Args:
      attend: `(q [R, L, H, h], k, v [R, W, G, h], segment_ids [R, L], key_ids [R, W], most, before=)`, the first
        query being at position `before` of the keys.
      most: `max_segment` of `jaxpo.ops.attention.attention`, as the others are its arguments.
    """
    active = current_rules()
    assert active is not None, "somebody spreads positions"
    rows, columns = fitting_spec(q.shape[:2], ("batch", "sequence"))
    length, devices = q.shape[1], axis_size(active[0], columns)
    before = min(length, most or length, window or length) - 1
    before = min(before, (devices - 1) * length // devices)
    # Where later positions are seen as well and no window hides any, the whole row will do as it is.
    whole = not causal and window is None and 2 * before >= length
    of_heads, of_rows = PartitionSpec(rows, columns, _head_axis(q, k), None), PartitionSpec(rows, columns)

    @jax.checkpoint
    def local(q: Array, k: Array, v: Array, segment_ids: Array, key_ids: Array) -> Array:
        if whole:
            k, v, key_ids = (lax.all_gather(x, columns, axis=1, tiled=True) for x in (k, v, key_ids))
            return attend(q, k, v, segment_ids, key_ids, None, before=0)
        k, v, key_ids = (with_halo(x, before, 0 if causal else before, columns, devices) for x in (k, v, key_ids))
        return attend(q, k, v, segment_ids, key_ids, most, before=before)

    return jax.shard_map(
        local,
        mesh=active[0],
        in_specs=(of_heads, of_heads, of_heads, of_rows, of_rows),
        out_specs=of_heads,
        check_vma=False,
    )(q, k, v, segment_ids, key_ids)


def _head_axis(q: Float[Array, "R S H h"], k: Float[Array, "R T G h"]) -> str | tuple[str, ...] | None:
    """The mesh axis of the heads, where it divides those of queries and of keys."""
    active = current_rules()
    assert active is not None, "asked under a mesh"
    mesh, rules = active
    heads, shared = rules["heads_act"], rules["kv_heads_act"]
    divides = heads == shared and not any(x.shape[2] % axis_size(mesh, heads) for x in (q, k))
    return heads if divides else None
