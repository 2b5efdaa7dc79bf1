"""The gated short convolution in plain XLA, which fuses it into few passes over memory.

XLA's own depthwise convolution is 40 to 120 times slower on CPU, and knows nothing of segments. Forward is one pass
over the three gates on CPU and on NVIDIA; backward, which saves nothing but the gates, is one pass for their gradient
and, on NVIDIA, one for that of the taps (`tests/ops/test_conv_passes.py` reads both off compiled programs).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Saved = tuple[Array, Array, Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def xla_short_conv(
    gates: Float[Array, "R S 3 D"],
    kernel: Float[Array, "k D"],
    segment_ids: Int[Array, "R S"],
    causal: bool,
) -> Float[Array, "R S D"]:
    """See `jaxpo.ops.conv.gated_short_conv`."""
    b, c, x = _three(gates)
    u = (b * x).astype(jnp.float32)
    # Padded for each tap by itself: XLA for CPU fuses that into the one pass; an array padded once would be written.
    seen = [shifted for back in distances(kernel.shape[0], causal) for shifted in _seen(u, segment_ids, [back])]
    return c * _weighted(kernel, seen).astype(gates.dtype)


def _forward(gates: Array, kernel: Array, segment_ids: Array, causal: bool) -> tuple[Array, Saved]:
    return xla_short_conv(gates, kernel, segment_ids, causal), (gates, kernel, segment_ids)


def _backward(causal: bool, saved: Saved, dy: Array) -> tuple[Array, Array, None]:
    """`dc = dy z`, `du[s] = sum_j kernel[j] (dy c)[s + (k-1) - j]`, `db = du x`, `dx = du b`; of a tap `sum dy c u`."""
    gates, kernel, segment_ids = saved
    b, c, x = (gate.astype(jnp.float32) for gate in _three(gates))
    dy = dy.astype(jnp.float32)
    back = distances(kernel.shape[0], causal)
    u, dz = b * x, dy * c
    seen = _seen(u, segment_ids, back)
    du = _weighted(kernel, _seen(dz, segment_ids, [-distance for distance in back]))
    of_gates = jnp.stack([du * x, dy * _weighted(kernel, seen), du * b], axis=-2)
    # Summed over a row first, as one array: XLA for NVIDIA then makes the products on the way into the sum, instead of
    # writing one [R, S, D] per tap to memory to add it up from there.
    products = jnp.stack([dz * shifted for shifted in seen])
    of_rows = jax.lax.optimization_barrier(jnp.sum(products, axis=2))
    return of_gates.astype(gates.dtype), jnp.sum(of_rows, axis=1).astype(kernel.dtype), None


xla_short_conv.defvjp(_forward, _backward)


def _three(gates: Array) -> tuple[Array, Array, Array]:
    return gates[..., 0, :], gates[..., 1, :], gates[..., 2, :]


def distances(taps: int, causal: bool) -> list[int]:
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
