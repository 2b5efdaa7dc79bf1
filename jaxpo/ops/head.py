"""The vocabulary head: per-token scalars of the logits, without the logits.

A batch's logits `[R, S, V]` are the largest array of a training step by far (8 x 2,048 x 65,536 float32 is 4 GiB).
`map_vocab` forms them for a chunk of positions at a time, reduces them on the spot with a term from
`jaxpo.losses.vocab`, and forms them again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from jaxpo.ops.linear import Weight, einsum, over_positions
from jaxpo.ops.one_row import without_one_row
from jaxpo.sharding import axis_size, constrain, current_rules, fitting_spec

Tree = Any
Term = Callable[..., Tree]

DENSE_BUDGET_BYTES = 1 << 28
"""Logits (of all streams, per device) up to this size are formed at once and kept for the backward pass."""
CHUNK_BUDGET_BYTES = 1 << 27
"""Otherwise a chunk's logits have about this size."""


def choose_chunk(rows: int, length: int, vocab: int, streams: int = 1, devices: int = 1) -> int:
    """Positions per chunk: all when the logits fit `DENSE_BUDGET_BYTES`, else what fits `CHUNK_BUDGET_BYTES`.

    Args:
      length: of a row, as far as it lies on one device.
      devices: over which rows are spread.
    """
    per_position = 4 * streams * vocab * max(rows // devices, 1)
    if per_position * length <= DENSE_BUDGET_BYTES:
        return length
    return max(1, min(length, CHUNK_BUDGET_BYTES // per_position))


def map_vocab(
    term: Term,
    streams: tuple[tuple[Float[Array, "V D"], Float[Array, "R S D"]], ...],
    per_token: Tree,
    *,
    chunk: int | None = None,
) -> Tree:
    """Evaluate `term(logits_1, ..., per_token)` at every position: a pytree of float32 `[R, S]` (or `[R, S, k]`).

    logits_i = hidden_i W_i^T, accumulated in float32; W_i is cast to the dtype of hidden_i at use, so its gradient is
    float32.

    Args:
      term: pure function of the logits `[R, c, V]` of each stream and the matching slice of `per_token`; of one row
        `[c, V]`.
      streams: one `(W [V, D], hidden [R, S, D])` per model.
      per_token: pytree of `[R, S]` arrays (targets, ...).
      chunk: positions per chunk; None chooses, `>= S` is dense without recomputation.
    """
    rows, length, _ = streams[0][1].shape
    spread, devices, parts = _spread(rows, length)
    length //= parts
    if chunk is None:
        chunk = choose_chunk(rows, length, streams[0][0].shape[0], len(streams), devices)
    weights = tuple(w for w, _ in streams)
    hidden = tuple(h for _, h in streams)
    if chunk >= length:
        return _of_logits(term, weights, hidden, per_token)
    if devices * parts == 1:
        return _scan(term, weights, hidden, per_token, chunk)
    return _sharded_scan(term, weights, hidden, per_token, chunk, spread)


def _spread(rows: int, length: int) -> tuple[PartitionSpec, int, int]:
    """How rows and positions lie on the enclosing mesh, and over how many devices each."""
    active = current_rules()
    if active is None:
        return PartitionSpec(None, None), 1, 1
    spec = fitting_spec((rows, length), ("batch", "sequence"))
    return spec, axis_size(active[0], spec[0]), axis_size(active[0], spec[1])


def _of_logits(term: Term, weights: tuple[Array, ...], hidden: tuple[Array, ...], per_token: Tree) -> Tree:
    def at(hidden: tuple[Array, ...], per_token: Tree) -> Tree:
        return term(*map(_logits, weights, hidden), per_token)

    return without_one_row(at, hidden, per_token)


def _logits(weight: Weight, hidden: Array) -> Array:
    return over_positions(lambda h: einsum("...d,vd->...v", h, weight, out_dtype=jnp.float32), hidden)


def _scan(term: Term, weights: tuple[Array, ...], hidden: tuple[Array, ...], per_token: Tree, chunk: int) -> Tree:
    """Chunks of positions one after another, the logits of each recomputed in the backward pass."""
    length = hidden[0].shape[1]
    chunks = -(-length // chunk)

    def to_chunks(x: Array) -> Array:
        pad = [(0, 0), (0, chunks * chunk - length)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, pad)
        return jnp.moveaxis(x.reshape(x.shape[0], chunks, chunk, *x.shape[2:]), 1, 0)

    def from_chunks(y: Array) -> Array:
        y = jnp.moveaxis(y, 0, 1)
        return y.reshape(y.shape[0], chunks * chunk, *y.shape[3:])[:, :length]

    @jax.checkpoint
    def body(weights: tuple[Array, ...], hidden: tuple[Array, ...], per_token: Tree) -> Tree:
        return _of_logits(term, weights, hidden, per_token)

    xs = jax.tree.map(to_chunks, (hidden, per_token))
    _, ys = jax.lax.scan(lambda _, x: (None, body(weights, *x)), None, xs)
    return jax.tree.map(from_chunks, ys)


def _sharded_scan(
    term: Term,
    weights: tuple[Array, ...],
    hidden: tuple[Array, ...],
    per_token: Tree,
    chunk: int,
    spread: PartitionSpec,
) -> Tree:
    """Every device scans its own rows and positions: weights are gathered once before, their gradient is reduced once
    after.

    Left to the partitioner, the loop would all-reduce a V x D gradient per chunk: a partial sum cannot be carried
    through a loop. Marking the weights as varying *outside* the scan puts the one reduction into the transpose of that
    mark.
    """
    gathered = tuple(constrain(w, "vocab", None) for w in weights)
    axes = tuple(name for part in spread for name in ((part,) if isinstance(part, str) else part or ()))

    def local(weights: tuple[Array, ...], hidden: tuple[Array, ...], per_token: Tree) -> Tree:
        varying = jax.tree.map(lambda w: jax.lax.pcast(w, axes, to="varying"), weights)
        return _scan(term, varying, hidden, per_token, chunk)

    return jax.shard_map(
        local,
        in_specs=(PartitionSpec(), spread, spread),
        out_specs=spread,
        axis_names=set(axes),
    )(gathered, hidden, per_token)
