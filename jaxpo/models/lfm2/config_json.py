"""`config.json` and `generation_config.json` of an LFM2, dense or with experts (LFM3: `config_lfm3`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.document import Document
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.config_lfm3 import lfm3_from_json, lfm3_to_json
from jaxpo.models.lfm2.config_sizes import MOST, layers_of

CLASSES = {"lfm2": "Lfm2", "lfm2_moe": "Lfm2Moe", "lfm3": "Lfm3"}
"""`model_type` in a file -> what the names of the classes begin with that transformers loads."""

BIDIRECTIONAL = "Bidirectional"
"""Part of the architecture's name by which the released encoders say that they look both ways."""
MASKED_LM = f"{BIDIRECTIONAL}ForMaskedLM"
"""What follows a family's name in the class of a model that looks both ways and fills blanks."""
ENDINGS = (
    "ForCausalLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "Model",
    f"{BIDIRECTIONAL}Model",
    MASKED_LM,
)
"""Of the classes that a file may name; "Model" is saved without the head, which is tied."""

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
# Keys of the released dense files that transformers computes nothing with. mlx-lm and vLLM size their layers by
# `block_dim` and `conv_dim`, and stricter readers refuse a file that lacks any of the others.
_RELEASED: dict[str, Any] = {
    "block_mlp_init_scale": 1.0,
    "block_out_init_scale": 1.0,
    "block_use_swiglu": True,
    "block_use_xavier_init": True,
    "conv_use_xavier_init": True,
    "use_pos_enc": True,
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
        "architectures": [f"{CLASSES[kind]}{'ForCausalLM' if config.causal else MASKED_LM}"],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        **_kind_keys(config),
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
        "use_cache": config.causal,
        **_ids(config),
        "dtype": dtype,
    }
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        document["head_dim"] = config.head_dim
    return document


def _kind_keys(config: LFM2Config) -> dict[str, Any]:
    if config.num_experts:
        return {key: getattr(config, key) for key in _EXPERT_DEFAULTS}
    return {
        "block_dim": config.hidden_size,
        "block_ff_dim": config.intermediate_size,
        "block_auto_adjust_ff_dim": False,
        "block_ffn_dim_multiplier": 1.0,
        "block_multiple_of": 256,
        "block_norm_eps": config.norm_eps,
        "conv_dim": config.hidden_size,
        "num_heads": config.num_attention_heads,
        **_RELEASED,
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


def feed_forward_width(read: Document) -> int:
    """The feed-forward width that a dense config file means: 6656 -> 4608.

    With `block_auto_adjust_ff_dim` (on when absent) the number in the file is cut to two thirds and, unless the
    multiplier is null, multiplied and rounded up to `block_multiple_of`.
    """
    most = MOST["intermediate_size"]
    width = read.integer(("block_ff_dim", "intermediate_size"), _DEFAULTS["intermediate_size"], most=most)
    if not read.flag("block_auto_adjust_ff_dim", True):
        return width
    multiplier = read.number("block_ffn_dim_multiplier", 1.0)
    multiple = read.integer("block_multiple_of", 256, most=most)
    width = int(2 * width / 3)
    if "block_ffn_dim_multiplier" in read.values and read.values["block_ffn_dim_multiplier"] is None:
        return width
    adjusted = multiple * -(-int(multiplier * width) // multiple)
    if not 0 < adjusted <= most:
        return read.wrong("block_ffn_dim_multiplier", multiplier, f"such that the width stays below {most:,}", width)
    return adjusted


def config_from_json(document: Mapping[str, Any], source: object) -> LFM2Config:
    """Read a released or exported configuration, legacy keys included (`block_ff_dim`, `full_attn_idxs`, ...).

    Layer types beyond `num_hidden_layers` are ignored (a released export has one too many).

    Args:
      document: its `model_type` is one of `CLASSES`.

    Raises:
      CheckpointError: a feature that LFM2 has not, or inconsistent, absurd or mistyped values; names the file and all
        of them.
    """
    read = Document(document)
    values = lfm3_from_json(read) if document["model_type"] == "lfm3" else _lfm2_from_json(read)
    read.check(source)
    try:
        return LFM2Config(**values)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _lfm2_from_json(read: Document) -> dict[str, Any]:
    """The fields of the configuration, dense or with experts; problems are left in the document."""
    mixture = read.values["model_type"] == "lfm2_moe"
    for key, good, why in _FIXED:
        read.only(key, good, why)
    defaults = _DEFAULTS | (_MIXTURE_DEFAULTS if mixture else {})
    sizes = {key: read.integer(key, defaults[key], most=MOST[key]) for key in _SIZES}
    read.agree("norm_eps", "block_norm_eps")
    experts = _experts(read) if mixture else {}
    width = read.integer("intermediate_size", defaults["intermediate_size"], most=MOST["intermediate_size"])
    head_dim = max(1, sizes["hidden_size"] // sizes["num_attention_heads"])
    return {
        **sizes,
        **experts,
        **{key: read.end_ids(key, default)[0] for key, default in _DEFAULT_IDS.items()},
        "intermediate_size": width if mixture else feed_forward_width(read),
        "head_dim": read.integer("head_dim", head_dim, most=MOST["hidden_size"]),
        "layer_types": _layer_types(read, experts.get("num_experts", 1)),
        "conv_kernel": read.integer("conv_L_cache", defaults["conv_L_cache"], most=MOST["conv_L_cache"]),
        "rope_theta": _theta(read),
        "norm_eps": read.number(("norm_eps", "block_norm_eps"), defaults["norm_eps"]),
        "initializer_range": read.number("initializer_range", defaults["initializer_range"]),
        "causal": not looks_both_ways(read.values),
    }


def looks_both_ways(document: Mapping[str, Any]) -> bool:
    """Whether a config.json is an encoder's: only the name of the architecture says it."""
    names = document.get("architectures") or []
    return BIDIRECTIONAL in str(next(iter(names), "") if isinstance(names, list) else names)


_SIZES = ("vocab_size", "hidden_size", "num_attention_heads", "num_key_value_heads", "max_position_embeddings")
_FIXED = (
    ("tie_word_embeddings", True, "LFM2 ties the output matrix to the embedding"),
    ("tie_embedding", True, "LFM2 ties the output matrix to the embedding"),
    ("conv_bias", False, "LFM2 has no biases"),
    ("block_use_swiglu", True, "LFM2's feed-forward is gated"),
    ("use_pos_enc", True, "LFM2's attention rotates queries and keys"),
)


def _experts(read: Document) -> dict[str, Any]:
    counts = {"num_experts": 1, "num_experts_per_tok": 1, "moe_intermediate_size": 1, "num_dense_layers": 0}
    default = _EXPERT_DEFAULTS
    return {
        **{key: read.integer(key, default[key], least=least, most=MOST[key]) for key, least in counts.items()},
        **{key: read.flag(key, default[key]) for key in ("norm_topk_prob", "use_expert_bias")},
        "routed_scaling_factor": read.number("routed_scaling_factor", default["routed_scaling_factor"]),
    }


def _theta(read: Document) -> float:
    """Base of the rotary embedding, wherever a version of transformers put it; a scaled embedding is a problem."""
    read.agree("rope_theta", "theta")
    outer = read.number(("rope_theta", "theta"), _DEFAULTS["rope_theta"])
    # transformers 5 writes `rope_parameters`, 4 `rope_scaling`; in between, one object per type of layer.
    rope = read.part("rope_scaling" if read.values.get("rope_scaling") else "rope_parameters")
    if "full_attention" in rope.values:
        rope = rope.part("full_attention")
    for key in ("rope_type", "type"):
        rope.only(key, "default", "only the default (unscaled) rotary embedding is supported")
    rope.only("partial_rotary_factor", 1.0, "LFM2 rotates the whole head")
    return rope.number("rope_theta", outer)


def _layer_types(read: Document, experts: int) -> tuple[str, ...]:
    layers = layers_of(read, _DEFAULTS["num_hidden_layers"], experts)
    attention = set(read.integers("full_attn_idxs", range(layers), most=MOST["num_hidden_layers"]))
    if outside := sorted(i for i in attention if i >= layers):
        read.wrong("full_attn_idxs", outside[0], f"layers below {layers}", ())
    default = ["full_attention" if i in attention else "conv" for i in range(layers)]
    kinds = read.words("layer_types", default, most=MOST["num_hidden_layers"])
    if len(kinds) < layers:
        read.problems.append(f"layer_types has {len(kinds)} entries for {layers} layers")
    return kinds[:layers]
