"""`config.json` of an LFM2-VL: LFM2's and SigLIP2's inside one document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.document import Document, shown
from jaxpo.models.lfm2 import config_json as lfm2
from jaxpo.models.lfm2_vl.config import FACTOR, LFM2VLConfig
from jaxpo.models.siglip.config import SiglipConfig

CLASSES = {"lfm2_vl": "Lfm2Vl"}
"""`model_type` in a file -> what the names of the classes begin with that transformers loads."""
ENDINGS = ("ForConditionalGeneration", "Model")
VISION_TYPES = ("siglip2_vision_model", "siglip2")
_SIZES = {
    "hidden_size": 2**16,
    "intermediate_size": 2**18,
    "num_hidden_layers": 1024,
    "num_attention_heads": 1024,
    "patch_size": 1024,
    "num_patches": 2**20,
}
"""Of the tower, and the most of each that is believed."""
_FIXED = (
    ("downsample_factor", FACTOR, "LFM2-VL makes one vector of two by two patches"),
    ("projector_hidden_act", "gelu", "LFM2-VL's connector has the exact GELU"),
)
_VISION_FIXED = (
    ("hidden_act", "gelu_pytorch_tanh", "SigLIP2 has the tanh form of GELU"),
    ("num_channels", 3, "images have three"),
)


def config_to_json(config: LFM2VLConfig, dtype: str) -> dict[str, Any]:
    """The keys that transformers and the other readers of LFM2-VL look for."""
    vision = config.vision
    return {
        "architectures": ["Lfm2VlForConditionalGeneration"],
        "model_type": "lfm2_vl",
        "image_token_id": config.image_token_id,
        "downsample_factor": FACTOR,
        "projector_hidden_size": config.projector_hidden_size,
        "projector_hidden_act": "gelu",
        "projector_bias": config.projector_bias,
        "projector_use_layernorm": config.projector_use_layernorm,
        "tie_word_embeddings": True,
        "text_config": lfm2.config_to_json(config.text, dtype),
        "vision_config": {
            "model_type": VISION_TYPES[0],
            **{name: getattr(vision, name) for name in _SIZES},
            "num_channels": vision.num_channels,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": vision.layer_norm_eps,
            "initializer_range": vision.initializer_range,
            "attention_dropout": 0.0,
            "vision_use_head": False,
            "dtype": dtype,
        },
        "dtype": dtype,
    }


def config_from_json(document: Mapping[str, Any], source: object) -> LFM2VLConfig:
    """Read a released or exported configuration.

    Raises:
      CheckpointError: a feature that LFM2-VL has not, or inconsistent, absurd or mistyped values; names the file and
        all of them.
    """
    read = Document(document)
    for key, good, why in _FIXED:
        read.only(key, good, why)
    read.agree("image_token_id", "image_token_index")
    own: dict[str, Any] = {
        "image_token_id": read.integer(("image_token_id", "image_token_index"), 396, least=0),
        "projector_hidden_size": read.integer("projector_hidden_size", 2560, most=2**20),
        "projector_bias": read.flag("projector_bias", True),
        "projector_use_layernorm": read.flag("projector_use_layernorm", True),
    }
    vision = _vision(read.part("vision_config"))
    text = read.part("text_config").values
    read.check(source)
    kind = text.get("model_type", "lfm2")
    if kind not in ("lfm2", "lfm2_moe"):
        raise CheckpointError(f"{source}: text_config.model_type is {shown(kind)}; LFM2-VL has an LFM2.")
    try:
        inner = lfm2.config_from_json({"model_type": kind, **text}, f"{source}: text_config")
        return LFM2VLConfig(text=inner, vision=SiglipConfig(**vision), **own)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}") from error


def processor_of(config: LFM2VLConfig) -> dict[str, Any]:
    """What the model says of how its images are made; tiles are of 512 pixels, or as near as whole vectors come."""
    unit = config.vision.patch_size * FACTOR
    return {
        "encoder_patch_size": config.vision.patch_size,
        "tile_size": max(round(512 / unit), 1) * unit,
        "image_mean": config.image_mean,
        "image_std": config.image_std,
    }


def generation_config_to_json(config: LFM2VLConfig) -> dict[str, Any]:
    """As of its language model."""
    return lfm2.generation_config_to_json(config.text)


def _vision(read: Document) -> dict[str, Any]:
    kind = read.values.get("model_type")
    if kind is not None and kind not in VISION_TYPES:
        read.wrong("model_type", kind, f"{VISION_TYPES[0]}", VISION_TYPES[0])
    for key, good, why in _VISION_FIXED:
        read.only(key, good, why)
    default = SiglipConfig()
    return {
        **{name: read.integer(name, getattr(default, name), most=most) for name, most in _SIZES.items()},
        **{name: read.number(name, getattr(default, name)) for name in ("layer_norm_eps", "initializer_range")},
    }
