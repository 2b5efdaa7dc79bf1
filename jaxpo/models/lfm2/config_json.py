"""`config.json` and `generation_config.json` of an LFM2, dense or with experts (LFM3: `config_lfm3`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.config_lfm3 import get, lfm3_from_json, lfm3_to_json

CLASSES = {"lfm2": "Lfm2", "lfm2_moe": "Lfm2Moe", "lfm3": "Lfm3"}
"""`model_type` in a file -> what the names of the classes begin with that transformers loads."""

# What transformers assumes for keys that a file leaves out.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 65536,
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128_000,
    "initializer_range": 0.02,
    "norm_eps": 1e-5,
    "conv_L_cache": 3,
    "rope_theta": 1e6,
}
_EXPERT_DEFAULTS: dict[str, Any] = {
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 1792,
    "num_dense_layers": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "use_expert_bias": True,
}
_MIXTURE_DEFAULTS = {"hidden_size": 2048, "intermediate_size": 7168}
_DEFAULT_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def config_to_json(config: LFM2Config, dtype: str) -> dict[str, Any]:
    """The keys that transformers and the other readers of LFM2 look for.

    The feed-forward width is written as it is used, with the automatic adjustment switched off, so that no reader
    rounds it to another number.
    """
    if config.model_type == "lfm3":
        return lfm3_to_json(config, dtype)
    kind = "lfm2_moe" if config.num_experts else "lfm2"
    attention = [i for i, mixer in enumerate(config.layer_types) if mixer == "full_attention"]
    document: dict[str, Any] = {
        "architectures": [f"{CLASSES[kind]}ForCausalLM"],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        **_feed_forward_keys(config),
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "layer_types": list(config.layer_types),
        "full_attn_idxs": attention,
        "conv_L_cache": config.conv_kernel,
        "conv_bias": False,
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": True,
        "tie_embedding": True,
        "use_cache": True,
        **_ids(config),
        "dtype": dtype,
    }
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        document["head_dim"] = config.head_dim
    return document


def _feed_forward_keys(config: LFM2Config) -> dict[str, Any]:
    if config.num_experts:
        return {key: getattr(config, key) for key in _EXPERT_DEFAULTS}
    return {
        "block_ff_dim": config.intermediate_size,
        "block_auto_adjust_ff_dim": False,
        "block_ffn_dim_multiplier": 1.0,
        "block_multiple_of": 256,
    }


def generation_config_to_json(config: LFM2Config) -> dict[str, Any]:
    """Token ids that `generate` needs; transformers' own default for the end of text is not LFM2's."""
    return {"_from_model_config": False, **_ids(config)}


def _ids(config: LFM2Config) -> dict[str, int]:
    return {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }


def feed_forward_width(document: Mapping[str, Any]) -> int:
    """The feed-forward width that a config file means.

    With `block_auto_adjust_ff_dim` (on when absent) the number is cut to two thirds and, unless the multiplier is null,
    multiplied and rounded up to `block_multiple_of`: 6656 -> 4608.
    """
    width = get(document, "block_ff_dim", get(document, "intermediate_size", _DEFAULTS["intermediate_size"]))
    if get(document, "block_auto_adjust_ff_dim", True):
        width = int(2 * width / 3)
        multiplier = document.get("block_ffn_dim_multiplier", 1.0)
        if multiplier is not None:
            multiple = get(document, "block_multiple_of", 256)
            width = multiple * -(-int(multiplier * width) // multiple)
    return width


def config_from_json(document: Mapping[str, Any], source: object) -> LFM2Config:
    """Read a released or exported configuration, legacy keys included (`block_ff_dim`, `full_attn_idxs`, ...).

    Layer types beyond `num_hidden_layers` are ignored (a released export has one too many).

    Args:
      document: its `model_type` is one of `CLASSES`.

    Raises:
      CheckpointError: a feature that LFM2 has not, or inconsistent numbers; names the file.
    """
    kind = document["model_type"]
    if kind == "lfm3":
        try:
            return lfm3_from_json(document, source)
        except ConfigError as error:
            raise CheckpointError(f"{source}: {error}") from error
    mixture = kind == "lfm2_moe"
    problems = [f"{key} is {document[key]!r}, {why}" for key, good, why in _FIXED if document.get(key, good) != good]
    rope, scaling = _rope(document)
    if scaling not in (None, "default"):
        problems.append(f"rope type is {scaling!r}, only the default (unscaled) rotary embedding is supported")
    if problems:
        raise CheckpointError(f"{source}: " + "; ".join(problems) + ".")
    defaults = _DEFAULTS | (_MIXTURE_DEFAULTS if mixture else {})
    value = {key: get(document, key, default) for key, default in defaults.items()}
    ids: dict[str, Any] = {key: _one_id(get(document, key, default)) for key, default in _DEFAULT_IDS.items()}
    experts = {key: get(document, key, default) for key, default in _EXPERT_DEFAULTS.items()} if mixture else {}
    heads = value["num_attention_heads"]
    try:
        return LFM2Config(
            vocab_size=value["vocab_size"],
            hidden_size=value["hidden_size"],
            intermediate_size=value["intermediate_size"] if mixture else feed_forward_width(document),
            num_attention_heads=heads,
            num_key_value_heads=value["num_key_value_heads"],
            head_dim=get(document, "head_dim", value["hidden_size"] // heads),
            layer_types=_layer_types(document, value["num_hidden_layers"], source),
            conv_kernel=value["conv_L_cache"],
            rope_theta=float(rope),
            norm_eps=value["norm_eps"],
            initializer_range=value["initializer_range"],
            max_position_embeddings=value["max_position_embeddings"],
            **experts,
            **ids,
        )
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}") from error


_FIXED = (
    ("tie_word_embeddings", True, "but LFM2 ties the output matrix to the embedding"),
    ("tie_embedding", True, "but LFM2 ties the output matrix to the embedding"),
    ("conv_bias", False, "but LFM2 has no biases"),
)


def _rope(document: Mapping[str, Any]) -> tuple[float, str | None]:
    parameters = document.get("rope_parameters") or document.get("rope_scaling") or {}
    legacy = get(document, "rope_theta", get(document, "theta", _DEFAULTS["rope_theta"]))
    return get(parameters, "rope_theta", legacy), parameters.get("rope_type", parameters.get("type"))


def _layer_types(document: Mapping[str, Any], layers: int, source: object) -> tuple[str, ...]:
    kinds = document.get("layer_types")
    if kinds is None:
        attention = get(document, "full_attn_idxs", range(layers))
        return tuple("full_attention" if i in attention else "conv" for i in range(layers))
    if len(kinds) < layers:
        raise CheckpointError(f"{source}: layer_types has {len(kinds)} entries for {layers} layers.")
    return tuple(kinds[:layers])


def _one_id(value: int | list[int]) -> int:
    """Several end ids are possible in a file; the first one is the model's own."""
    return value[0] if isinstance(value, list) else value
