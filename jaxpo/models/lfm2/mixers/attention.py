"""Grouped-query attention, over the whole segment or a sliding window."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.mixers.base import Mixer, Packed, See, Step, unseen
from jaxpo.models.lfm2.params import matrix, norm
from jaxpo.models.lfm2.recompute import keep
from jaxpo.models.spec import Table
from jaxpo.ops.attention import attention, cached_attention
from jaxpo.ops.linear import linear
from jaxpo.ops.norm import rms_norm
from jaxpo.ops.rope import apply_rope
from jaxpo.sharding import constrain

Tree = Any

_NAMES = {
    "lfm2": {"out": "out_proj", "q": "q_layernorm", "k": "k_layernorm"},
    "lfm3": {"out": "o_proj", "q": "q_norm", "k": "k_norm"},
}
"""How the generations call the same things in a file."""


def attention_table(config: LFM2Config, hf: str) -> Table:
    """Projections `q`, `k`, `v`, `out`, norms of queries and keys, and perhaps a gate per head."""
    names = _NAMES[config.model_type]
    d, h = config.hidden_size, config.head_dim
    heads, groups = config.num_attention_heads * h, config.num_key_value_heads * h
    # A few columns: split over devices they would not be worth it, and their number need not be divisible.
    gate = matrix(config, d, config.num_attention_heads, ("embed", None), f"{hf}.gate_proj.weight")["weight"]
    gate = dataclasses.replace(gate, hf_module=f"{hf}.g_proj")  # transformers renames it when it loads
    return {
        "q_proj": matrix(config, d, heads, ("embed", "heads"), f"{hf}.q_proj.weight"),
        "k_proj": matrix(config, d, groups, ("embed", "kv_heads"), f"{hf}.k_proj.weight"),
        "v_proj": matrix(config, d, groups, ("embed", "kv_heads"), f"{hf}.v_proj.weight"),
        "out_proj": matrix(config, heads, d, ("heads", "embed"), f"{hf}.{names['out']}.weight"),
        "q_layernorm": norm(h, f"{hf}.{names['q']}.weight"),
        "k_layernorm": norm(h, f"{hf}.{names['k']}.weight"),
        **({"gate_proj": {"weight": gate}} if config.attention_gate else {}),
    }


def attention_mixer(
    params: Tree,
    x: Float[Array, "R S D"],
    where: Packed | Step,
    config: LFM2Config,
    cache: Tree,
    see: See = unseen,
) -> tuple[Float[Array, "R S D"], Tree]:
    """Queries and keys are normalised per head, then rotated.

    With a gate, head j's output is scaled by `sigmoid(x Wg)_j` before the output projection (Qiu et al. 2025, arXiv
    2505.06708, head-specific).
    """
    assert where.rope is not None

    def heads(name: str, axis: str) -> Array:
        y = linear(x, params[name]["weight"])
        return keep(constrain(y.reshape(*x.shape[:2], -1, config.head_dim), "batch", "sequence", axis, None))

    q, k, v = heads("q_proj", "heads_act"), heads("k_proj", "kv_heads_act"), heads("v_proj", "kv_heads_act")
    q = rms_norm(q, params["q_layernorm"]["weight"], config.norm_eps)
    k = rms_norm(k, params["k_layernorm"]["weight"], config.norm_eps)
    for name, y in (("q", q), ("k", k), ("v", v)):
        see(name, y)
    q, k = apply_rope(q, where.rope), apply_rope(k, where.rope)
    see("rotated_q", q)
    see("rotated_k", k)
    if isinstance(where, Packed):
        o = attention(
            q,
            k,
            v,
            where.segment_ids,
            key_ids=where.key_ids,
            causal=where.causal,
            max_segment=where.max_segment,
            window=where.window,
            prefix_ids=None if where.prefix is None else where.prefix.ids,
            implementation=where.attention,
        )
    elif where.window is None:
        cache = {"k": _write(cache["k"], k, where), "v": _write(cache["v"], v, where)}
        keys, values = _rows(cache["k"], where), _rows(cache["v"], where)
        o = cached_attention(q, keys, values, where.asked, implementation=where.attention)
    else:
        o, cache = _slide(q, k, v, cache, where)
    o = keep(constrain(o, "batch", "sequence", "heads_act", None))
    if "gate_proj" in params:
        gate = jax.nn.sigmoid(linear(x, params["gate_proj"]["weight"]))
        see("gate", gate)
        o = o * gate[..., None]
    see("out", o)
    return linear(o.reshape(*x.shape[:2], -1), params["out_proj"]["weight"]), cache


def _write(store: Array, new: Float[Array, "B s G h"], where: Step) -> Array:
    """Put the real columns at their positions in `[B, T, G, h]` or pages `[N, page, G, h]`; the others are dropped."""
    if where.table is None:
        row, slot = jnp.arange(new.shape[0])[:, None], where.positions
    else:
        page = store.shape[1]
        # A position behind the last page has none; the fill is one that does not exist either.
        row = jnp.take_along_axis(where.table, where.positions // page, axis=1, mode="fill", fill_value=store.shape[0])
        slot = where.positions % page
    slot = jnp.where(where.real, slot, store.shape[1])
    return store.at[row, slot].set(new.astype(store.dtype), mode="drop")


def _rows(store: Array, where: Step) -> Float[Array, "B T G h"]:
    """The stretch of each row, put together from its pages where there are some."""
    if where.table is None:
        return store
    # Where there is no page, zeros: another row's NaN would be NaN here, too, though nothing sees it.
    gathered = jnp.take(store, where.table, axis=0, mode="fill", fill_value=0)
    return gathered.reshape(gathered.shape[0], -1, *gathered.shape[3:])


def _slide(
    q: Float[Array, "B s H h"], k: Float[Array, "B s G h"], v: Float[Array, "B s G h"], cache: Tree, where: Step
) -> tuple[Float[Array, "B s H h"], Tree]:
    """Attend over the remembered columns and the new ones, then remember as many of the last real ones as before."""
    past = cache["recent_k"].shape[1]
    slots = where.positions[:, :1] - past + jnp.arange(past + k.shape[1])
    keep = where.count[:, None] + jnp.arange(past)
    joined = {
        name: jnp.concatenate([cache[name], new.astype(cache[name].dtype)], axis=1)
        for name, new in (("recent_k", k), ("recent_v", v))
    }
    how = {"slots": slots, "window": where.window, "implementation": where.attention}
    o = cached_attention(q, joined["recent_k"], joined["recent_v"], where.asked, **how)
    kept = {name: jnp.take_along_axis(x, keep[..., None, None], axis=1) for name, x in joined.items()}
    return o, kept | where.borders(**joined)


def attention_cache(config: LFM2Config, batch: int, length: int, dtype: Any) -> Tree:
    """Keys (normalised and rotated) and values of every position."""
    shape = (batch, length, config.num_key_value_heads, config.head_dim)
    return {"k": jnp.zeros(shape, dtype), "v": jnp.zeros(shape, dtype)}


def sliding_cache(config: LFM2Config, batch: int, length: int, dtype: Any) -> Tree:
    """Keys and values of the positions before the next one that it can still see, oldest first."""
    shape = (batch, min(config.sliding_window - 1, length), config.num_key_value_heads, config.head_dim)
    return {"recent_k": jnp.zeros(shape, dtype), "recent_v": jnp.zeros(shape, dtype)}


def attention_flops(config: LFM2Config, context: float) -> float:
    """`4 H h c`: of every query's value, and of every key, one product each."""
    return 4.0 * config.num_attention_heads * config.head_dim * context


def sliding_flops(config: LFM2Config, context: float) -> float:
    """As for the whole segment, with at most w positions: of the 2 c of a segment, min(t, w) on average."""
    window = config.sliding_window
    seen = context if window >= 2 * context else window - window**2 / (4 * context)
    return attention_flops(config, seen)


FULL_ATTENTION = Mixer("self_attn", attention_table, attention_mixer, attention_cache, attention_flops, rotary=True)
SLIDING_ATTENTION = Mixer("self_attn", attention_table, attention_mixer, sliding_cache, sliding_flops, rotary=True)
