"""`config.json` of an LFM3, as transformers reads and writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxpo.errors import CheckpointError
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.presets import lfm3_layer_types

# What transformers assumes for keys that a file leaves out, under our names.
_DEFAULTS: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", 128_000),
    "hidden_size": ("hidden_size", 2048),
    "intermediate_size": ("intermediate_size", 7680),
    "num_attention_heads": ("num_attention_heads", 16),
    "num_key_value_heads": ("num_key_value_heads", 4),
    "head_dim": ("head_dim", 128),
    "conv_kernel": ("conv_L_cache", 7),
    "norm_eps": ("norm_eps", 1e-5),
    "initializer_range": ("initializer_range", 0.02),
    "max_position_embeddings": ("max_position_embeddings", 128_000),
    "sliding_window": ("sliding_window", 256),
    "sandwich_norm": ("use_sandwich_norm", True),
    "attention_gate": ("use_attention_gate", True),
    "tie_word_embeddings": ("tie_word_embeddings", True),
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
        **{key: getattr(config, ours) for ours, (key, _) in _DEFAULTS.items()},
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


def lfm3_from_json(document: Mapping[str, Any], source: object) -> LFM2Config:
    """Read an LFM3 configuration.

    Raises:
      CheckpointError: a bias, dropout or a scaled rotary embedding; all of them are named.
      ConfigError: inconsistent numbers.
    """
    problems = [
        f"{key} is {document[key]!r}, but {why}" for key, good, why in _FIXED if document.get(key, good) != good
    ]
    rope = {**_DEFAULT_ROPE, **(document.get("rope_parameters") or {})}
    for kind in _DEFAULT_ROPE:
        problems += [f"rope_parameters.{kind}.{problem}" for problem in _bad_rope(rope[kind], kind)]
    layers = get(document, "num_hidden_layers", _DEFAULT_LAYERS)
    kinds = get(document, "layer_types", lfm3_layer_types(layers))
    if len(kinds) < layers:
        problems.append(f"layer_types has {len(kinds)} entries for {layers} layers")
    if problems:
        raise CheckpointError(f"{source}: " + "; ".join(problems) + ".")
    value = {ours: get(document, key, default) for ours, (key, default) in _DEFAULTS.items()}
    if isinstance(value["eos_token_id"], list):
        value["eos_token_id"] = value["eos_token_id"][0]
    full, proportional = rope["full_attention"], rope["full_attention"].get("rope_type") == "proportional"
    return LFM2Config(
        **value,
        model_type="lfm3",
        layer_types=tuple(kinds[:layers]),
        rope_theta=float(full["rope_theta"]),
        partial_rotary_factor=float(full.get("partial_rotary_factor", 1.0)) if proportional else 1.0,
        sliding_rope_theta=float(rope["sliding_attention"]["rope_theta"]),
    )


_FIXED = (
    ("conv_bias", False, "the short convolution has no biases here"),
    ("attention_bias", False, "attention has no biases here"),
    ("attention_dropout", 0.0, "attention has no dropout here"),
)


def _bad_rope(rope: Mapping[str, Any], kind: str) -> list[str]:
    """Only unscaled angles; transformers reads the partial factor with the type "proportional" alone."""
    allowed = ("default", "proportional") if kind == "full_attention" else ("default",)
    problems = []
    if rope.get("rope_type", "default") not in allowed:
        problems.append(f"rope_type is {rope['rope_type']!r}, supported: {', '.join(allowed)}")
    if rope.get("factor") not in (None, 1.0):
        problems.append(f"factor is {rope['factor']!r}, scaled rotary embeddings are not supported")
    if "rope_theta" not in rope:
        problems.append("rope_theta is missing")
    return problems


def get(document: Mapping[str, Any], key: str, default: Any) -> Any:
    """A key's value; the default where it is missing or null."""
    value = document.get(key)
    return default if value is None else value
