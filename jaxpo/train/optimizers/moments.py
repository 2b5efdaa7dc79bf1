"""How an optimiser keeps its moments between steps: float32, bfloat16, or one byte each.

Small changes of a moment are smaller than the spacing of a short format: with beta2 = 0.999 a second moment moves by at
most a thousandth per step where bfloat16 numbers lie up to a 128th apart, and rounding to the nearest would hold it for
ever. So both short formats round at random, upwards with the probability that makes the mean exact: what is kept is the
moment plus noise without bias, as in Gupta et al. 2015 (arXiv 1502.02551). The random bits are a hash of step, leaf and
place: the same for every mesh, and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt

from jaxpo.config.optimizers import Moments

Tree = Any
T = TypeVar("T")
# Codes of neighbouring magnitudes differ by the factor 2^(1/8).
PER_OCTAVE = 8
# A leaf below this size, or a vector, stays float32 where others take a byte: it weighs nothing (Dettmers et al. 2021).
LEAST = 4096


class Coded(NamedTuple):
    """A tree of moments in one byte each.

    Attributes:
      codes: int8 (signed) or uint8, in the parameters' shapes; float32 where a leaf is kept whole.
      scale: largest magnitude of each row of the last axis, [..., 1]; one zero where a leaf is kept whole.
    """

    codes: Tree
    scale: Tree


@dataclass(frozen=True)
class Storage:
    """How one tree of moments is kept.

    Attributes:
      start: parameters -> the stored form of zeros.
      read: stored -> float32 tree.
      write: (float32 tree, seed) -> stored; `seed` is any int32 scalar, another for each step and tree.
    """

    start: Callable[[Tree], Tree]
    read: Callable[[Tree], Tree]
    write: Callable[[Tree, Int[Array, ""]], Tree]


def storage(kind: Moments, *, signed: bool) -> Storage:
    """The form that a configuration names, for moments of either sign or for those that are never negative."""
    if kind == "float32":
        return Storage(_zeros(jnp.float32), lambda tree: tree, lambda tree, seed: tree)
    if kind == "bfloat16":
        return Storage(_zeros(jnp.bfloat16), _widened, lambda tree, seed: _leafwise(rounded_bfloat16, tree, seed))
    return Storage(
        lambda params: _start_coded(params, signed),
        lambda stored: jax.tree.map(decode, stored.codes, stored.scale),
        lambda tree, seed: _write_coded(tree, seed, signed),
    )


def _zeros(dtype: Any) -> Callable[[Tree], Tree]:
    return lambda params: jax.tree.map(lambda p: jnp.zeros(p.shape, dtype), params)


def _widened(tree: Tree) -> Tree:
    # Without the barrier the compiler cancels narrowing and widening, computes the moment anew for each use, and copies
    # the old one for it.
    return jax.tree.map(lambda x: jax.lax.optimization_barrier(x).astype(jnp.float32), tree)


def _leafwise(write: Callable[[Array, Int[Array, ""]], T], tree: Tree, seed: Int[Array, ""]) -> Any:
    """Apply `write(leaf, seed of the leaf)`."""
    leaves, treedef = jax.tree.flatten(tree)
    return jax.tree.unflatten(treedef, [write(x, seed * 0x3C6EF + i) for i, x in enumerate(leaves)])


def is_coded(x: Any) -> bool:
    """Whether a leaf of this shape takes one byte per entry."""
    return x.ndim >= 2 and x.size >= LEAST


def _start_coded(params: Tree, signed: bool) -> Coded:
    dtype = jnp.int8 if signed else jnp.uint8
    codes = jax.tree.map(lambda p: jnp.zeros(p.shape, dtype if is_coded(p) else jnp.float32), params)
    return Coded(
        codes, jax.tree.map(lambda p: _no_scale(p) if not is_coded(p) else jnp.zeros((*p.shape[:-1], 1)), params)
    )


def _no_scale(x: Any) -> Array:
    return jnp.zeros((1,) * x.ndim)


def _write_coded(tree: Tree, seed: Int[Array, ""], signed: bool) -> Coded:
    def write(x: Array, seed: Int[Array, ""]) -> tuple[Array, Array]:
        return encode(x, seed, signed=signed) if is_coded(x) else (x, _no_scale(x))

    pairs = _leafwise(write, tree, seed)
    outer = jax.tree.structure(tree)
    return Coded(*jax.tree.transpose(outer, jax.tree.structure((0, 0)), pairs))


def encode(
    x: Float[Array, "... D"], seed: Int[Array, ""], *, signed: bool
) -> tuple[Int[Array, "... D"], Float[Array, "... 1"]]:
    """A byte per entry: the logarithm of its magnitude, relative to the largest of its row of the last axis.

        x = sign scale 2^((k - K) / 8),   k in 1 .. K;   K = 127 with a sign, 255 without;   k = 0: x = 0

    Between two neighbours the upper is taken with the probability that makes the mean exact. Relative error below 9.1%;
    magnitudes down to 2^-15.7 of the row's largest with a sign, 2^-31.7 without. What is smaller becomes 0 or the least
    magnitude, again exact in the mean; without a sign it becomes the least, because a second moment stands below a
    fraction, where 0 would let a step grow without bound. One scale per row of the last axis needs no row of a given
    length, and of a sharded row no more than its largest entry is exchanged.

    Reference:
      Dettmers et al. 2022, arXiv 2110.02861: scales by block, and codes of the same relative precision over many orders
      of magnitude; its table of codes is a logarithm here, which needs no search. No zero for second moments: Li et al.
      2023, arXiv 2309.01507, section 4.1.
    """
    top = 127 if signed else 255
    magnitude = jnp.abs(x)
    scale = jnp.max(magnitude, axis=-1, keepdims=True)
    share = magnitude / jnp.where(scale > 0, scale, 1.0)
    place = top + PER_OCTAVE * jnp.log2(jnp.maximum(share, 2.0 ** (-top / PER_OCTAVE)))
    low = jnp.clip(jnp.floor(place), 0, top)
    # Where in linear measure the value lies between its neighbours.
    above = (jnp.exp2((place - low) / PER_OCTAVE) - 1) / (2 ** (1 / PER_OCTAVE) - 1)
    above = jnp.where(low >= 1, above, share * 2.0 ** ((top - 1) / PER_OCTAVE))
    code = jnp.minimum(low + (uniform(x.shape, seed) < above), top)
    if not signed:
        code = jnp.where(magnitude > 0, jnp.maximum(code, 1), 0)
        return code.astype(jnp.uint8), scale
    return jnp.where(x < 0, -code, code).astype(jnp.int8), scale


def decode(codes: Array, scale: Float[Array, "... 1"]) -> Float[Array, "..."]:
    """The values of `encode`; a leaf that is kept whole as it is."""
    if codes.dtype == jnp.float32:
        return codes
    top = jnp.iinfo(codes.dtype).max
    k = jnp.abs(codes.astype(jnp.float32))
    magnitude = jnp.where(k > 0, scale * jnp.exp2((k - top) / PER_OCTAVE), 0.0)
    return jnp.where(codes < 0, -magnitude, magnitude)


def rounded_bfloat16(x: Float[Array, "..."], seed: Int[Array, ""]) -> Array:
    """One of the two bfloat16 neighbours of each value, with the probabilities that make the mean exact."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    bits = (bits + (hashed(x.shape, seed) >> 16)) & jnp.uint32(0xFFFF0000)
    return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(jnp.bfloat16)


def uniform(shape: tuple[int, ...], seed: Int[Array, ""]) -> Float[Array, "..."]:
    """Numbers in [0, 1), a function of seed and place alone."""
    return (hashed(shape, seed) >> 8).astype(jnp.float32) * 2.0**-24


def hashed(shape: tuple[int, ...], seed: Int[Array, ""]) -> UInt[Array, "..."]:
    """32 well-mixed bits per place. A hash fuses with what uses it; `jax.random` would write its bits to memory.

    Reference:
      C. Wellons, "Prospecting for hash functions" (2018): the mixing steps of lowbias32.
    """
    place = jnp.zeros(shape, jnp.uint32)
    for axis, n in enumerate(shape):
        place = place * jnp.uint32(n) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    bits = place ^ _mixed(seed.astype(jnp.uint32) + jnp.uint32(0x9E3779B9))
    return _mixed(bits)


def _mixed(x: UInt[Array, "..."]) -> UInt[Array, "..."]:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
