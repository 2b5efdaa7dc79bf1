"""The gated short convolution on TPU: Pallas kernels that go over memory once forward and once backward.

A program has a block of positions and all channels. Columns that its taps reach in the blocks beside it are read again,
`BESIDE` at a time. Which taps stay within a segment is packed into one integer per position beforehand.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from jaxpo.ops.conv_refusals import BESIDE, LANES, positions

Back = tuple[int, ...]
# Two factors of a product that is looked at from other positions: in this block, the one before and the one after.
Pair = dict[str, Any]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def pallas_short_conv(
    gates: Float[Array, "R S 3 D"],
    kernel: Float[Array, "k D"],
    segment_ids: Int[Array, "R S"],
    back: Back,
    block: int | None = None,
    interpret: bool = False,
) -> Float[Array, "R S D"]:
    """`y[t] = c[t] sum_j kernel[j] (b x)[t - back[j]]`, cut at segment borders, summed in float32.

    Args:
      gates: `b`, `c` and `x`, `[R, S, 3, D]`, D a multiple of 128.
      kernel: taps, `[k, D]`.
      segment_ids: `[R, S]`.
      back: how far back each tap looks, at most 8, one of them 0; negative: ahead.
      block: positions of a program; None = what fits.
      interpret: run the kernels' operations one by one, on any platform.
    """
    cut = _Cut(gates, block)
    flat = cut.flat(gates)
    y = jax.ShapeDtypeStruct((*flat.shape[:2], cut.width), gates.dtype)
    inputs = cut.inputs(kernel, segment_ids, back, cut.pair((flat, 0), (flat, 2), back), cut.here(flat, 1))
    return cut.call(functools.partial(_forward_kernel, back), inputs, y, cut.at(cut.width), interpret)


def _forward(
    gates: Array, kernel: Array, segment_ids: Array, back: Back, block: int | None, interpret: bool
) -> tuple[Array, tuple[Array, Array, Array]]:
    return pallas_short_conv(gates, kernel, segment_ids, back, block, interpret), (gates, kernel, segment_ids)


def _backward(
    back: Back, block: int | None, interpret: bool, saved: tuple[Array, Array, Array], dy: Array
) -> tuple[Array, Array, None]:
    """The gradient of the gates, and that of the taps for each row, which is left to be summed over the rows."""
    gates, kernel, segment_ids = saved
    cut = _Cut(gates, block)
    flat, ahead = cut.flat(gates), tuple(-distance for distance in back)
    u, dz = cut.pair((flat, 0), (flat, 2), back), cut.pair((dy, 0), (flat, 1), ahead)
    inputs = cut.inputs(kernel, segment_ids, back + ahead, u, dz)
    out = (
        jax.ShapeDtypeStruct((cut.rows, 3, cut.length, cut.width), gates.dtype),
        jax.ShapeDtypeStruct((flat.shape[0], *kernel.shape), jnp.float32),
    )
    places = (
        pl.BlockSpec((1, 3, cut.block, cut.width), lambda row, i: (row, 0, i, 0)),
        pl.BlockSpec((1, *kernel.shape), lambda row, i: (row, 0, 0)),
    )
    of_gates, of_taps = cut.call(functools.partial(_backward_kernel, back), inputs, out, places, interpret)
    return jnp.moveaxis(of_gates, 1, 2), jnp.sum(of_taps, axis=0).astype(kernel.dtype), None


pallas_short_conv.defvjp(_forward, _backward)


class _Cut:
    """How the arrays of one call are cut into the blocks of its programs."""

    def __init__(self, gates: Array, block: int | None) -> None:
        self.rows, self.length, _, self.width = gates.shape
        self.block = block or positions(self.width, gates.dtype.itemsize)
        self.blocks = pl.cdiv(self.length, self.block)

    def flat(self, gates: Array) -> Array:
        """`[R, S, 3 D]`, as a product with `[D, 3 D]` leaves it: a kernel's second-to-last axis comes in eights."""
        return gates.reshape(self.rows, self.length, 3 * self.width)

    def at(self, width: int, column: int = 0) -> pl.BlockSpec:
        return pl.BlockSpec((1, self.block, width), lambda row, i: (row, i, column))

    def here(self, array: Array, column: int) -> tuple[Array, pl.BlockSpec]:
        """An array with one block of D channels of it."""
        return array, self.at(self.width, column)

    def pair(self, one: tuple[Array, int], other: tuple[Array, int], back: Back) -> Pair:
        """Two factors, each an array and its block of channels, with as much of the neighbours as is looked at."""
        each, last = self.block // BESIDE, pl.cdiv(self.length, BESIDE) - 1
        found: Pair = {"here": [self.here(*one), self.here(*other)]}
        # At the ends of a row these are blocks of anything: what is beyond it counts as another segment.
        if max(back) > 0:
            found["before"] = [self._beside(x, lambda i: jnp.maximum(i * each - 1, 0)) for x in (one, other)]
        if min(back) < 0:
            found["after"] = [self._beside(x, lambda i: jnp.minimum((i + 1) * each, last)) for x in (one, other)]
        return found

    def _beside(self, factor: tuple[Array, int], index: Callable[[Any], Any]) -> tuple[Array, pl.BlockSpec]:
        array, column = factor
        return array, pl.BlockSpec((1, BESIDE, self.width), lambda row, i: (row, index(i), column))

    def inputs(self, kernel: Array, segment_ids: Array, back: Back, *data: Any) -> list[Any]:
        """Everything that a program reads: arrays, each with its block."""
        bits = _bits(segment_ids, back)
        bits = jnp.pad(bits, ((0, 0), (0, self.blocks * self.block - self.length)))
        bits = bits.reshape(self.rows, self.blocks, 1, self.block)
        return [
            (kernel.astype(jnp.float32), pl.BlockSpec(kernel.shape, lambda row, i: (0, 0))),
            (bits, pl.BlockSpec((1, 1, 1, self.block), lambda row, i: (row, i, 0, 0))),
            *data,
        ]

    def call(self, kernel: Callable[..., None], inputs: Any, out: Any, places: Any, interpret: bool) -> Any:
        """Run a kernel over all blocks; its last arguments are the outputs."""
        arrays, specs = (
            jax.tree.map(lambda leaf, part=part: leaf[part], inputs, is_leaf=lambda node: isinstance(node, tuple))
            for part in (0, 1)
        )
        return pl.pallas_call(
            kernel,
            out_shape=out,
            grid=(self.rows, self.blocks),
            in_specs=specs,
            out_specs=places,
            # The blocks of a row add to one sum of its taps.
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
            cost_estimate=self._cost(arrays, specs, out, places),
            interpret=interpret,
        )(*arrays)

    def _cost(self, arrays: Any, specs: Any, out: Any, places: Any) -> pl.CostEstimate:
        """Bytes are those of the blocks, of every program; operations are few beside them."""
        blocks = zip(jax.tree.leaves((arrays, out)), jax.tree.leaves((specs, places)), strict=True)
        of_program = sum(math.prod(spec.block_shape) * array.dtype.itemsize for array, spec in blocks)
        return pl.CostEstimate(flops=0, transcendentals=0, bytes_accessed=self.rows * self.blocks * of_program)


def _bits(segment_ids: Int[Array, "R S"], back: Sequence[int]) -> Int[Array, "R S"]:
    """Bit j of t says whether t and `t - back[j]` are of one segment, and both in the row."""
    at, bits = jnp.arange(segment_ids.shape[1]), jnp.zeros(segment_ids.shape, jnp.int32)
    for j, distance in enumerate(back):
        inside = (at >= distance) & (at - distance < segment_ids.shape[1])
        bits |= jnp.where(inside & (jnp.roll(segment_ids, distance, axis=1) == segment_ids), 1 << j, 0)
    return bits


def _forward_kernel(back: Back, taps: Any, bits: Any, u: Pair, c: Any, y: Any) -> None:
    stays = _columns(bits)

    def chunk(lanes: Any) -> None:
        z = _weighted(taps, _seen(u, back, stays, lanes), lanes)
        y[0, :, lanes] = (c[0, :, lanes].astype(jnp.float32) * z).astype(y.dtype)

    _for_chunks(y.shape[2], chunk)


def _backward_kernel(back: Back, taps: Any, bits: Any, u: Pair, dz: Pair, of_gates: Any, of_taps: Any) -> None:
    """See `jaxpo.ops.conv`: `du = kernel . dz ahead`, `db = du x`, `dc = dy z`, `dx = du b`; of a tap `sum dz u`."""
    stays = _columns(bits)
    width = of_taps.shape[2]

    @pl.when(pl.program_id(1) == 0)
    def start() -> None:
        of_taps[...] = jnp.zeros(of_taps.shape, jnp.float32)

    def chunk(lanes: Any) -> None:
        (b, x), (dy, c) = ([ref[0, :, lanes].astype(jnp.float32) for ref in pair["here"]] for pair in (u, dz))
        seen = _seen(u, back, stays, lanes)
        du = _weighted(taps, _seen(dz, [-distance for distance in back], stays >> len(back), lanes), lanes)
        for gate, gradient in enumerate((du * x, dy * _weighted(taps, seen, lanes), du * b)):
            of_gates[0, gate, :, lanes] = gradient.astype(of_gates.dtype)
        # Beyond the row memory holds anything, even what is no number.
        here = jnp.where(_bit(stays, back.index(0)), dy * c, 0.0)
        for j, shifted in enumerate(seen):
            of_taps[0, j : j + 1, lanes] += jnp.sum(here * shifted, axis=0, keepdims=True)

    _for_chunks(width, chunk)


def _for_chunks(width: int, chunk: Callable[[Any], None]) -> None:
    """A few registers' worth of channels at a time."""

    def step(i: Array, carry: None) -> None:
        chunk(pl.ds(pl.multiple_of(i * LANES, LANES), LANES))

    lax.fori_loop(0, width // LANES, step, None)


def _columns(bits: Any) -> Array:
    """`[n, LANES]`, the same in every lane: positions lie along lanes in memory, and along sublanes in the gates."""
    return jnp.broadcast_to(bits[0, 0], (LANES, bits.shape[3])).T


def _bit(bits: Array, j: int) -> Array:
    return (bits >> j) & 1 == 1


def _seen(pair: Pair, back: Sequence[int], stays: Array, lanes: Any) -> list[Array]:
    """The product at `t - back[j]` for every j, zero where bit j of t is not set."""

    def product(place: str) -> Array:
        if place not in pair:
            return jnp.zeros((BESIDE, LANES), jnp.float32)
        one, other = (ref[0, :, lanes].astype(jnp.float32) for ref in pair[place])
        return one * other

    joined = jnp.concatenate([product("before"), product("here"), product("after")])
    count = stays.shape[0]
    parts = (joined[BESIDE - distance : BESIDE - distance + count] for distance in back)
    return [jnp.where(_bit(stays, j), part, 0.0) for j, part in enumerate(parts)]


def _weighted(taps: Any, seen: Sequence[Array], lanes: Any) -> Array:
    """`sum_j kernel[j] seen[j]` in float32."""
    total = jnp.zeros(seen[0].shape, jnp.float32)
    for j, shifted in enumerate(seen):
        total += taps[j : j + 1, lanes] * shifted
    return total
