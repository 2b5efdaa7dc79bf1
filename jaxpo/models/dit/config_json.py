"""`transformer/config.json` of a folder of diffusers (`PixArtTransformer2DModel`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxpo.config.noise import NoiseSchedule
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.dit.config import NORM_EPS, DiTConfig
from jaxpo.models.document import Document, refuse_unknown

CLASSES = ("PixArtTransformer2DModel", "Transformer2DModel")
_SIZES = {
    "sample_size": 2**16,
    "patch_size": 2**10,
    "in_channels": 2**16,
    "num_layers": 2**10,
    "num_attention_heads": 2**10,
    "attention_head_dim": 2**16,
}
"""And the most of each that is believed."""
_PIXART = "PixArt has it so"
_FIXED: dict[str, Any] = {
    "dropout": 0,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": NORM_EPS,
    "attention_type": "default",
}
_READ = {
    *_SIZES,
    *("out_channels", "caption_channels", "cross_attention_dim", "interpolation_scale", "use_additional_conditions"),
    # Softmax is float32 here in any case, and PixArt reads neither of the other two.
    *("upcast_attention", "norm_num_groups", "num_embeds_ada_norm"),
}


def config_to_json(config: DiTConfig) -> dict[str, Any]:
    """The keys that diffusers needs."""
    return {
        "_class_name": CLASSES[0],
        **{key: getattr(config, key) for key in _SIZES},
        "out_channels": config.out_channels,
        "caption_channels": config.caption_channels,
        "cross_attention_dim": config.width,
        "interpolation_scale": config.interpolation_scale,
        # Its default at sample_size 128 would be true.
        "use_additional_conditions": False,
        **_FIXED,
    }


def config_from_json(document: Mapping[str, Any], source: object, schedule: NoiseSchedule) -> DiTConfig:
    """Read a configuration as diffusers and what is built on it write it.

    Raises:
      CheckpointError: what PixArt has not, conditions on a resolution, or inconsistent, absurd or mistyped values;
        names the file and all of them.
    """
    read, default = Document(document), DiTConfig(sample_size=128)
    for key, good in _FIXED.items():
        read.only(key, good, _PIXART)
    refuse_unknown(read, {*_READ, *_FIXED})
    sizes = {key: read.integer(key, getattr(default, key), most=most) for key, most in _SIZES.items()}
    if read.flag("use_additional_conditions", sizes["sample_size"] == 128):
        read.problems.append(
            "use_additional_conditions is true (its default at sample_size 128), and a model that is told the "
            "resolution and the aspect ratio (PixArt-alpha 1024) is not read; PixArt-sigma's are"
        )
    if document.get("caption_channels") is None:
        read.problems.append("caption_channels is missing, the width of a text's states")
    width = sizes["num_attention_heads"] * sizes["attention_head_dim"]
    read.only("cross_attention_dim", width, "attention reads texts at the model's own width")
    out_default = 8 if "out_channels" not in document else sizes["in_channels"]
    values: dict[str, Any] = {
        **sizes,
        "out_channels": read.integer("out_channels", out_default, most=2**16),
        "caption_channels": read.integer("caption_channels", default.caption_channels, most=2**16),
        "interpolation_scale": read.number("interpolation_scale", max(sizes["sample_size"] // 64, 1)),
    }
    read.check(source)
    try:
        return DiTConfig(**values, schedule=schedule)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}") from error
