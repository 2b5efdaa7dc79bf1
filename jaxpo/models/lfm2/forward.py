"""LFM2 as pure functions of `(params, inputs, *, config)`; `params` is the tree of `param_table(config)`."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from jaxpo.models.language import Tap
from jaxpo.models.lfm2.blocks import collect, layer, rotations
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.layers import Stack
from jaxpo.models.lfm2.mixers import MIXERS, Packed, Step
from jaxpo.models.lfm2.router import stack_layers
from jaxpo.ops.dropout import dropout
from jaxpo.ops.linear import rows
from jaxpo.ops.norm import rms_norm
from jaxpo.ops.prefix import prefix_of
from jaxpo.sharding import constrain

Tree = Any


def embed(params: Tree, tokens: Int[Array, "R S"], dtype: Any = jnp.float32) -> Float[Array, "R S D"]:
    """Look the tokens up, unscaled, in the compute type. Ids outside the vocabulary (padding) are clipped into it."""
    return constrain(rows(params["embed_tokens"]["weight"], tokens, dtype), "batch", "sequence", "embed_act")


def backbone(
    params: Tree,
    x: Float[Array, "R S D"],
    segment_ids: Int[Array, "R S"],
    positions: Int[Array, "R S"],
    *,
    config: LFM2Config,
    causal: bool = True,
    tap: Tap | None = None,
    key_ids: Int[Array, "R S"] | None = None,
    continues: Int[Array, "R M"] | None = None,
    max_segment: int | None = None,
    remat: str = "none",
    scan: bool | None = None,
    attention: str | None = None,
    experts: str | None = None,
    conv: str | None = None,
) -> tuple[Float[Array, "R S D"], dict[str, Any]]:
    """All layers and the final norm, over packed rows.

    Args:
      x: embedded inputs `[R, S, D]`; its type is the compute type.
      segment_ids: `[R, S]`; 0 is padding. Attention and convolution never cross a segment's border, but to what it
        continues.
      positions: `[R, S]`, counted from 0 at each segment start, or on from the end of what it continues.
      causal: False lets every position see its whole segment, and centres the convolutions (encoders).
      tap: `tap(name, x) -> value or None`, called with `layers/i/mixer`, `layers/i/feed_forward`, `layers/i` and
        `embedding_norm`. It should reduce on the spot: what it returns is kept.
      key_ids: `[R, S]`, the segments as attention's keys see them (0 = never a key); None = `segment_ids`. The
        convolutions keep to `segment_ids`.
      continues: `[R, M]`, the segment that each of a row's segments continues (`jaxpo.ops.prefix`); None = no one does.
      max_segment: static bound on segment lengths; makes attention linear in S.
      remat: what is kept of a layer for the backward pass: "none" (recompute nothing) or one of
        `jaxpo.models.lfm2.recompute.POLICIES`.
      scan: run repeated groups of layers in `lax.scan` (see `jaxpo.models.lfm2.layers`), which makes the program
        smaller and computes the same; None = see `jaxpo.models.lfm2.layers.in_loops`.
      attention: implementation name; None = the best here.
      experts: implementation name of the grouped product; None = the best here.
      conv: implementation name of the short convolution; None = the best here.

    Returns:
      Hidden states after `embedding_norm`, `[R, S, D]`, and `{"taps": {name: value}}`; with experts also "router", the
      `RouterSums` of the L mixture layers: `tokens` [R], `load` and `share` [R, L, E], `z` [R, L].
    """
    ropes = rotations(config, positions)
    packed = Packed(segment_ids, None, causal, max_segment, attention, experts=experts, key_ids=key_ids, conv=conv)
    if continues is not None:
        packed = dataclasses.replace(packed, prefix=prefix_of(segment_ids, continues))
    where = {
        kind: dataclasses.replace(packed, rope=ropes.get(kind), window=config.window(kind))
        for kind in dict.fromkeys(config.layer_types)
    }
    x, taps, routed = Stack(config, where, tap, remat, scan)(params["layers"], x)
    hidden = rms_norm(x, params["embedding_norm"]["weight"], config.norm_eps)
    aux: dict[str, Any] = {"taps": taps | collect(tap, {"embedding_norm": hidden})}
    return hidden, aux | ({"router": stack_layers(routed)} if routed else {})


def forward(
    params: Tree,
    tokens: Int[Array, "R S"],
    segment_ids: Int[Array, "R S"],
    positions: Int[Array, "R S"],
    *,
    config: LFM2Config,
    dtype: Any = jnp.float32,
    embedding_dropout: float = 0.0,
    row_keys: Key[Array, "R"] | None = None,
    **options: Any,
) -> tuple[Float[Array, "R S D"], dict[str, Any]]:
    """`backbone(dropout(embed(tokens)))`; `options` are `backbone`'s keywords.

    Args:
      embedding_dropout: rate; the output matrix, which is the same array, is not touched.
      row_keys: one key per row; None = no dropout (evaluation).
    """
    x = embed(params, tokens, dtype)
    x = x if row_keys is None else dropout(x, row_keys, embedding_dropout)
    return backbone(params, x, segment_ids, positions, config=config, **options)


def unembedding(params: Tree) -> Float[Array, "V D"]:
    """The output matrix W `[V, D]` (the embedding, unless there is one of its own): `logits = hidden @ W^T`."""
    return params["lm_head" if "lm_head" in params else "embed_tokens"]["weight"]


@struct.dataclass
class Cache:
    """State of generation, one sequence per row.

    Attributes:
      layers: per layer `{"k", "v"}` `[B, T, G, h]`, `{"recent_k", "recent_v"}` `[B, window-1, G, h]` or
        `{"columns"}` `[B, k-1, D]`; in pages "k" and "v" are `[N, page, G, h]`.
      length: `[B]` tokens seen so far by each row.
      table: `[B, T / page]`, the pages of each row in order, N where it has none; None = not in pages.
      borders: per layer what is remembered at the borders of pages, `[B, s / page, ...]` of the s columns of the last
        step; None unless it was asked for.
    """

    layers: Tree
    length: Int[Array, "B"]
    table: Int[Array, "B n"] | None = None
    borders: Tree = None


def init_cache(
    config: LFM2Config, batch: int, length: int, dtype: Any = jnp.float32, pages: tuple[int, int] | None = None
) -> Cache:
    """An empty cache for `batch` sequences of at most `length` tokens each.

    Args:
      pages: (N, size): keys and values lie in N pages of so many positions, which rows share out among them as `table`
        says; None: each row has a stretch of its own.
    """
    layers = {str(i): MIXERS[kind].cache(config, batch, length, dtype) for i, kind in enumerate(config.layer_types)}
    seen = jnp.zeros((batch,), jnp.int32)
    if pages is None:
        return Cache(layers, seen)
    count, size = pages
    stores = {str(i): MIXERS[kind].cache(config, count, size, dtype) for i, kind in enumerate(config.layer_types)}
    layers = {
        i: {name: stores[i][name] if name in PER_POSITION else x for name, x in entry.items()}
        for i, entry in layers.items()
    }
    return Cache(layers, seen, jnp.full((batch, -(-length // size)), count, jnp.int32))


PER_POSITION = ("k", "v")
"""Entries of a layer that hold something for every position; the others hold what is remembered at the end."""


def step(
    params: Tree,
    tokens: Int[Array, "B s"],
    cache: Cache,
    *,
    config: LFM2Config,
    valid: Bool[Array, "B s"] | None = None,
    dtype: Any = jnp.float32,
    attention: str | None = None,
    experts: str | None = None,
    page: int | None = None,
    given: tuple[Float[Array, "B s D"], Bool[Array, "B s"]] | None = None,
) -> tuple[Float[Array, "B s D"], Cache]:
    """Continue every row by its next tokens: prefill (s > 1, also in several chunks) and decode (s = 1) alike.

    Any chunking gives what one forward of the whole sequence gives. To prefill prompts of unequal length, pad them on
    the right and mark the padding in `valid`; the last real column of row b is `sum(valid[b]) - 1`. A row whose `valid`
    is all False is left as it is (a finished or empty slot).

    Args:
      tokens: `[B, s]`; anything where not valid.
      cache: from `init_cache` or the step before.
      valid: `[B, s]`, in each row some True followed by False only; None = all True.
      dtype: compute type.
      attention: implementation of `cached_attention`; None = the best here.
      experts: implementation name of the grouped product; None = the best here.
      page: also give `Cache.borders`, what is remembered after every so many of the s columns.
      given: what takes the place of the tokens' embeddings, and where it does.

    Returns:
      Hidden states after `embedding_norm`, `[B, s, D]` (meaningless where not valid; NaN where a row has outgrown the
      cache: keep `length + s <= T`), and the new cache.
    """
    count = jnp.full(tokens.shape[:1], tokens.shape[1]) if valid is None else jnp.sum(valid, axis=1)
    positions = cache.length[:, None] + jnp.arange(tokens.shape[1])
    where = Step(positions, count.astype(jnp.int32), None, None, attention, experts, cache.table, page)
    ropes = rotations(config, positions)
    x = embed(params, tokens, dtype)
    x = x if given is None else jnp.where(given[1][..., None], given[0].astype(dtype), x)
    layers, borders = {}, {}
    for i, kind in enumerate(config.layer_types):
        name = str(i)
        here = dataclasses.replace(where, rope=ropes.get(kind), window=config.window(kind))
        p, entry = params["layers"][name], cache.layers[name]
        x, entry, _, _ = layer(p, x, here, config=config, kind=kind, cache=entry)
        borders[name] = entry.pop("borders", {})
        layers[name] = entry
    hidden = rms_norm(x, params["embedding_norm"]["weight"], config.norm_eps)
    length = cache.length + where.count
    hidden = jnp.where((length > _capacity(layers, cache.table))[:, None, None], jnp.nan, hidden)
    return hidden, Cache(layers, length, cache.table, None if page is None else borders)


def _capacity(layers: Tree, table: Int[Array, "B n"] | None) -> int:
    """Positions that a row has room for."""
    rooms = [
        entry["k"].shape[1] * (1 if table is None else table.shape[1]) for entry in layers.values() if "k" in entry
    ]
    return min(rooms, default=int(jnp.iinfo(jnp.int32).max))
