"""What a mixer is: the part of a layer that lets positions see one another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.spec import Table
from jaxpo.ops.prefix import Prefix
from jaxpo.ops.rope import Rope

Tree = Any
See = Callable[[str, Array], None]
"""Shows an activation to the layer's tap under a name of its own; see `jaxpo.models.lfm2.blocks.layer`."""


def unseen(name: str, x: Array) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Packed:
    """Where the columns of a packed batch stand.

    Attributes:
      segment_ids: `[R, S]`; 0 is padding.
      rope: rotation angles of every position; None where the layer has no attention.
      causal, max_segment, attention, window, key_ids: see `jaxpo.ops.attention.attention`.
      experts: see `jaxpo.ops.grouped.grouped_matmul`.
      conv: see `jaxpo.ops.conv.gated_short_conv`.
      prefix: which segments continue others; None = none does.
    """

    segment_ids: Int[Array, "R S"]
    rope: Rope | None
    causal: bool = True
    max_segment: int | None = None
    attention: str | None = None
    window: int | None = None
    experts: str | None = None
    key_ids: Int[Array, "R S"] | None = None
    conv: str | None = None
    prefix: Prefix | None = None

    @property
    def real(self) -> Bool[Array, "R S"]:
        """Where there are tokens."""
        return self.segment_ids > 0


@dataclass(frozen=True)
class Step:
    """Where new columns stand when each row continues a cached sequence of its own.

    Attributes:
      positions: `[B, s]`, position of each column in its row's sequence.
      count: `[B]`, how many of the columns are real (the first ones).
      rope: rotation angles of every position; None where the layer has no attention.
      window: sliding window in positions; None = everything cached.
      attention: see `jaxpo.ops.attention.cached_attention`.
      experts: see `Packed`.
      table: `[B, n]`, the pages in which each row's keys lie, in order; None: the cache has a stretch for each row.
      page: what the row remembers is also kept as it was at every so many of the columns; None = at the end alone.
    """

    positions: Int[Array, "B s"]
    count: Int[Array, "B"]
    rope: Rope | None
    window: int | None = None
    attention: str | None = None
    experts: str | None = None
    table: Int[Array, "B n"] | None = None
    page: int | None = None

    @property
    def real(self) -> Bool[Array, "B s"]:
        """Where there are tokens."""
        return jnp.arange(self.positions.shape[1]) < self.count[:, None]

    @property
    def asked(self) -> Int[Array, "B s"]:
        """Positions of the queries, -1 where there is no token: such a query sees nothing."""
        return jnp.where(self.real, self.positions, -1)

    def borders(self, **joined: Array) -> Tree:
        """`{"borders": ...}`: each `[B, past + s, ...]`, of which a row remembers the last `past` columns, as it is
        remembered after every `page` of the s columns, `[B, s / page, past, ...]`; nothing without pages.
        """
        if self.page is None:
            return {}
        ends = range(self.page, self.positions.shape[1] + 1, self.page)
        past = {name: x.shape[1] - self.positions.shape[1] for name, x in joined.items()}
        at = {name: [x[:, end : end + past[name]] for end in ends] for name, x in joined.items()}
        return {"borders": {name: jnp.stack(columns, axis=1) for name, columns in at.items()}}


@dataclass(frozen=True)
class Mixer:
    """All that a layer type is made of.

    Attributes:
      name: of its subtree of parameters.
      table: `(config, its name in a Hugging Face file) -> Table`.
      apply: `(params, x [R, S, D], where, config, cache, see) -> (what it adds [R, S, D], cache)`.
      cache: `(config, batch, length, dtype) -> cache`, empty.
      flops: `(config, context) -> operations of a token's forward pass between positions`, where no weights are;
        context is the mean number of positions that a token sees in its segment.
      rotary: whether `where.rope` holds the angles of `LFM2Config.rotation`.
    """

    name: str
    table: Callable[[LFM2Config, str], Table]
    apply: Callable[[Tree, Array, Packed | Step, LFM2Config, Tree, See], tuple[Array, Tree]]
    cache: Callable[[LFM2Config, int, int, Any], Tree]
    flops: Callable[[LFM2Config, float], float]
    rotary: bool = False
