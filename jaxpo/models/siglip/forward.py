"""SigLIP2 NaFlex over packed rows: images of any size side by side, none padded."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpo.models.siglip.config import SiglipConfig
from jaxpo.ops.attention import attention
from jaxpo.ops.linear import linear

Tree = Any


def layer_norm(params: Tree, x: Float[Array, "... D"], eps: float) -> Float[Array, "... D"]:
    """`(x - mean) / sqrt(var + eps) * weight + bias`, computed in float32."""
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, -1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + eps)
    return (normed * params["weight"] + params["bias"]).astype(x.dtype)


def affine(params: Tree, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
    """`x W + b`; without `b` where there is none."""
    y = linear(x, params["weight"])
    return y + params["bias"].astype(y.dtype) if "bias" in params else y


def axis_weights(at: Int[Array, "..."], size: Int[Array, "..."], n: int) -> Float[Array, "... n"]:
    """How much each of n table entries counts at a place of a grid of another size: bilinear, with antialiasing.

    With scale = n / size and c = (at + 1/2) scale - 1/2:  w_s ~ max(0, 1 - |s - c| / max(scale, 1)), sum_s w_s = 1.
    """
    scale = n / jnp.maximum(size, 1).astype(jnp.float32)
    centre = (at.astype(jnp.float32) + 0.5) * scale - 0.5
    away = jnp.abs(jnp.arange(n) - centre[..., None]) / jnp.maximum(scale, 1.0)[..., None]
    weights = jnp.maximum(0.0, 1.0 - away)
    return weights / jnp.sum(weights, -1, keepdims=True)


def position_vectors(table: Float[Array, "n D"], positions: Int[Array, "Q P 4"], grid: int) -> Float[Array, "Q P D"]:
    """The position table, a `grid` by `grid` square, resized to each patch's own grid and read at its place; float32.

        pos(i, j) = sum_st w_s(i) w_t(j) table[s grid + t]

    Args:
      positions: row, column, rows and columns of each patch.
    """
    row, column, rows, columns = jnp.moveaxis(positions, -1, 0)
    along = axis_weights(row, rows, grid), axis_weights(column, columns, grid)
    both = along[0][..., :, None] * along[1][..., None, :]
    wide = both.reshape(*both.shape[:-2], grid * grid)
    return jnp.einsum("qpn,nd->qpd", wide, table.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


def encode(
    params: Tree,
    values: Float[Array, "Q P C"],
    segment_ids: Int[Array, "Q P"],
    positions: Int[Array, "Q P 4"],
    *,
    config: SiglipConfig,
    remat: bool = False,
    implementation: str | None = None,
) -> Float[Array, "Q P D"]:
    """Hidden states after the last norm (Tschannen et al. 2025, arXiv 2502.14786; pre-norm ViT).

        x = W_patch v + b + pos;   x += Attn(LN1 x);   x += fc2(gelu_tanh(fc1(LN2 x)));   LN x

    Args:
      values: `[Q, P, C]` normalised patches; their type is the compute type.
      segment_ids: `[Q, P]`, the pieces of a row; 0 is padding. No patch sees another piece.
      positions: `[Q, P, 4]` row, column, rows, columns.
      remat: keep only the input of each layer for the backward pass.
      implementation: of attention; None = the best here.
    """
    at = position_vectors(params["position_embedding"]["weight"], positions, config.grid)
    x = affine(params["patch_embedding"], values) + at.astype(values.dtype)

    def layer(p: Tree, x: Array) -> Array:
        x = x + _attend(p["self_attn"], layer_norm(p["layer_norm1"], x, eps), segment_ids, config, implementation)
        fed = affine(p["mlp"]["fc1"], layer_norm(p["layer_norm2"], x, eps))
        return x + affine(p["mlp"]["fc2"], jax.nn.gelu(fed, approximate=True))

    eps = config.layer_norm_eps
    run = jax.checkpoint(layer) if remat else layer
    for i in range(config.num_hidden_layers):
        x = run(params["layers"][str(i)], x)
    return layer_norm(params["post_layernorm"], x, eps)


def _attend(p: Tree, x: Array, segment_ids: Array, config: SiglipConfig, implementation: str | None) -> Array:
    heads = (*x.shape[:-1], config.num_attention_heads, config.head_dim)
    q, k, v = (affine(p[name], x).reshape(heads) for name in ("q_proj", "k_proj", "v_proj"))
    mixed = attention(q, k, v, segment_ids, causal=False, implementation=implementation)
    return affine(p["out_proj"], mixed.reshape(x.shape))
