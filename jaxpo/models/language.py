"""What goes into the forward pass of a language family, and what a mixture of experts leaves beside hidden states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import struct
from jaxtyping import Array, Float, Int

Tap = Callable[[str, Array], Any]
"""`(name of an activation, its values) -> what is kept of it`, or None; it should reduce on the spot."""


@struct.dataclass
class Inputs:
    """Packed rows of tokens.

    Attributes:
      tokens: `[R, S]` ids; anything at padding.
      segment_ids: `[R, S]`; 0 is padding. Nothing crosses a segment's border.
      positions: `[R, S]` counted from 0 at each segment start.
      key_ids: `[R, S]`, the segments once more as attention's keys see them: a query sees the positions whose key id is
        its own segment id, so that 0 is never seen, whatever else reads the position. None = `segment_ids`.
      media: kind -> the packed grid of what a batch carries beside tokens (`jaxpo.data.packing.batch.Media`).
      places: `[R, S]`, the vector among those made of its block's media that takes each embedding's place, -1 = none;
        None without media.
      blocks: static; parts of equal size, of rows and of media, that belong together.
      continues: `[R, M]`, the id of the segment that segment m + 1 of a row continues (`jaxpo.ops.prefix`), its
        positions counted on from there; 0 = none. None = no segment does.
      max_segment: static bound on the length of every segment, with what it continues and what lies between; None =
        the row's.
    """

    tokens: Int[Array, "R S"]
    segment_ids: Int[Array, "R S"]
    positions: Int[Array, "R S"]
    key_ids: Int[Array, "R S"] | None = None
    media: dict[str, Any] = struct.field(default_factory=dict)
    places: Int[Array, "R S"] | None = None
    continues: Int[Array, "R M"] | None = None
    blocks: int = struct.field(pytree_node=False, default=1)
    max_segment: int | None = struct.field(pytree_node=False, default=None)


@struct.dataclass
class RouterSums:
    """Per row, over its real tokens: all that balance losses, load metrics and the bias update need.

    Attributes:
      tokens: `[R]` their number.
      load: `[R, E]` (or `[R, L, E]`) assignments to each expert; carries no gradient.
      share: likewise, sum of the scores divided by their sum over the experts.
      z: `[R]` (or `[R, L]`): sum of the squared logsumexp of the logits.
    """

    tokens: Float[Array, "R"]
    load: Float[Array, "R *L E"]
    share: Float[Array, "R *L E"]
    z: Float[Array, "R *L"]
