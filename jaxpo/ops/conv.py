"""The gated short depthwise convolution.

XLA's own depthwise convolution is 40 to 120 times slower on CPU, and knows nothing of segments. The gates are part of
the operation because it is bound by memory: forward is one pass over the three gates on CPU and on NVIDIA; backward,
which saves nothing but the gates, is one pass for their gradient and, on NVIDIA, one for that of the taps
(`tests/ops/test_conv_passes.py` reads both off compiled programs).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Saved = tuple[Array, Array, Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def gated_short_conv(
    gates: Float[Array, "R S 3 D"],
    kernel: Float[Array, "k D"],
    segment_ids: Int[Array, "R S"],
    causal: bool = True,
) -> Float[Array, "R S D"]:
    """`y = c * z` with `z[t] = sum_j kernel[j] * u[t - (k-1) + j]` and `u = b * x`, cut at segment borders.

    LFM2's short convolution (arXiv 2511.23404), a cross-correlation. Summed in float32, returned in `gates.dtype`.
    Differentiable in reverse mode, any number of times.

    Args:
      gates: `b`, `c` and `x`, in this order, `[R, S, 3, D]`.
      kernel: taps, oldest first, `[k, D]`.
      segment_ids: `[R, S]`; a tap that lies in another segment, or beyond the row, counts as zero.
      causal: taps end at t; otherwise they are centred, `u[t - k//2 + j]`, as in bidirectional encoders.
    """
    b, c, x = _three(gates)
    u = (b * x).astype(jnp.float32)
    # Padded for each tap by itself: XLA for CPU fuses that into the one pass; an array padded once would be written.
    seen = [shifted for back in _distances(kernel.shape[0], causal) for shifted in _seen(u, segment_ids, [back])]
    return c * _weighted(kernel, seen).astype(gates.dtype)


def _forward(gates: Array, kernel: Array, segment_ids: Array, causal: bool) -> tuple[Array, Saved]:
    return gated_short_conv(gates, kernel, segment_ids, causal), (gates, kernel, segment_ids)


def _backward(causal: bool, saved: Saved, dy: Array) -> tuple[Array, Array, None]:
    """`dc = dy z`, `du[s] = sum_j kernel[j] (dy c)[s + (k-1) - j]`, `db = du x`, `dx = du b`; of a tap `sum dy c u`."""
    gates, kernel, segment_ids = saved
    b, c, x = (gate.astype(jnp.float32) for gate in _three(gates))
    dy = dy.astype(jnp.float32)
    back = _distances(kernel.shape[0], causal)
    u, dz = b * x, dy * c
    seen = _seen(u, segment_ids, back)
    du = _weighted(kernel, _seen(dz, segment_ids, [-distance for distance in back]))
    of_gates = jnp.stack([du * x, dy * _weighted(kernel, seen), du * b], axis=-2)
    # Summed over a row first, as one array: XLA for NVIDIA then makes the products on the way into the sum, instead of
    # writing one [R, S, D] per tap to memory to add it up from there.
    products = jnp.stack([dz * shifted for shifted in seen])
    of_rows = jax.lax.optimization_barrier(jnp.sum(products, axis=2))
    return of_gates.astype(gates.dtype), jnp.sum(of_rows, axis=1).astype(kernel.dtype), None


gated_short_conv.defvjp(_forward, _backward)


def short_conv_step(
    u: Float[Array, "B s D"],
    kernel: Float[Array, "k D"],
    columns: Float[Array, "B k-1 D"],
    count: Int[Array, "B"],
) -> tuple[Float[Array, "B s D"], Float[Array, "B k-1 D"]]:
    """Continue the convolution of `u = b * x` in `gated_short_conv` after the columns that came before.

    Args:
      u: the next columns, of which the first `count[b]` of row b are real.
      kernel: `[k, D]`.
      columns: the k-1 columns before `u`, oldest first; zeros where the sequence had not begun.
      count: `[B]`, 0..s.

    Returns:
      `z` at every column of `u` (meaningless beyond `count`), and the last k-1 real columns.
    """
    taps, steps = kernel.shape[0], u.shape[1]
    joined = jnp.concatenate([columns.astype(u.dtype), u], axis=1)
    wide = joined.astype(jnp.float32)
    total = sum(kernel[j].astype(jnp.float32) * wide[:, j : j + steps] for j in range(taps))
    keep = count[:, None] + jnp.arange(taps - 1)
    return jnp.asarray(total).astype(u.dtype), jnp.take_along_axis(joined, keep[..., None], axis=1)


def _three(gates: Array) -> tuple[Array, Array, Array]:
    return gates[..., 0, :], gates[..., 1, :], gates[..., 2, :]


def _distances(taps: int, causal: bool) -> list[int]:
    """How far back each tap looks; negative: ahead."""
    ahead = 0 if causal else taps - 1 - taps // 2
    return [taps - 1 - ahead - j for j in range(taps)]


def _weighted(kernel: Array, seen: Sequence[Array]) -> Array:
    """`sum_j kernel[j] seen[j]` in float32."""
    total = jnp.zeros(seen[0].shape, jnp.float32)
    for tap, shifted in zip(kernel.astype(jnp.float32), seen, strict=True):
        total += tap * shifted
    return total


def _seen(u: Array, segment_ids: Array, back: Sequence[int]) -> list[Array]:
    """`u[t - back[j]]` for every j, zero where that is not in t's segment."""
    pairs = zip(_shifted(u, back), _shifted(segment_ids, back), strict=True)
    return [jnp.where((segment == segment_ids)[..., None], shifted, 0.0) for shifted, segment in pairs]


def _shifted(x: Array, back: Sequence[int]) -> list[Array]:
    """`y[:, t] = x[:, t - back[j]]` for every j, zero outside: slices of one padded array."""
    before, after = max(0, *back), max(0, *(-distance for distance in back))
    padded = jnp.pad(x, [(0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)])
    return [padded[:, before - distance : before - distance + x.shape[1]] for distance in back]
