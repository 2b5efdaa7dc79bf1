"""The parameter table of a decoder of latents: paths are the names that diffusers' modules have."""

from __future__ import annotations

from jaxpo.models.denoising import attention_table
from jaxpo.models.parts import Flops
from jaxpo.models.siglip.table import layer_norm_table
from jaxpo.models.spec import Table, leaves
from jaxpo.models.unet.table import convolution_table
from jaxpo.models.vae.config import VAEDecoderConfig


def param_table(config: VAEDecoderConfig) -> Table:
    """The decoder, and the map of a latent's channels before it."""
    widths = config.block_out_channels
    last, first = widths[-1], widths[0]
    return {
        **(_before(config) if config.use_post_quant_conv else {}),
        "conv_in": convolution_table(config.latent_channels, last, "decoder.conv_in", axes=(None, "mlp")),
        "mid_block": {
            "resnets": {str(j): _residual(last, last, f"decoder.mid_block.resnets.{j}") for j in range(2)},
            "attentions": {"0": _attention(last, "decoder.mid_block.attentions.0")},
        },
        "up_blocks": {str(i): _level(config, i) for i in range(len(widths))},
        "conv_norm_out": layer_norm_table(first, "decoder.conv_norm_out"),
        "conv_out": convolution_table(first, config.out_channels, "decoder.conv_out", axes=("embed", None)),
    }


def _before(config: VAEDecoderConfig) -> Table:
    n = config.latent_channels
    return {"post_quant_conv": convolution_table(n, n, "post_quant_conv", side=1, axes=(None, None))}


def _level(config: VAEDecoderConfig, i: int) -> Table:
    """The i-th on the way up; the first two are equally wide."""
    widths, name = config.block_out_channels[::-1], f"decoder.up_blocks.{i}"
    before, out = widths[max(i - 1, 0)], widths[i]
    resnets = {
        str(j): _residual(before if j == 0 else out, out, f"{name}.resnets.{j}")
        for j in range(config.layers_per_block + 1)
    }
    doubling = {"0": {"conv": convolution_table(out, out, f"{name}.upsamplers.0.conv")}}
    return {"resnets": resnets, **({"upsamplers": doubling} if i < len(widths) - 1 else {})}


def _residual(n_in: int, n_out: int, hf: str) -> Table:
    return {
        "norm1": layer_norm_table(n_in, f"{hf}.norm1"),
        "conv1": convolution_table(n_in, n_out, f"{hf}.conv1"),
        "norm2": layer_norm_table(n_out, f"{hf}.norm2"),
        "conv2": convolution_table(n_out, n_out, f"{hf}.conv2"),
        **({} if n_in == n_out else {"conv_shortcut": convolution_table(n_in, n_out, f"{hf}.conv_shortcut", side=1)}),
    }


def _attention(width: int, hf: str) -> Table:
    return {
        "group_norm": layer_norm_table(width, f"{hf}.group_norm"),
        **attention_table(width, width, hf, bias=True, out_std=width**-0.5),
    }


def flops_per_latent(config: VAEDecoderConfig, context: float) -> Flops:
    """One pixel's share of the work for each cell of a latent; what is between positions is not counted."""
    levels = range(len(config.block_out_channels))
    cells = {f"up_blocks/{i}/": 4.0**i for i in levels} | {"conv_out/": 4.0 ** levels[-1]}

    def uses(path: str) -> float:
        found = next((n for name, n in cells.items() if path.startswith(name)), 1.0)
        return 4.0 * found if "/upsamplers/" in path else found

    named = [(path, param.size) for path, param in leaves(param_table(config)) if len(param.shape) > 1]
    return Flops(sum(size * uses(path) for path, size in named), 0.0)
