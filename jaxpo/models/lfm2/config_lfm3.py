"""`config.json` of an LFM3, as transformers reads and writes it."""

from __future__ import annotations

from typing import Any

from jaxpo.models.document import Document, shown
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.config_sizes import MOST, layers_of
from jaxpo.models.lfm2.presets import lfm3_layer_types

# Our name -> that in the file, and what transformers assumes where the file leaves it out.
_SIZES: dict[str, tuple[str, int]] = {
    "vocab_size": ("vocab_size", 128_000),
    "hidden_size": ("hidden_size", 2048),
    "intermediate_size": ("intermediate_size", 7680),
    "num_attention_heads": ("num_attention_heads", 16),
    "num_key_value_heads": ("num_key_value_heads", 4),
    "head_dim": ("head_dim", 128),
    "conv_kernel": ("conv_L_cache", 7),
    "max_position_embeddings": ("max_position_embeddings", 128_000),
    "sliding_window": ("sliding_window", 256),
}
_NUMBERS: dict[str, tuple[str, float]] = {
    "norm_eps": ("norm_eps", 1e-5),
    "initializer_range": ("initializer_range", 0.02),
}
_FLAGS: dict[str, tuple[str, bool]] = {
    "sandwich_norm": ("use_sandwich_norm", True),
    "attention_gate": ("use_attention_gate", True),
    "tie_word_embeddings": ("tie_word_embeddings", True),
}
_IDS: dict[str, tuple[str, int]] = {
    "pad_token_id": ("pad_token_id", 124_893),
    "bos_token_id": ("bos_token_id", 124_894),
    "eos_token_id": ("eos_token_id", 124_900),
}
_DEFAULT_LAYERS = 24
_DEFAULT_ROPE: dict[str, dict[str, Any]] = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.5},
}


def lfm3_to_json(config: LFM2Config, dtype: str) -> dict[str, Any]:
    """Every key that transformers' `Lfm3Config` has for the model."""
    full: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.partial_rotary_factor != 1:
        full |= {"rope_type": "proportional", "partial_rotary_factor": config.partial_rotary_factor}
    return {
        "architectures": ["Lfm3ForCausalLM"],
        "model_type": "lfm3",
        **{key: getattr(config, ours) for ours, (key, _) in {**_SIZES, **_NUMBERS, **_FLAGS, **_IDS}.items()},
        "num_hidden_layers": config.num_hidden_layers,
        "layer_types": list(config.layer_types),
        "rope_parameters": {
            "full_attention": full,
            "sliding_attention": {"rope_type": "default", "rope_theta": config.sliding_rope_theta},
        },
        "conv_bias": False,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_cache": True,
        "dtype": dtype,
    }


def lfm3_from_json(read: Document) -> dict[str, Any]:
    """The fields of an LFM3's configuration; what this family has not is left as a problem in the document."""
    for key, good, why in _FIXED:
        read.only(key, good, why)
    read.agree("norm_eps", "rms_norm_eps")
    layers = layers_of(read, _DEFAULT_LAYERS)
    kinds = read.words("layer_types", lfm3_layer_types(layers), most=MOST["num_hidden_layers"])
    if len(kinds) < layers:
        read.problems.append(f"layer_types has {len(kinds)} entries for {layers} layers")
    ropes = read.part("rope_parameters")
    full, sliding = (_rope(ropes, kind, allowed) for kind, allowed in _ROPE_TYPES.items())
    proportional = full.values.get("rope_type") == "proportional"
    return {
        **{ours: read.integer(key, default, most=MOST.get(key, 2**17)) for ours, (key, default) in _SIZES.items()},
        **{ours: read.number(key, default) for ours, (key, default) in _NUMBERS.items()},
        **{ours: read.flag(key, default) for ours, (key, default) in _FLAGS.items()},
        **{ours: read.end_ids(key, default)[0] for ours, (key, default) in _IDS.items()},
        "norm_eps": read.number(("norm_eps", "rms_norm_eps"), _NUMBERS["norm_eps"][1]),
        "model_type": "lfm3",
        "layer_types": kinds[:layers],
        "rope_theta": full.number("rope_theta", 1e6),
        # transformers reads the factor with this type alone.
        "partial_rotary_factor": full.number("partial_rotary_factor", 1.0) if proportional else 1.0,
        "sliding_rope_theta": sliding.number("rope_theta", 1e4),
    }


_FIXED = (
    ("conv_bias", False, "the short convolution has no biases here"),
    ("attention_bias", False, "attention has no biases here"),
    ("attention_dropout", 0.0, "attention has no dropout here"),
    ("rope_scaling", None, "an LFM3 has rope_parameters"),
)
_ROPE_TYPES = {"full_attention": ("default", "proportional"), "sliding_attention": ("default",)}


def _rope(ropes: Document, kind: str, allowed: tuple[str, ...]) -> Document:
    """The rotary embedding of one type of attention: only unscaled angles."""
    rope = ropes.part(kind, _DEFAULT_ROPE[kind])
    found = rope.values.get("rope_type", "default")
    if found not in allowed:
        rope.problems.append(f"{rope.inside}rope_type is {shown(found)}, supported: {', '.join(allowed)}")
    rope.only("factor", 1.0, "scaled rotary embeddings are not supported")
    if rope.values.get("rope_theta") is None:
        rope.problems.append(f"{rope.inside}rope_theta is missing")
    return rope
