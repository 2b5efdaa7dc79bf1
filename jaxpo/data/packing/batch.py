"""The packed batch and the role tables through which objectives read it.

A row of length S holds several segments, one after another. An example (a pair, a list, a single text) owns one
or more segments, which lie anywhere in the *block* of `block_rows` consecutive rows that the example belongs to.
A role table says which segment plays which part: `roles["chosen"][n] = row * slots + slot` with `row` counted from the
first row of example n's block and `slot = segment_id - 1`; -1 means absent. Block-relative indices are what lets a
microbatch or a device take any whole blocks without renumbering.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxpo.ops.segments import segment_bounds

CONTINUES = "continues"
"""Name of the column of `Batch.per_segment` that says which segments continue others (`jaxpo.ops.prefix`)."""


@struct.dataclass
class Media:
    """The second packed grid of the same blocks: Q rows = blocks * media rows per block, of P patches.

    A medium (an image tile, a stretch of sound) lies contiguously in one row, its patches in connector order: vector i
    of a row is made of patches 4i to 4i + 3.

    Attributes:
      values: `[Q, P, C]`, 0 at padding.
      segment_ids: `[Q, P]`; 0 is padding, 1.. are the row's media, each of which the encoder sees as a whole.
      positions: int32 `[Q, P, 4]`: row, column, rows and columns of the patch grid.
    """

    values: Array
    segment_ids: Int[Array, "Q P"]
    positions: Int[Array, "Q P 4"]


@struct.dataclass
class Batch:
    """One optimiser step's worth (or one microbatch) of packed rows.

    Axes: R rows = blocks * block_rows; S positions; M slots per row; N examples = blocks * examples per block; K list
    length.

    Attributes:
      tokens: `[R, S]` token ids; anything at padding.
      segment_ids: `[R, S]`; 0 is padding, 1..M are the row's segments, each contiguous.
      positions: `[R, S]` counted from 0 at each segment start, or on from the end of what a segment continues.
      masks: name -> bool `[R, S]` in *target* coordinates: True at position s says that token s is of that kind.
        "completion" are the supervised tokens, "prompt" the others. The first token of a segment has no predecessor and
        is never True.
      per_token: name -> `[R, S, ...]` in target coordinates: "ref_logps"; int32 numbers of supervised tokens ("phrase",
        "step", "item", "keyword": the one that a token belongs to, from 1; 0 = none); a teacher's record `[R, S, K]`,
        see `jaxpo.data.packing.teacher_records`; "media", int32: the token's vector among those that the connector
        makes of its block's media, block-relative, -1 = none: `take(vectors [Q, P / 4, D], per_token["media"], batch)`;
        "key": 0 where attention sees a position as no key, whatever else reads it, 1 elsewhere; "scored": 1 where a
        position of a query or document has a vector.
      per_segment: name -> `[R, M]`; "continues": the id of the segment that segment m + 1 of the row continues, its
        positions counted on from there, 0 = none: text that several share is written once before them.
      per_example: name -> `[N]`, `[N, C]` or `[N, K]` (margin, annotator, scores, label, ...); relevance is -1 beyond
        a list's end.
      roles: name -> int32 `[N]` or `[N, K]`, block-relative `row * M + slot`, -1 = absent.
      example_id: `[N]` the example's number in the dataset; -1 = no example here.
      block_rows, slots, max_segment: static; rows per block, M, and T, a bound on the length of every segment.
      media: kind -> its packed grid; empty, or one kind.
      reach: static; bound on a segment with what it continues and what lies between; None = none continues another.
    """

    POSITIONAL: ClassVar[tuple[str, ...]] = ("tokens", "segment_ids", "positions", "masks", "per_token")

    tokens: Int[Array, "R S"]
    segment_ids: Int[Array, "R S"]
    positions: Int[Array, "R S"]
    masks: dict[str, Bool[Array, "R S"]]
    per_token: dict[str, Any]
    per_segment: dict[str, Any]
    per_example: dict[str, Any]
    roles: dict[str, Any]
    example_id: Int[Array, "N"]
    block_rows: int = struct.field(pytree_node=False)
    slots: int = struct.field(pytree_node=False)
    max_segment: int = struct.field(pytree_node=False)
    media: dict[str, Media] = struct.field(default_factory=dict)
    reach: int | None = struct.field(pytree_node=False, default=None)

    @property
    def rows(self) -> int:
        """R."""
        return self.tokens.shape[0]

    @property
    def blocks(self) -> int:
        """Number of blocks in this batch."""
        return self.rows // self.block_rows

    @property
    def present(self) -> Bool[Array, "N"]:
        """`[N]` True where there is an example."""
        return self.example_id >= 0

    def split(self, parts: int) -> Batch:
        """Stack `parts` microbatches on a new leading axis, whole blocks each; `join` is the inverse for results.

        Microbatch i takes blocks i, i + parts, ...: when the row axis is sharded over devices in contiguous groups,
        every microbatch still has its share on every device.
        """
        if self.blocks % parts:
            raise ValueError(f"{self.blocks} blocks cannot be split into {parts} microbatches of whole blocks")
        return jax.tree.map(lambda x: split_leading(x, self.blocks, parts), self)

    def tally(self) -> dict[str, Array]:
        """Real tokens, supervised tokens and examples, over all devices and hosts."""
        trained = self.masks.get("completion")
        return {
            "tokens": jnp.sum(self.segment_ids > 0),
            "trained": jnp.zeros((), jnp.int32) if trained is None else jnp.sum(trained),
            "samples": jnp.sum(self.present),
        }


def split_leading(x: Array, blocks: int, parts: int) -> Array:
    """`[blocks * n, ...] -> [parts, blocks / parts * n, ...]`, microbatch i holding blocks i, i + parts, ..."""
    per_block = x.shape[0] // blocks
    x = x.reshape(blocks // parts, parts, per_block, *x.shape[1:])
    return jnp.swapaxes(x, 0, 1).reshape(parts, blocks // parts * per_block, *x.shape[3:])


def join_leading(x: Array, blocks: int) -> Array:
    """Inverse of `split_leading`: `[parts, blocks / parts * n, ...] -> [blocks * n, ...]`."""
    parts = x.shape[0]
    per_block = x.shape[1] * parts // blocks
    x = x.reshape(parts, blocks // parts, per_block, *x.shape[2:])
    return jnp.swapaxes(x, 0, 1).reshape(blocks * per_block, *x.shape[3:])


def unpack(x: Float[Array, "R S"], batch: Batch) -> Float[Array, "R M T"]:
    """Lay every segment in a row of its own: `[R, S] -> [R, M, T]`, zero beyond the segment's end."""
    start, length = segment_bounds(batch.segment_ids, batch.slots)
    offsets = jnp.arange(batch.max_segment)
    index = jnp.minimum(start[..., None] + offsets, x.shape[1] - 1)
    rows = jnp.take_along_axis(x[:, None, :], index, axis=2)
    return jnp.where(offsets < length[..., None], rows, jnp.zeros((), x.dtype))


def take(y: Float[Array, "R M ..."], role: Int[Array, "N ..."], batch: Batch) -> Array:
    """Read what blocks hold through block-relative indices, 0 where they are -1.

    Per-segment values through a role table, `[R, M, ...] -> [N, ...]` or `[N, K, ...]`; the vectors of media through
    their tokens' marks, `[Q, P / 4, D] -> [R, S, D]`.
    """
    per_block = y.reshape(batch.blocks, y.shape[0] // batch.blocks * y.shape[1], *y.shape[2:])
    index = role.reshape(batch.blocks, -1)
    picked = jax.vmap(lambda values, i: values[jnp.maximum(i, 0)])(per_block, index)
    picked = picked.reshape(*role.shape, *y.shape[2:])
    present = (role >= 0).reshape(*role.shape, *(1,) * (y.ndim - 2))
    return jnp.where(present, picked, jnp.zeros((), y.dtype))


def rows_of(x: Float[Array, "R S"], role: Int[Array, "N ..."], batch: Batch) -> Array:
    """`take(unpack(x), role)`: one example's tokens per row, `[N, T]` or `[N, K, T]`."""
    return take(unpack(x, batch), role, batch)


def segment_ends(batch: Batch) -> Int[Array, "R M"]:
    """Position of the last token of every segment; -1 for absent ones."""
    start, length = segment_bounds(batch.segment_ids, batch.slots)
    return jnp.where(length > 0, start + length - 1, -1)


def prompt_ends(batch: Batch) -> Int[Array, "R M"]:
    """Position of the token before the first supervised one; the last token where none is supervised, -1 if absent."""
    inside = batch.segment_ids[:, None, :] == jnp.arange(1, batch.slots + 1)[None, :, None]
    answer = inside & batch.masks["completion"][:, None, :]
    return jnp.where(jnp.any(answer, axis=-1), jnp.argmax(answer, axis=-1) - 1, segment_ends(batch))


def read_at(x: Float[Array, "R S ..."], ends: Int[Array, "R M"]) -> Float[Array, "R M ..."]:
    """The entries at positions of the rows, 0 where a position is -1."""
    at = ends.reshape(*ends.shape, *(1,) * (x.ndim - 2))
    picked = jnp.take_along_axis(x, jnp.maximum(at, 0), axis=1)
    return jnp.where(at >= 0, picked, jnp.zeros((), x.dtype))


def last_of(x: Float[Array, "R S D"], batch: Batch) -> Float[Array, "R M D"]:
    """The entry at the last real token of every segment: `[R, S, D] -> [R, M, D]`, 0 for absent segments."""
    return read_at(x, segment_ends(batch))
