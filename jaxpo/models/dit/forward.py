"""The diffusion transformer as a pure function."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from jaxpo.models.denoising import attend, embedded_time
from jaxpo.models.dit.config import NORM_EPS, DiTConfig
from jaxpo.models.dit.table import TIME_CHANNELS
from jaxpo.models.siglip.forward import affine
from jaxpo.sharding import constrain

Tree = Any


def denoise(
    params: Tree,
    x: Float[Array, "B H W C"],
    t: Real[Array, "B"],
    context: Float[Array, "B L c"],
    *,
    mask: Real[Array, "B L"] | None = None,
    user: Float[Array, "B U u"] | None = None,
    config: DiTConfig,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> Float[Array, "B H W C"]:
    """What the model predicts of noisy images, float32 (PixArt: Chen et al. 2023, arXiv:2310.00426, section 2.3).

        h = patches(x) W + b + P;   e = linear_2(silu(linear_1(temb(t))));   m = W_ada silu(e) + b
        (s1, c1, g1, s2, c2, g2) = table_l + m
        h += g1 attn1(LN(h) (1 + c1) + s1);   h += attn2(h, text);   h += g2 ff(LN(h) (1 + c2) + s2)
        (s, c) = table + e;   unpatched(W_out (LN(h) (1 + c) + s) + b)

    Args:
      x: noisy images, or latents, whose sides are whole numbers of patches.
      t: times, 0 to T - 1.
      context: states of the texts.
      mask: 1 = a token of a text, 0 = none; None = all are.
      user: vectors that describe each example's user, of zeros for nobody.
      dtype: of the products; norms, scores and the result are float32.
      remat: keep only the input of each layer for the backward pass.

    Raises:
      ValueError: sides that are no whole number of patches, or users where the model has no attention to them.
    """
    patch, width = config.patch_size, config.width
    rows, columns = _grid(x, config)
    if user is not None and not config.user_channels:
        raise ValueError("the model has no attention to a user (user_channels is 0)")
    h = affine(params["pos_embed"]["proj"], _patches(x.astype(dtype), patch))
    h = constrain(h + jnp.asarray(positions(rows, columns, config), dtype), "batch", None, "embed_act")
    e = embedded_time(params["adaln_single"]["emb"]["timestep_embedder"], t, TIME_CHANNELS, dtype)
    m = affine(params["adaln_single"]["linear"], jax.nn.silu(e)).reshape(-1, 6, width)
    text = _projected(params["caption_projection"], context.astype(dtype))
    seen = None if user is None else user.astype(dtype)

    def layer(p: Tree, h: Array) -> Array:
        return _block(p, h, m, text, mask, seen, config)

    run = jax.checkpoint(layer) if remat else layer
    for i in range(config.num_layers):
        h = run(params["transformer_blocks"][str(i)], h)
    table = params["scale_shift_table"].astype(jnp.float32)
    shift, scale = (each[:, None] for each in (table + e[:, None].astype(jnp.float32)).swapaxes(0, 1))
    out = affine(params["proj_out"], _modulated(h, shift, scale))
    return _image(out, rows, columns, patch)[..., : config.in_channels].astype(jnp.float32)


def positions(rows: int, columns: int, config: DiTConfig) -> np.ndarray:
    """`[rows columns, D]`: sines and cosines of a patch's column, then of its row.

    With w_j = 10000^(-j / (D/4)):  [sin(p w), cos(p w)],  p = index * base / count / interpolation_scale, where base is
    the number of patches along a side of `sample_size`: at any size, positions end where they do at that one.
    """
    base = config.sample_size // config.patch_size
    w = 10000.0 ** -(np.arange(config.width // 4) / (config.width / 4))

    def along(count: int) -> np.ndarray:
        at = np.arange(count) * base / count / config.interpolation_scale
        angles = at[:, None] * w
        return np.concatenate((np.sin(angles), np.cos(angles)), -1)

    across = np.broadcast_to(along(columns)[None, :], (rows, columns, config.width // 2))
    down = np.broadcast_to(along(rows)[:, None], (rows, columns, config.width // 2))
    return np.concatenate((across, down), -1).reshape(rows * columns, config.width)


def _block(
    p: Tree, h: Array, m: Array, text: Array, mask: Array | None, user: Array | None, config: DiTConfig
) -> Array:
    heads = config.num_attention_heads
    own = p["scale_shift_table"].astype(jnp.float32) + m.astype(jnp.float32)
    s1, c1, g1, s2, c2, g2 = (own[:, i, None] for i in range(6))
    normed = _modulated(h, s1, c1)
    h = h + g1.astype(h.dtype) * attend(p["attn1"], normed, normed, heads=heads)
    h = h + attend(p["attn2"], h, text, heads=heads, mask=mask, user=user, user_scale=config.user_scale)
    fed = jax.nn.gelu(affine(p["ff"]["net"]["0"]["proj"], _modulated(h, s2, c2)), approximate=True)
    return h + g2.astype(h.dtype) * affine(p["ff"]["net"]["2"], fed)


def _modulated(h: Array, shift: Array, scale: Array) -> Array:
    """`LN(h) (1 + scale) + shift`, computed in float32; the norm has no parameters."""
    wide = h.astype(jnp.float32)
    centred = wide - jnp.mean(wide, -1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + NORM_EPS)
    return (normed * (1 + scale) + shift).astype(h.dtype)


def _projected(params: Tree, context: Array) -> Array:
    return affine(params["linear_2"], jax.nn.gelu(affine(params["linear_1"], context), approximate=True))


def _grid(x: Array, config: DiTConfig) -> tuple[int, int]:
    _, height, width, channels = x.shape
    patch = config.patch_size
    if height % patch or width % patch or channels != config.in_channels:
        raise ValueError(
            f"images of {height} x {width} x {channels}: the model reads {config.in_channels} channels and sides that "
            f"are whole numbers of patches of {patch}"
        )
    return height // patch, width // patch


def _patches(x: Array, patch: int) -> Array:
    """`[B, H, W, C]` as `[B, rows columns, (row, column, channel) of a patch]`."""
    batch, height, width, channels = x.shape
    cut = x.reshape(batch, height // patch, patch, width // patch, patch, channels).swapaxes(2, 3)
    return cut.reshape(batch, -1, patch * patch * channels)


def _image(tokens: Array, rows: int, columns: int, patch: int) -> Array:
    """The inverse of `_patches`."""
    cut = tokens.reshape(len(tokens), rows, columns, patch, patch, -1).swapaxes(2, 3)
    return cut.reshape(len(tokens), rows * patch, columns * patch, -1)
