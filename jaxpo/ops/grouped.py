"""Products of groups of rows with a matrix each: the experts of a mixture.

Rows are laid out group after group (`group_rows`), every group padded to whole blocks, so that a block has one matrix
and nothing is ever dropped. `implementation=None` takes the best backend of the platform; a named one is used or
refused, never replaced.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from jaxpo.errors import BackendError
from jaxpo.ops.linear import Standing, Weight, linear
from jaxpo.ops.quant import Quant

# The share of a group's mean size that a block is, the smallest and the largest block: a program of NVIDIA's has one
# block of rows, and half a block of each group is padding.
_BLOCKS = {"gpu": (2, 16, 128)}
_ELSEWHERE = (8, 8, 64)
# The least that NVIDIA's tensor cores multiply.
TRITON_TILE = 16
# Slots that are multiplied at once where a group has as many: products are slow over few rows, and the gradient of the
# weights is read and written once for each.
TOGETHER = 256


@struct.dataclass
class Groups:
    """Where the rows of a grouped product lie: P slots, in blocks of `block` that each belong to one group.

    Attributes:
      source: `[P]` the row in each slot; T = empty.
      choice: `[P]` which of the row's k assignments it is; 0 where empty.
      slot: `[T, k]` the slot of each assignment; P = to no group here.
      sizes: `[E]` slots of each group, whole blocks, in the order of the groups; slots beyond their sum are empty.
      block: slots of a block; static.
    """

    source: Int[Array, "P"]
    choice: Int[Array, "P"]
    slot: Int[Array, "T k"]
    sizes: Int[Array, "E"]
    block: int = struct.field(pytree_node=False)


def block_size(assignments: int, groups: int) -> int:
    """A power of two near an eighth of the mean size of a group (a half on a GPU); half a block of each is padding."""
    share, least, most = _BLOCKS.get(jax.default_backend(), _ELSEWHERE)
    mean = assignments // (share * groups)
    return min(most, max(least, 1 << max(mean, 1).bit_length() - 1))


def group_rows(group: Int[Array, "T k"], groups: int, *, block: int | None = None) -> Groups:
    """Lay out T rows for their groups: a stable sort by group, each group padded to whole blocks. Drops nothing.

    Args:
      group: `[T, k]` the groups of each row; an id outside `0..groups-1` belongs to none of them and takes no slot.
      groups: E.
      block: None chooses.

    Returns:
      At most `T k + min(E, T k) (block - 1)` slots, whole blocks, whatever the assignment.
    """
    rows, k = group.shape
    count = rows * k
    block = block_size(count, groups) if block is None else block
    slots = (count + min(groups, count) * (block - 1)) // block * block
    flat = jnp.where((group < 0) | (group >= groups), groups, group).reshape(-1)
    order = jnp.argsort(flat, stable=True)
    rank = jnp.argsort(order)
    loads = jnp.sum(flat[:, None] == jnp.arange(groups), axis=0, dtype=jnp.int32)
    sizes = -(-loads // block) * block
    first, start = jnp.cumsum(loads) - loads, jnp.cumsum(sizes) - sizes
    placed = jnp.append(start - first, slots)[flat] + rank
    slot = jnp.where(flat == groups, slots, placed)
    at = jnp.arange(slots)
    owner = jnp.minimum(jnp.searchsorted(jnp.cumsum(sizes), at, side="right"), groups - 1)
    offset = at - start[owner]
    taken = order[jnp.clip(first[owner] + offset, 0, count - 1)]
    filled = (offset >= 0) & (offset < loads[owner])
    source, choice = jnp.where(filled, taken // k, rows), jnp.where(filled, taken % k, 0)
    return Groups(source, choice, slot.reshape(rows, k), sizes, block)


def _rows_at(x: Float[Array, "n d"], index: Int[Array, "..."]) -> Float[Array, "... d"]:
    """`x[index]`, zero where the index is n."""
    return jnp.asarray(x).at[index].get(mode="fill", fill_value=0)


@jax.custom_vjp
def dispatch(x: Float[Array, "T d"], groups: Groups) -> Float[Array, "P d"]:
    """Put every row into its slots; empty slots are 0. The gradient gathers too: a scatter of rows is slow."""
    return _rows_at(x, groups.source)


def _dispatch_back(groups: Groups, dy: Array) -> tuple[Array, None]:
    return jnp.sum(_rows_at(dy, groups.slot), axis=1), None


dispatch.defvjp(lambda x, groups: (dispatch(x, groups), groups), _dispatch_back)


@jax.custom_vjp
def combine(y: Float[Array, "P d"], weight: Float[Array, "T k"], groups: Groups) -> Float[Array, "T d"]:
    """`out[t] = sum_k weight[t, k] y[slot[t, k]]`, in the weights' type (float32): it may be a part of a longer sum."""
    picked = _rows_at(y, groups.slot).astype(weight.dtype)
    return jnp.sum(weight[..., None] * picked, axis=1)


def _combine_back(saved: tuple[Array, Array, Groups], dy: Array) -> tuple[Array, Array, None]:
    y, weight, groups = saved
    dy = dy.astype(weight.dtype)
    of_slot = weight.at[groups.source, groups.choice].get(mode="fill", fill_value=0)
    back = of_slot[:, None] * _rows_at(dy, groups.source)
    picked = _rows_at(y, groups.slot).astype(weight.dtype)
    return back.astype(y.dtype), jnp.einsum("tkd,td->tk", picked, dy), None


combine.defvjp(lambda y, weight, groups: (combine(y, weight, groups), (y, weight, groups)), _combine_back)


def _blocks(x: Array, w: Array, groups: Groups) -> Array:
    return _block_product(x, w, groups.sizes, groups.block)


def _for_groups(sizes: Int[Array, "E"], body: Callable[..., Any], start: Any) -> Any:
    """`body(group, first slot, end, carry)` for every group that has slots; the others are not so much as looked at."""
    ends = jnp.cumsum(sizes)
    busy = jnp.argsort(sizes == 0, stable=True)

    def step(i: Array, carry: Any) -> Any:
        group = busy[i]
        return body(group, ends[group] - sizes[group], ends[group], carry)

    return lax.fori_loop(0, jnp.sum(sizes > 0), step, start)


def _for_blocks(first: Array, end: Array, slots: int, block: int, body: Callable[..., Any], carry: Any) -> Any:
    """`body(slot, count, carry)` over a group's slots: many blocks at once while there are as many, then half of it."""
    # No slice may be longer than the array, run or not.
    most = max(block, min(TOGETHER, slots))
    count = block << (most // block).bit_length() - 1
    while count >= block:
        times = (end - first) // count
        carry = lax.fori_loop(0, times, functools.partial(_tile, body, first, count), carry)
        first, count = first + times * count, count // 2
    return carry


def _tile(body: Callable[..., Any], first: Array, count: int, i: Array, carry: Any) -> Any:
    return body(first + i * count, count, carry)


def _over_groups(
    x: Float[Array, "P i"], width: int, sizes: Int[Array, "E"], block: int, matrix: Callable[[Array], Weight]
) -> Float[Array, "P o"]:
    """Every block times its group's `matrix(group)` `[i, o]`, which is taken once for all blocks of the group."""

    def of_group(group: Array, first: Array, end: Array, out: Array) -> Array:
        own = matrix(group)

        def step(at: Array, count: int, out: Array) -> Array:
            product = linear(lax.dynamic_slice_in_dim(x, at, count), own)
            return lax.dynamic_update_slice_in_dim(out, product, at, 0)

        return _for_blocks(first, end, x.shape[0], block, step, out)

    return _for_groups(sizes, of_group, jnp.zeros((x.shape[0], width), x.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _block_product(x: Float[Array, "P i"], w: Float[Array, "E i o"], sizes: Int[Array, "E"], block: int) -> Array:
    # Taken out of the stack (and cast) once for all blocks of the group: on CPU the copy costs as much as the product
    # of 30 rows.
    return _over_groups(x, w.shape[2], sizes, block, lambda group: w[group].astype(x.dtype))


def _block_product_back(block: int, saved: tuple[Array, Array, Array], dy: Array) -> tuple[Array, Array, None]:
    x, w, sizes = saved

    def of_group(group: Array, first: Array, end: Array, grads: tuple[Array, Array]) -> tuple[Array, Array]:
        dx, dw = grads
        own = w[group].astype(x.dtype)

        def step(at: Array, count: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            dx, total = carry
            rows, d_rows = lax.dynamic_slice_in_dim(x, at, count), lax.dynamic_slice_in_dim(dy, at, count)
            dx = lax.dynamic_update_slice_in_dim(dx, jnp.einsum("ro,io->ri", d_rows, own), at, 0)
            return dx, total + jnp.matmul(rows.T, d_rows, preferred_element_type=total.dtype)

        # A group's sum stays in the cache, in float32 at least, until it is whole.
        nothing = jnp.zeros(w.shape[1:], jnp.promote_types(w.dtype, jnp.float32))
        dx, total = _for_blocks(first, end, x.shape[0], block, step, (dx, nothing))
        return dx, lax.dynamic_update_index_in_dim(dw, total.astype(dw.dtype), group, 0)

    dx, dw = _for_groups(sizes, of_group, (jnp.zeros_like(x), jnp.zeros_like(w)))
    return dx, dw, None


_block_product.defvjp(
    lambda x, w, sizes, block: (_block_product(x, w, sizes, block), (x, w, sizes)), _block_product_back
)


def _ragged(x: Array, w: Array, groups: Groups) -> Array:
    return lax.ragged_dot(x, w.astype(x.dtype), groups.sizes)


# Pallas takes a third of a second to import, and CPU never needs it.
def _megablox(x: Array, w: Array, groups: Groups) -> Array:
    from jaxpo.ops.grouped_megablox import megablox_product

    return megablox_product(x, w, groups.sizes)


def _triton(x: Array, w: Array, groups: Groups) -> Array:
    from jaxpo.ops.grouped_triton import triton_product

    return triton_product(x, w, groups.sizes, groups.block)


_BACKENDS: dict[str, Callable[[Array, Array, Groups], Array]] = {
    "blocks": _blocks,
    "ragged_dot": _ragged,
    "megablox": _megablox,
    "triton": _triton,
}
_ON = {
    "cpu": ("blocks", "ragged_dot"),
    "gpu": ("triton", "blocks", "ragged_dot"),
    "tpu": ("megablox", "ragged_dot", "blocks"),
}
_WHY = {
    "blocks": "a loop over the groups in use runs everywhere, whatever the widths",
    "ragged_dot": "XLA's own; but for TPU's forward it multiplies every row for every group",
    "megablox": "JAX's kernels for TPU, forward and backward",
    "triton": "a blocked product for NVIDIA that looks up each block's matrix",
}


def available(platform: str | None = None) -> tuple[str, ...]:
    """Names that `implementation` accepts on a platform ("cpu", "gpu", "tpu"; None = this one), best first."""
    return _ON.get(platform or jax.default_backend(), _ON["cpu"])


def chosen(
    implementation: str | None = None, *, platform: str | None = None, widths: tuple[int, ...] = (), block: int = 64
) -> tuple[str, str]:
    """The backend that `grouped_matmul` takes, and why.

    Args:
      implementation: a name, or None for the best.
      platform: "cpu", "gpu" or "tpu"; None = this one.
      widths: in and out of the matrices.
      block: slots of a block.

    Raises:
      BackendError: the named backend is not available on the platform, or cannot do this.
    """
    names = available(platform)
    if implementation is None:
        name = next(name for name in names if _refusal(name, widths, block) is None)
        passed = [f"; {_refusal(better, widths, block)}" for better in names[: names.index(name)]]
        return name, _WHY[name] + "".join(passed)
    if implementation not in names:
        raise BackendError(
            f"grouped_matmul implementation {implementation!r} is not available here; available: {', '.join(names)}. "
            "Leave it unset (None) to take the best one."
        )
    reason = _refusal(implementation, widths, block)
    if reason is not None:
        raise BackendError(f"grouped_matmul: {reason}. Leave the implementation unset (None) to take one that can.")
    return implementation, "asked for"


def _refusal(name: str, widths: tuple[int, ...], block: int) -> str | None:
    """Why a backend cannot do this."""
    if name == "triton" and (block % TRITON_TILE or any(width % TRITON_TILE for width in widths)):
        sizes = " and ".join(map(str, widths))
        return f"'triton' needs widths and blocks in multiples of {TRITON_TILE}, not {sizes} in blocks of {block}"
    return None


def grouped_matmul(
    x: Float[Array, "P i"], w: Weight, groups: Groups, *, implementation: str | None = None
) -> Float[Array, "P o"]:
    """`y[p] = x[p] W[group of slot p]`, in the type of `x`; 0 in the slots behind the last group.

    Args:
      x: `[P, in]` rows laid out by `dispatch`.
      w: `[E, in, out]`, cast to the type of `x` at use; or a leaf that stands for such a stack; a quantised one
        "blocks" alone multiplies.
      groups: the layout.
      implementation: "blocks" (a loop over the blocks in use, one dense product each), "ragged_dot" (XLA's), "megablox"
        (TPU), "triton" (NVIDIA), or None; see `chosen`.

    Raises:
      BackendError: the named backend is not available here, or cannot do this.
    """
    if isinstance(w, Quant):
        return _quantised(x, w, groups, implementation)
    if isinstance(w, Standing):
        return w.grouped(x, groups, functools.partial(_product, groups=groups, implementation=implementation))
    return _product(x, w, groups, implementation)


def _product(x: Array, w: Array, groups: Groups, implementation: str | None) -> Array:
    name, _ = chosen(implementation, widths=w.shape[1:], block=groups.block)
    return _BACKENDS[name](x, w, groups)


def _quantised(x: Array, w: Quant, groups: Groups, implementation: str | None) -> Array:
    if implementation not in (None, "blocks"):
        raise BackendError(
            f"grouped_matmul: {implementation!r} does not multiply quantised experts. Leave the implementation unset "
            '(None) or take "blocks".'
        )
    return _over_groups(x, w.shape[2], groups.sizes, groups.block, w.group)
