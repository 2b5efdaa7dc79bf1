"""Kernels on a mesh: each device attends its own rows and heads, because the compiler cannot divide a kernel."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

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
    mesh, rules = active
    rows = fitting_spec(q.shape[:1], ("batch",))[0]
    heads, shared = rules["heads_act"], rules["kv_heads_act"]
    divides = heads == shared and not any(x.shape[2] % axis_size(mesh, heads) for x in (q, k))
    of_heads = PartitionSpec(rows, None, heads if divides else None, None)
    return jax.shard_map(
        lambda q, k, v, of_rows: attend(q, k, v, *of_rows),
        mesh=mesh,
        in_specs=(of_heads, of_heads, of_heads, PartitionSpec(rows)),
        out_specs=of_heads,
        # A kernel does not say over which axes its results vary.
        check_vma=False,
    )(q, k, v, of_rows)
