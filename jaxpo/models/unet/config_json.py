"""`unet/config.json` of a folder of diffusers (`UNet2DConditionModel`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxpo.config.noise import NoiseSchedule
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.document import Document, refuse_unknown, shown
from jaxpo.models.unet.config import UNetConfig

CLASS = "UNet2DConditionModel"
CROSSED, PLAIN, MID = "CrossAttnDownBlock2D", "DownBlock2D", "UNetMidBlock2DCrossAttn"
_DEFAULT_KINDS = (CROSSED, CROSSED, CROSSED, PLAIN)
_SIZES = {"sample_size": 2**16, "in_channels": 2**16, "layers_per_block": 64, "norm_num_groups": 2**16}
"""And the most of each that is believed."""
_LEVELS = 16
_SD = "Stable Diffusion 1 and 2 have it so"
_FIXED: dict[str, Any] = {
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_type": MID,
    "only_cross_attention": False,
    "mid_block_only_cross_attention": False,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "dropout": 0,
    "act_fn": "silu",
    "transformer_layers_per_block": 1,
    "dual_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1,
    "time_embedding_type": "positional",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "class_embeddings_concat": False,
}
"""Keys with the one value that is read."""
_READ = {
    *_SIZES,
    *("block_out_channels", "down_block_types", "up_block_types", "cross_attention_dim", "attention_head_dim"),
    *("norm_eps", "use_linear_projection", "out_channels", "num_attention_heads"),
    # Softmax is float32 here in any case; the last sizes something that no model of this form has.
    *("upcast_attention", "addition_embed_type_num_heads"),
}


def config_to_json(config: UNetConfig) -> dict[str, Any]:
    """The keys that diffusers needs."""
    kinds = [CROSSED if crossed else PLAIN for crossed in config.cross_attention]
    return {
        "_class_name": CLASS,
        "sample_size": config.sample_size,
        "in_channels": config.in_channels,
        "out_channels": config.in_channels,
        "block_out_channels": list(config.block_out_channels),
        "layers_per_block": config.layers_per_block,
        "down_block_types": kinds,
        "up_block_types": [kind.replace("Down", "Up") for kind in reversed(kinds)],
        "cross_attention_dim": config.cross_attention_dim,
        "attention_head_dim": list(config.attention_heads),
        "norm_num_groups": config.norm_num_groups,
        "norm_eps": config.norm_eps,
        "use_linear_projection": config.use_linear_projection,
        **_FIXED,
    }


def config_from_json(document: Mapping[str, Any], source: object, schedule: NoiseSchedule) -> UNetConfig:
    """Read a configuration as diffusers and what is built on it write it.

    Raises:
      CheckpointError: what Stable Diffusion 1 and 2 have not, or inconsistent, absurd or mistyped values; names the
        file and all of them.
    """
    read, default = Document(document), UNetConfig()
    for key, good in _FIXED.items():
        read.only(key, good, _SD)
    refuse_unknown(read, {*_READ, *_FIXED})
    if document.get("num_attention_heads") is not None:
        read.problems.append("num_attention_heads is given, but UNet2DConditionModel has heads in attention_head_dim")
    widths = read.integers("block_out_channels", default.block_out_channels, most=_LEVELS)
    values: dict[str, Any] = {
        **{key: read.integer(key, getattr(default, key), most=most) for key, most in _SIZES.items()},
        "block_out_channels": widths,
        "cross_attention": _crossed(read),
        "cross_attention_dim": _same(read, "cross_attention_dim", 1280),
        "attention_heads": _heads(read, len(widths)),
        "norm_eps": read.number("norm_eps", default.norm_eps),
        "use_linear_projection": read.flag("use_linear_projection", False),
    }
    read.only("out_channels", values["in_channels"], "what it predicts has the channels of its images")
    read.check(source)
    try:
        return UNetConfig(**values, schedule=schedule)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error} (diffusers' attention_head_dim is the number of heads.)") from error


def _crossed(read: Document) -> tuple[bool, ...]:
    kinds = read.words("down_block_types", _DEFAULT_KINDS, most=_LEVELS)
    if odd := [kind for kind in kinds if kind not in (CROSSED, PLAIN)]:
        read.wrong("down_block_types", odd[0], f"made of {CROSSED} and {PLAIN}", None)
    mirrored = [kind.replace("Down", "Up") for kind in reversed(kinds)]
    if list(read.words("up_block_types", mirrored, most=_LEVELS)) != mirrored:
        read.problems.append("up_block_types is not down_block_types in reverse order")
    return tuple(kind == CROSSED for kind in kinds)


def _heads(read: Document, levels: int) -> tuple[int, ...]:
    """One number for all levels, or a list of them."""
    if isinstance(read.values.get("attention_head_dim"), list):
        return read.integers("attention_head_dim", (), most=_LEVELS)
    return (read.integer("attention_head_dim", 8, most=1024),) * levels


def _same(read: Document, key: str, default: int) -> int:
    """A number, or a list that holds it alone."""
    found = read.values.get(key)
    if isinstance(found, list):
        if len(set(map(str, found))) != 1:
            read.problems.append(f"{key} is {shown(found)}, but all levels read the same text")
        return Document({key: found[0] if found else None}, "", read.problems).integer(key, default, most=2**16)
    return read.integer(key, default, most=2**16)
