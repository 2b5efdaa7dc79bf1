"""LFM2's and LFM3's layers, in training and generation: with a cache they continue, else they start at the segment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.experts import mixture
from jaxpo.models.lfm2.router import RouterSums
from jaxpo.ops.attention import attention, cached_attention
from jaxpo.ops.conv import short_conv, short_conv_step
from jaxpo.ops.linear import linear
from jaxpo.ops.norm import rms_norm
from jaxpo.ops.rope import Rope, apply_rope, rope_table
from jaxpo.sharding import constrain

Tree = Any
Tap = Callable[[str, Array], Any]
See = Callable[[str, Array], None]
"""Shows an activation to the layer's tap under a name of its own; see `layer`."""


def unseen(name: str, x: Array) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Packed:
    """Where the columns of a packed batch stand.

    Attributes:
      segment_ids: `[R, S]`; 0 is padding.
      rope: rotation angles of every position; None where the layer has no attention.
      causal, max_segment, attention, window: see `jaxpo.ops.attention.attention`.
      experts: see `jaxpo.ops.grouped.grouped_matmul`.
    """

    segment_ids: Int[Array, "R S"]
    rope: Rope | None
    causal: bool = True
    max_segment: int | None = None
    attention: str | None = None
    window: int | None = None
    experts: str | None = None

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
      experts: see `Packed`.
    """

    positions: Int[Array, "B s"]
    count: Int[Array, "B"]
    rope: Rope | None
    window: int | None = None
    experts: str | None = None

    @property
    def real(self) -> Bool[Array, "B s"]:
        """Where there are tokens."""
        return jnp.arange(self.positions.shape[1]) < self.count[:, None]


def conv_mixer(
    params: Tree,
    x: Float[Array, "R S D"],
    where: Packed | Step,
    config: LFM2Config,
    cache: Tree,
    see: See = unseen,
) -> tuple[Float[Array, "R S D"], Tree]:
    """Gated short convolution: `out_proj(C * conv(B * x))` with `(B, C, x) = in_proj(h)`."""
    gates = constrain(linear(x, params["in_proj"]["weight"]), "batch", "sequence", None, "conv_act")
    b, c, value = gates[..., 0, :], gates[..., 1, :], gates[..., 2, :]
    for name, gate in (("b", b), ("c", c), ("x", value)):
        see(name, gate)
    u, kernel = b * value, params["conv"]["weight"]
    if isinstance(where, Packed):
        z = short_conv(u, kernel, where.segment_ids, causal=where.causal)
    else:
        z, columns = short_conv_step(u, kernel, cache["columns"], where.count)
        cache = {"columns": columns.astype(cache["columns"].dtype)}
    out = constrain(c * z, "batch", "sequence", "conv_act")
    see("out", out)
    return linear(out, params["out_proj"]["weight"]), cache


def attention_mixer(
    params: Tree,
    x: Float[Array, "R S D"],
    where: Packed | Step,
    config: LFM2Config,
    cache: Tree,
    see: See = unseen,
) -> tuple[Float[Array, "R S D"], Tree]:
    """Grouped-query attention; queries and keys are normalised per head, then rotated.

    With a gate, head j's output is scaled by `sigmoid(x Wg)_j` before the output projection (Qiu et al. 2025, arXiv
    2505.06708, head-specific).
    """
    assert where.rope is not None

    def heads(name: str, axis: str) -> Array:
        y = linear(x, params[name]["weight"])
        return constrain(y.reshape(*x.shape[:2], -1, config.head_dim), "batch", "sequence", axis, None)

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
            causal=where.causal,
            max_segment=where.max_segment,
            window=where.window,
            implementation=where.attention,
        )
    elif where.window is None:
        cache = {"k": _write(cache["k"], k, where), "v": _write(cache["v"], v, where)}
        o = cached_attention(q, cache["k"], cache["v"], where.positions)
    else:
        o, cache = _slide(q, k, v, cache, where)
    o = constrain(o, "batch", "sequence", "heads_act", None)
    if "gate_proj" in params:
        gate = jax.nn.sigmoid(linear(x, params["gate_proj"]["weight"]))
        see("gate", gate)
        o = o * gate[..., None]
    see("out", o)
    return linear(o.reshape(*x.shape[:2], -1), params["out_proj"]["weight"]), cache


def _write(store: Float[Array, "B T G h"], new: Float[Array, "B s G h"], where: Step) -> Float[Array, "B T G h"]:
    """Put the real columns at their positions; the others fall outside and are dropped."""
    real = jnp.arange(new.shape[1]) < where.count[:, None]
    slot = jnp.where(real, where.positions, store.shape[1])
    row = jnp.arange(new.shape[0])[:, None]
    return store.at[row, slot].set(new.astype(store.dtype), mode="drop")


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
    o = cached_attention(q, joined["recent_k"], joined["recent_v"], where.positions, slots=slots, window=where.window)
    return o, {name: jnp.take_along_axis(x, keep[..., None, None], axis=1) for name, x in joined.items()}


def conv_cache(config: LFM2Config, batch: int, length: int, dtype: Any) -> Tree:
    """The last k-1 columns of `B * x`."""
    return {"columns": jnp.zeros((batch, config.conv_kernel - 1, config.hidden_size), dtype)}


def attention_cache(config: LFM2Config, batch: int, length: int, dtype: Any) -> Tree:
    """Keys (normalised and rotated) and values of every position."""
    shape = (batch, length, config.num_key_value_heads, config.head_dim)
    return {"k": jnp.zeros(shape, dtype), "v": jnp.zeros(shape, dtype)}


def sliding_cache(config: LFM2Config, batch: int, length: int, dtype: Any) -> Tree:
    """Keys and values of the positions before the next one that it can still see, oldest first."""
    shape = (batch, min(config.sliding_window - 1, length), config.num_key_value_heads, config.head_dim)
    return {"recent_k": jnp.zeros(shape, dtype), "recent_v": jnp.zeros(shape, dtype)}


@dataclass(frozen=True)
class Mixer:
    """What a layer type is made of: the name of its subtree of parameters, its function, its empty cache."""

    name: str
    apply: Callable[[Tree, Array, Packed | Step, LFM2Config, Tree, See], tuple[Array, Tree]]
    cache: Callable[[LFM2Config, int, int, Any], Tree]


MIXERS: dict[str, Mixer] = {
    "conv": Mixer("conv", conv_mixer, conv_cache),
    "full_attention": Mixer("self_attn", attention_mixer, attention_cache),
    "sliding_attention": Mixer("self_attn", attention_mixer, sliding_cache),
}


def rotations(config: LFM2Config, positions: Int[Array, "R S"]) -> dict[str, Rope]:
    """Rotation angles for each attention type that the model has."""
    kinds = [kind for kind in ("full_attention", "sliding_attention") if kind in config.layer_types]
    return {kind: rope_table(positions, config.head_dim, *config.rotation(kind)) for kind in kinds}


def feed_forward(params: Tree, x: Float[Array, "R S D"], see: See = unseen) -> Float[Array, "R S D"]:
    """SwiGLU: `w2(silu(w1 x) * (w3 x))` (Shazeer 2020, arXiv 2002.05202, eq. 6)."""
    gate, up = linear(x, params["w1"]["weight"]), linear(x, params["w3"]["weight"])
    hidden = constrain(jax.nn.silu(gate) * up, "batch", "sequence", "mlp_act")
    see("hidden", hidden)
    return linear(hidden, params["w2"]["weight"])


def layer(
    params: Tree,
    x: Float[Array, "R S D"],
    where: Packed | Step,
    *,
    config: LFM2Config,
    kind: str,
    cache: Tree = None,
    tap: Tap | None = None,
    name: str = "",
) -> tuple[Float[Array, "R S D"], Tree, dict[str, Any], RouterSums | None]:
    """`h = x + Mixer(operator_norm(x)); y = h + MLP(ffn_norm(h))`: returns y, the new cache, what `tap` returned, and,
    where the feed-forward is a mixture of experts, the sums of its router.

    With sandwich norms (Ding et al. 2021, arXiv 2105.13290) `post_operator_norm` and `post_ffn_norm` are applied to
    what is added. `tap` sees `{name}/mixer` and `{name}/feed_forward` (as they are added) and `{name}` (the layer's
    output), and inside them `{name}/mixer/...` (b, c, x, out of a convolution; q, k, v, rotated_q, rotated_k, out and,
    where there is one, gate of attention) and `{name}/feed_forward/hidden` of a dense one.
    """
    mixer = MIXERS[kind]
    inner: dict[str, Any] = {}

    def inside(part: str) -> See:
        return lambda what, x: inner.update(collect(tap, {f"{name}/{part}/{what}": x}))

    normed = rms_norm(x, params["operator_norm"]["weight"], config.norm_eps)
    mixed, cache = mixer.apply(params[mixer.name], normed, where, config, cache, inside("mixer"))
    if config.sandwich_norm:
        mixed = rms_norm(mixed, params["post_operator_norm"]["weight"], config.norm_eps)
    h = constrain(x + mixed, "batch", "sequence", "embed_act")
    normed = rms_norm(h, params["ffn_norm"]["weight"], config.norm_eps)
    fed, routed = _fed(params["feed_forward"], normed, where, config, inside("feed_forward"))
    if config.sandwich_norm:
        fed = rms_norm(fed, params["post_ffn_norm"]["weight"], config.norm_eps)
    y = constrain(h + fed, "batch", "sequence", "embed_act")
    tapped = {f"{name}/mixer": mixed, f"{name}/feed_forward": fed, name: y}
    return y, cache, inner | collect(tap, tapped), routed


def _fed(params: Tree, x: Array, where: Packed | Step, config: LFM2Config, see: See) -> tuple[Array, RouterSums | None]:
    if "experts" in params:
        return mixture(params, x, where.real, config, implementation=where.experts)
    return feed_forward(params, x, see), None


def collect(tap: Tap | None, tapped: dict[str, Array]) -> dict[str, Any]:
    """What `tap` made of each named activation; entries for which it returned None are left out."""
    if tap is None:
        return {}
    seen = {name: tap(name, x) for name, x in tapped.items()}
    return {name: value for name, value in seen.items() if value is not None}
