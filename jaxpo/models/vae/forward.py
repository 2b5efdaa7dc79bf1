"""The decoder of latents as a pure function."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpo.models.denoising import attend
from jaxpo.models.siglip.forward import affine
from jaxpo.models.unet.layers import convolve, doubled, group_norm
from jaxpo.models.vae.config import NORM_EPS, VAEDecoderConfig

Tree = Any


def decode(
    params: Tree,
    latents: Float[Array, "B h w c"],
    *,
    config: VAEDecoderConfig,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> Float[Array, "B H W C"]:
    """The pictures that latents stand for, float32, about [-1, 1] (Rombach et al. 2022, arXiv:2112.10752, section 3.1).

        h = conv_in(W (z / scaling + shift) + b);   mid: res, attention, res
        up: res per layer, then doubled;   conv_out(silu(GN(h)))

    Args:
      latents: as a denoiser reads them, multiplied with the scaling factor.
      dtype: of the products; norms and the result are float32.
      remat: keep only the input of each level for the backward pass.
    """
    h = (latents / config.scaling_factor + config.shift_factor).astype(dtype)
    if "post_quant_conv" in params:
        h = affine(params["post_quant_conv"], h)
    h = convolve(params["conv_in"], h)
    run = jax.checkpoint if remat else lambda block: block
    groups = config.norm_num_groups
    h = run(functools.partial(_mid, groups=groups))(params["mid_block"], h)
    for i in range(len(config.block_out_channels)):
        h = run(functools.partial(_level, groups=groups))(params["up_blocks"][str(i)], h)
    h = jax.nn.silu(group_norm(params["conv_norm_out"], h, groups, NORM_EPS))
    return convolve(params["conv_out"], h).astype(jnp.float32)


def _mid(p: Tree, h: Array, groups: int) -> Array:
    h = _residual(p["resnets"]["0"], h, groups)
    attention = p["attentions"]["0"]
    normed = group_norm(attention["group_norm"], h, groups, NORM_EPS).reshape(len(h), -1, h.shape[-1])
    h = h + attend(attention, normed, normed, heads=1).reshape(h.shape)
    return _residual(p["resnets"]["1"], h, groups)


def _level(p: Tree, h: Array, groups: int) -> Array:
    for j in range(len(p["resnets"])):
        h = _residual(p["resnets"][str(j)], h, groups)
    return convolve(p["upsamplers"]["0"]["conv"], doubled(h)) if "upsamplers" in p else h


def _residual(p: Tree, x: Array, groups: int) -> Array:
    """`conv2(silu(GN(conv1(silu(GN x)))))` beside x, or a map of it where the widths differ."""
    h = convolve(p["conv1"], jax.nn.silu(group_norm(p["norm1"], x, groups, NORM_EPS)))
    h = convolve(p["conv2"], jax.nn.silu(group_norm(p["norm2"], h, groups, NORM_EPS)))
    return h + (affine(p["conv_shortcut"], x) if "conv_shortcut" in p else x)
