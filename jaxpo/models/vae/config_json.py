"""`vae/config.json` of a folder of diffusers (`AutoencoderKL`), as far as its decoder goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.document import Document, refuse_unknown
from jaxpo.models.vae.config import VAEDecoderConfig

CLASS = "AutoencoderKL"
_SIZES = {"latent_channels": 2**10, "out_channels": 2**10, "layers_per_block": 2**6, "norm_num_groups": 2**10}
"""And the most of each that is believed."""
_FIXED: dict[str, Any] = {"act_fn": "silu", "mid_block_add_attention": True, "latents_mean": None, "latents_std": None}
_BLOCK = "UpDecoderBlock2D"
_READ = {
    *_SIZES,
    *("block_out_channels", "scaling_factor", "shift_factor", "use_post_quant_conv", "up_block_types"),
    # Of the encoder, or of no weight.
    *("in_channels", "down_block_types", "sample_size", "use_quant_conv", "force_upcast"),
}


def config_from_json(document: Mapping[str, Any], source: object) -> VAEDecoderConfig:
    """Read a configuration as diffusers writes it.

    Raises:
      CheckpointError: blocks of another kind, or inconsistent, absurd or mistyped values; names the file and all.
    """
    read, default = Document(document), VAEDecoderConfig()
    for key, good in _FIXED.items():
        read.only(key, good, "Stable Diffusion's decoders have it so")
    refuse_unknown(read, {*_READ, *_FIXED})
    # diffusers' own defaults are those of a toy.
    sizes = {key: read.integer(key, getattr(default, key), most=most) for key, most in _SIZES.items()}
    widths = read.integers("block_out_channels", default.block_out_channels, most=16)
    kinds = read.words("up_block_types", (_BLOCK,) * len(widths), most=16)
    if set(kinds) - {_BLOCK} or len(kinds) != len(widths):
        read.problems.append(f"up_block_types is {', '.join(kinds)}, and a decoder has {_BLOCK} for each level")
    found: dict[str, Any] = {
        **sizes,
        "block_out_channels": widths,
        "scaling_factor": read.number("scaling_factor", default.scaling_factor),
        "shift_factor": read.number("shift_factor", 0.0, signed=True),
        "use_post_quant_conv": read.flag("use_post_quant_conv", True),
    }
    read.check(source)
    try:
        return VAEDecoderConfig(**found)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}") from error
