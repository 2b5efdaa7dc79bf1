"""The parameter table of a U-Net: paths are the names that diffusers' modules have."""

from __future__ import annotations

import dataclasses

from jaxpo.models.caption.table import text_tables
from jaxpo.models.denoising import attention_table, time_table
from jaxpo.models.siglip.table import layer_norm_table, linear_table
from jaxpo.models.spec import Layout, Param, Table, normal, zeros
from jaxpo.models.unet.config import UNetConfig

# PyTorch's convolutions are [out, in, row, column]; jaxpo's are [row, column, in, out].
CONVOLUTION = Layout(lambda x: x.transpose(3, 2, 0, 1), lambda x, shape: x.transpose(2, 3, 1, 0))
# One that sees a single pixel is a matrix [in, out].
POINTWISE = Layout(lambda x: x.T[..., None, None], lambda x, shape: x.reshape(x.shape[:2]).T)


def convolution_table(
    n_in: int,
    n_out: int,
    hf: str,
    *,
    zero: bool = False,
    side: int = 3,
    axes: tuple[str | None, str | None] = ("embed", "mlp"),
) -> Table:
    """A convolution `[side, side, in, out]`, or of one pixel `[in, out]`, and what is added to it.

    Initially Gaussian with standard deviation `(side^2 in)^-1/2`, or zero.
    """
    std = 0.0 if zero else (side * side * n_in) ** -0.5
    weight = (
        Param((n_in, n_out), axes, normal(std), f"{hf}.weight", POINTWISE)
        if side == 1
        else Param((side, side, n_in, n_out), (None, None, *axes), normal(std), f"{hf}.weight", CONVOLUTION)
    )
    return {"weight": weight, "bias": Param((n_out,), (axes[1],), zeros, f"{hf}.bias", decay=False)}


def param_table(config: UNetConfig) -> Table:
    """The whole model, `caption` (the text tower, where there is one) among it.

    A fresh one gives zeros and its blocks pass their input on: the last convolution of each begins at zero. Weight
    decay applies to matrices and convolutions alone.
    """
    first = config.block_out_channels[0]
    down, skips = _down(config)
    return {
        "conv_in": convolution_table(config.in_channels, first, "conv_in", axes=(None, "mlp")),
        "time_embedding": time_table(first, 4 * first, "time_embedding"),
        "down_blocks": down,
        "mid_block": _mid(config),
        "up_blocks": _up(config, skips),
        "conv_norm_out": layer_norm_table(first, "conv_norm_out"),
        "conv_out": convolution_table(first, config.in_channels, "conv_out", zero=True, axes=("embed", None)),
        **text_tables(config),
    }


def _down(config: UNetConfig) -> tuple[Table, list[int]]:
    """The way down, and the widths of what it hands to the way up."""
    blocks: dict[str, Table] = {}
    width = config.block_out_channels[0]
    skips = [width]
    for i, out in enumerate(config.block_out_channels):
        name, last = f"down_blocks.{i}", i == config.levels - 1
        n_in = [width] + [out] * (config.layers_per_block - 1)
        blocks[str(i)] = {
            **_level(config, name, i, n_in, out),
            **({} if last else {"downsamplers": _resampler(out, f"{name}.downsamplers")}),
        }
        skips += [out] * (config.layers_per_block + (not last))
        width = out
    return blocks, skips


def _up(config: UNetConfig, skips: list[int]) -> Table:
    blocks: dict[str, Table] = {}
    width = config.block_out_channels[-1]
    for i, level in enumerate(reversed(range(config.levels))):
        name, out = f"up_blocks.{i}", config.block_out_channels[level]
        n_in = [skips.pop() + (width if j == 0 else out) for j in range(config.layers_per_block + 1)]
        blocks[str(i)] = {
            **_level(config, name, level, n_in, out),
            **({} if level == 0 else {"upsamplers": _resampler(out, f"{name}.upsamplers")}),
        }
        width = out
    return blocks


def _mid(config: UNetConfig) -> Table:
    width = config.block_out_channels[-1]
    resnets = {str(j): _residual(config, width, width, f"mid_block.resnets.{j}") for j in range(2)}
    return {"resnets": resnets, "attentions": {"0": _transformer(config, width, "mid_block.attentions.0")}}


def _resampler(width: int, hf: str) -> Table:
    return {"0": {"conv": convolution_table(width, width, f"{hf}.0.conv")}}


def _level(config: UNetConfig, hf: str, level: int, n_in: list[int], out: int) -> Table:
    resnets = {str(j): _residual(config, each, out, f"{hf}.resnets.{j}") for j, each in enumerate(n_in)}
    attentions = {str(j): _transformer(config, out, f"{hf}.attentions.{j}") for j in range(len(n_in))}
    return {"resnets": resnets, **({"attentions": attentions} if config.cross_attention[level] else {})}


def _residual(config: UNetConfig, n_in: int, n_out: int, hf: str) -> Table:
    time = 4 * config.block_out_channels[0]
    return {
        "norm1": layer_norm_table(n_in, f"{hf}.norm1"),
        "conv1": convolution_table(n_in, n_out, f"{hf}.conv1"),
        "time_emb_proj": linear_table(time, n_out, ("embed", "mlp"), time**-0.5, f"{hf}.time_emb_proj"),
        "norm2": layer_norm_table(n_out, f"{hf}.norm2"),
        "conv2": convolution_table(n_out, n_out, f"{hf}.conv2", zero=True),
        **({} if n_in == n_out else {"conv_shortcut": convolution_table(n_in, n_out, f"{hf}.conv_shortcut", side=1)}),
    }


def _transformer(config: UNetConfig, width: int, hf: str) -> Table:
    block, std = f"{hf}.transformer_blocks.0", width**-0.5
    inner = {
        "norm1": layer_norm_table(width, f"{block}.norm1"),
        "attn1": attention_table(width, width, f"{block}.attn1", bias=False, out_std=std),
        "norm2": layer_norm_table(width, f"{block}.norm2"),
        "attn2": attention_table(
            width, config.cross_attention_dim, f"{block}.attn2", bias=False, user=config.user_channels, out_std=std
        ),
        "norm3": layer_norm_table(width, f"{block}.norm3"),
        "ff": {
            "net": {
                "0": {"proj": linear_table(width, 8 * width, ("embed", "mlp"), std, f"{block}.ff.net.0.proj")},
                "2": linear_table(4 * width, width, ("mlp", "embed"), (4 * width) ** -0.5, f"{block}.ff.net.2"),
            }
        },
    }
    return {
        "norm": layer_norm_table(width, f"{hf}.norm"),
        "proj_in": _around(config, width, f"{hf}.proj_in", zero=False),
        "transformer_blocks": {"0": inner},
        "proj_out": _around(config, width, f"{hf}.proj_out", zero=True),
    }


def _around(config: UNetConfig, width: int, hf: str, *, zero: bool) -> Table:
    """A matrix here; in files it may be a convolution, which no adapter is written for."""
    found = linear_table(width, width, ("embed", "mlp"), 0.0 if zero else width**-0.5, hf)
    if config.use_linear_projection:
        return found
    return {**found, "weight": dataclasses.replace(found["weight"], layout=POINTWISE, muon=None)}
