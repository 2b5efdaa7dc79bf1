"""The U-Net as a pure function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from jaxpo.models.denoising import attend, embedded_time
from jaxpo.models.siglip.forward import affine, layer_norm
from jaxpo.models.unet.config import UNetConfig
from jaxpo.models.unet.layers import convolve, doubled, gated, group_norm

Tree = Any
ATTENTION_NORM_EPS = 1e-6
LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Conditions:
    """What every block of a level reads beside the image.

    Attributes:
      time: `[B, D]`, `silu(e)`.
      heads: of attention, which differ from level to level.
    """

    time: Array
    context: Array
    mask: Array | None
    user: Array | None
    heads: int


jax.tree_util.register_dataclass(Conditions, ("time", "context", "mask", "user"), ("heads",))


def denoise(
    params: Tree,
    x: Float[Array, "B H W C"],
    t: Real[Array, "B"],
    context: Float[Array, "B L c"],
    *,
    mask: Real[Array, "B L"] | None = None,
    user: Float[Array, "B U u"] | None = None,
    config: UNetConfig,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> Float[Array, "B H W C"]:
    """What the model predicts of noisy images, float32 (Rombach et al. 2022, arXiv:2112.10752, section 3.3).

        e = linear_2(silu(linear_1(temb(t))));   h = conv_in(x)
        down: (res, attention) per layer, then halved;   mid: res, attention, res
        up: (res of [h, what the way down had there], attention) per layer, then doubled
        conv_out(silu(GN(h)))

    Args:
      x: noisy images, or latents, whose sides can be halved as often as there are levels below the first.
      t: times, 0 to T - 1.
      context: states of the texts.
      mask: 1 = a token of a text, 0 = none; None = all are.
      user: vectors that describe each example's user, of zeros for nobody.
      dtype: of the products; norms, scores and the result are float32.
      remat: keep only the input of each residual block and each attention for the backward pass.

    Raises:
      ValueError: sides that cannot be halved so often, or users where the model has no attention to them.
    """
    _check(x, user, config)
    block = functools.partial(_block, config=config)
    run = jax.checkpoint(block) if remat else block
    e = embedded_time(params["time_embedding"], t, config.block_out_channels[0], dtype)
    seen = None if user is None else user.astype(dtype)
    given = [Conditions(jax.nn.silu(e), context.astype(dtype), mask, seen, heads) for heads in config.attention_heads]
    h, skips = _down(params, convolve(params["conv_in"], x.astype(dtype)), given, run, config)
    h = _mid(params["mid_block"], h, given[-1], run, config)
    h = _up(params["up_blocks"], h, skips, given, run, config)
    h = jax.nn.silu(group_norm(params["conv_norm_out"], h, config.norm_num_groups, config.norm_eps))
    return convolve(params["conv_out"], h).astype(jnp.float32)


def _check(x: Array, user: Array | None, config: UNetConfig) -> None:
    _, height, width, channels = x.shape
    if height % config.shrinks or width % config.shrinks or channels != config.in_channels:
        raise ValueError(
            f"images of {height} x {width} x {channels}: the model reads {config.in_channels} channels and sides that "
            f"are multiples of {config.shrinks}"
        )
    if user is not None and not config.user_channels:
        raise ValueError("the model has no attention to a user (user_channels is 0)")


def _down(
    params: Tree, h: Array, given: list[Conditions], run: Callable[..., Array], config: UNetConfig
) -> tuple[Array, list[Array]]:
    skips = [h]
    for i in range(config.levels):
        p = params["down_blocks"][str(i)]
        for j in range(config.layers_per_block):
            h = run(p["resnets"][str(j)], _attention(p, j), h, given[i])
            skips.append(h)
        if "downsamplers" in p:
            h = convolve(p["downsamplers"]["0"]["conv"], h, stride=2)
            skips.append(h)
    return h, skips


def _mid(p: Tree, h: Array, given: Conditions, run: Callable[..., Array], config: UNetConfig) -> Array:
    h = run(p["resnets"]["0"], _attention(p, 0), h, given)
    return run(p["resnets"]["1"], None, h, given)


def _up(
    params: Tree, h: Array, skips: list[Array], given: list[Conditions], run: Callable[..., Array], config: UNetConfig
) -> Array:
    for i in range(config.levels):
        p = params[str(i)]
        for j in range(config.layers_per_block + 1):
            h = jnp.concatenate((h, skips.pop()), axis=-1)
            h = run(p["resnets"][str(j)], _attention(p, j), h, given[config.levels - 1 - i])
        if "upsamplers" in p:
            h = convolve(p["upsamplers"]["0"]["conv"], doubled(h))
    return h


def _attention(p: Tree, j: int) -> Tree | None:
    return p["attentions"][str(j)] if "attentions" in p else None


def _block(residual: Tree, attention: Tree | None, h: Array, given: Conditions, *, config: UNetConfig) -> Array:
    h = _residual(residual, h, given.time, config)
    return h if attention is None else _transformer(attention, h, given, config)


def _residual(p: Tree, x: Array, time: Array, config: UNetConfig) -> Array:
    """`conv2(silu(GN(conv1(silu(GN x)) + W e)))` beside x, or a map of it where the widths differ."""
    groups, eps = config.norm_num_groups, config.norm_eps
    h = convolve(p["conv1"], jax.nn.silu(group_norm(p["norm1"], x, groups, eps)))
    h = h + affine(p["time_emb_proj"], time)[:, None, None]
    h = convolve(p["conv2"], jax.nn.silu(group_norm(p["norm2"], h, groups, eps)))
    return h + (affine(p["conv_shortcut"], x) if "conv_shortcut" in p else x)


def _transformer(p: Tree, x: Array, given: Conditions, config: UNetConfig) -> Array:
    """`y = W_in GN(x); y += attn1(LN y); y += attn2(LN y, text); y += W_2 gated(W_1 LN y)`, `W_out y` beside x."""
    normed = group_norm(p["norm"], x, config.norm_num_groups, ATTENTION_NORM_EPS)
    y = affine(p["proj_in"], normed.reshape(len(x), -1, x.shape[-1]))
    block = p["transformer_blocks"]["0"]
    seen = layer_norm(block["norm1"], y, LAYER_NORM_EPS)
    y = y + attend(block["attn1"], seen, seen, heads=given.heads)
    asked = layer_norm(block["norm2"], y, LAYER_NORM_EPS)
    y = y + attend(
        block["attn2"], asked, given.context, heads=given.heads, mask=given.mask, user=given.user,
        user_scale=config.user_scale,
    )  # fmt: skip
    fed = gated(affine(block["ff"]["net"]["0"]["proj"], layer_norm(block["norm3"], y, LAYER_NORM_EPS)))
    y = y + affine(block["ff"]["net"]["2"], fed)
    return x + affine(p["proj_out"], y).reshape(x.shape)
