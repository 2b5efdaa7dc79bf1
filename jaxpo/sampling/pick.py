"""One place drawn in proportion to its weight, from two words of 32 random bits."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

BLOCK = 256
_UNIT = 2.0**31


def pick(weights: Float[Array, "B N"], words: UInt32[Array, "B 2"]) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """A place i per row with probability `w_i / sum w`, and the sum, by the inverse CDF over blocks and inside one.

    The first word chooses among blocks of 256, the second inside the block. Both compare whole numbers: weights are
    rounded to multiples of 2^-31 of their sum, so that large ones keep float32's relative precision, none is off by
    more than 2^-31 beside that, and cumulative sums are exact. What has less than 2^-32 of the probability is never
    drawn: neither a block (of the row) nor a token (of its block); a token of 2^-64 can be. A weight of 0 is never
    drawn. Nothing but a row's own weights and words enters.

    Args:
      weights: `[B, N]`, not negative; a row of zeros gives its last place.
    """
    width = weights.shape[1]
    blocks = in_blocks(weights)
    sums = jnp.sum(blocks, axis=2)
    block = _choose(sums, words[:, 0])
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    place = block * BLOCK + _choose(inside, words[:, 1])
    return jnp.minimum(place, width - 1), jnp.sum(sums, axis=1)


def in_blocks(x: Float[Array, "B N"], filler: float = 0.0) -> Float[Array, "B n {BLOCK}"]:
    """Rows cut into blocks, the last one filled up."""
    padded = jnp.pad(x, ((0, 0), (0, -x.shape[1] % BLOCK)), constant_values=filler)
    return padded.reshape(x.shape[0], -1, BLOCK)


def block_sum(x: Float[Array, "B N"]) -> Float[Array, "B"]:
    """Sum of a row, by blocks: its rounding error does not grow with the row's length as that of one long sum does."""
    return jnp.sum(jnp.sum(in_blocks(x), axis=2), axis=1)


def _choose(weights: Float[Array, "B n"], word: UInt32[Array, "B"]) -> Int[Array, "B"]:
    """The first i whose cumulative weight is above `word / 2^32` of the whole: strictly, so a weight of 0 is passed."""
    parts = jnp.round(weights / jnp.sum(weights, axis=1, keepdims=True) * _UNIT).astype(jnp.uint32)
    collected = jnp.cumsum(parts, axis=1, dtype=jnp.uint32)
    target = _high_product(word, collected[:, -1])
    passed = jnp.sum(collected <= target[:, None], axis=1, dtype=jnp.int32)
    return jnp.minimum(passed, weights.shape[1] - 1)


def _high_product(a: UInt32[Array, "B"], b: UInt32[Array, "B"]) -> UInt32[Array, "B"]:
    """`a * b >> 32`, which lies below b, from halves of 16 bits."""
    low, half = jnp.uint32(0xFFFF), jnp.uint32(16)
    a_low, a_high, b_low, b_high = a & low, a >> half, b & low, b >> half
    first = a_high * b_low + (a_low * b_low >> half)
    second = a_low * b_high + (first & low)
    return a_high * b_high + (first >> half) + (second >> half)
