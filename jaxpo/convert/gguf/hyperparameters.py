"""A model's configuration as the keys of a GGUF file, and back; what the format cannot say is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.convert.config_json import config_from_json
from jaxpo.errors import CheckpointError
from jaxpo.models.document import shown
from jaxpo.models.retrieval import VectorHead

DENSE, MIXTURE = "lfm2", "lfm2moe"
ENCODER = "Lfm2BidirectionalForMaskedLM"
"""The class by which a config.json says that the model looks both ways."""
POOLING = {"tokens": "NONE", "mean": "MEAN", "cls": "CLS", "last": "LAST"}
"""llama.cpp's names of what is made of the states of a text; with none there is a vector for each token."""
SIGMOID = 2
"""`expert_gating_func`: the router's scores pass a sigmoid."""

# key under the architecture -> (field of the configuration, key of config.json, type)
_SHARED = {
    "context_length": ("max_position_embeddings", "max_position_embeddings", "UINT32"),
    "embedding_length": ("hidden_size", "hidden_size", "UINT32"),
    "feed_forward_length": ("intermediate_size", "intermediate_size", "UINT32"),
    "attention.head_count": ("num_attention_heads", "num_attention_heads", "UINT32"),
    "attention.key_length": ("head_dim", "head_dim", "UINT32"),
    "attention.layer_norm_rms_epsilon": ("norm_eps", "norm_eps", "FLOAT32"),
    "rope.freq_base": ("rope_theta", "rope_theta", "FLOAT32"),
    "vocab_size": ("vocab_size", "vocab_size", "UINT32"),
    "shortconv.l_cache": ("conv_kernel", "conv_L_cache", "UINT32"),
}
_EXPERTS = {
    "expert_count": ("num_experts", "num_experts", "UINT32"),
    "expert_used_count": ("num_experts_per_tok", "num_experts_per_tok", "UINT32"),
    "expert_feed_forward_length": ("moe_intermediate_size", "moe_intermediate_size", "UINT32"),
    "leading_dense_block_count": ("num_dense_layers", "num_dense_layers", "UINT32"),
}
# Absent from files of other writers, which leave them to llama.cpp: the head's width is then hidden_size / heads.
_OPTIONAL = {"attention.key_length", "vocab_size"}


def architecture(config: Any) -> str:
    """llama.cpp's name of the model."""
    return MIXTURE if config.num_experts else DENSE


def inexpressible(config: Any) -> list[str]:
    """What the model has that llama.cpp's LFM2 has not; empty = it can be written."""
    if config.model_type == "lfm2_vl":
        return ["model.model_type is 'lfm2_vl', whose tower llama.cpp takes from a file of its own that is not written"]
    if config.model_type != "lfm2":
        parts = {
            "attention_gate": config.attention_gate,
            "sandwich_norm": config.sandwich_norm,
            "sliding_attention layers": "sliding_attention" in config.layer_types,
            "partial_rotary_factor": config.partial_rotary_factor != 1,
            "an output matrix of its own": not config.tie_word_embeddings,
        }
        has = ", ".join(name for name, there in parts.items() if there) or "its blocks"
        return [f"model.model_type is {config.model_type!r} ({has}), which llama.cpp does not run"]
    problems = []
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        problems.append(
            f"model.head_dim is {config.head_dim}; llama.cpp's is hidden_size / num_attention_heads, "
            f"{config.hidden_size / config.num_attention_heads:g}"
        )
    if config.conv_kernel < 2:
        problems.append(
            f"model.conv_kernel is {config.conv_kernel}; llama.cpp's short convolution has two taps or more"
        )
    if config.num_experts and not config.norm_topk_prob:
        problems.append("model.norm_topk_prob is off, and llama.cpp always divides by the sum of the selected weights")
    if config.num_experts and config.routed_scaling_factor != 1:
        problems.append(
            f"model.routed_scaling_factor is {config.routed_scaling_factor:g}; llama.cpp's lfm2moe knows only 1"
        )
    return problems


def inexpressible_head(head: VectorHead, layers: Mapping[str, Any]) -> list[str]:
    """What a retriever makes of hidden states and llama.cpp's LFM2 does not; empty = it can be written."""
    if not head.activations:
        return []
    if head.activations != ("identity",) or set(layers["0"]) != {"weight"}:
        return ["llama.cpp runs one dense layer of a retriever, without bias, activation and residual"]
    if head.pooling != "tokens":
        return ["llama.cpp runs a retriever's dense layer where every token has a vector, and here a text has one"]
    return []


def write_hyperparameters(writer: Any, config: Any, library: Any, head: VectorHead | None = None) -> None:
    """Add the keys to a `GGUFWriter`.

    Args:
      head: how a retriever makes vectors of hidden states.
    """
    fields = _SHARED | (_EXPERTS if config.num_experts else {})
    for key, (field, _, kind) in fields.items():
        writer.add_key_value(f"{writer.arch}.{key}", getattr(config, field), library.GGUFValueType[kind])
    writer.add_value_length(config.head_dim)
    writer.add_block_count(config.num_hidden_layers)
    # No heads of keys and values: that alone tells a layer of convolution.
    groups = [config.num_key_value_heads if kind == "full_attention" else 0 for kind in config.layer_types]
    writer.add_head_count_kv(groups)
    if not config.causal:
        writer.add_causal_attention(False)
    if head is not None:
        writer.add_pooling_type(library.PoolingType[POOLING[head.pooling]])
    if config.num_experts:
        writer.add_expert_gating_func(library.ExpertGatingFuncType(SIGMOID))


def read_config(metadata: Mapping[str, Any], biased: bool, file: Path) -> Any:
    """The configuration that a file's keys mean.

    Args:
      biased: whether the file holds routing biases.

    Raises:
      CheckpointError: another architecture, keys that are missing, or a feature that LFM2 has not.
    """
    arch = metadata.get("general.architecture")
    if arch not in (DENSE, MIXTURE):
        raise CheckpointError(
            f"{file}: general.architecture is {shown(arch)}; this importer reads {DENSE!r} and {MIXTURE!r}."
        )
    fields = _SHARED | (_EXPERTS if arch == MIXTURE else {})
    wanted = [*(key for key in fields if key not in _OPTIONAL), "block_count", "attention.head_count_kv"]
    if absent := [f"{arch}.{key}" for key in wanted if f"{arch}.{key}" not in metadata]:
        raise CheckpointError(f"{file}: has no {', '.join(absent)}; convert or copy it again.")
    _refuse_features(metadata, arch, file)
    document: dict[str, Any] = {"model_type": "lfm2_moe" if arch == MIXTURE else "lfm2"}
    document |= {} if metadata.get(f"{arch}.attention.causal", True) else {"architectures": [ENCODER]}
    document |= {
        name: _plain(metadata[f"{arch}.{key}"]) for key, (_, name, _) in fields.items() if f"{arch}.{key}" in metadata
    }
    tokens = metadata.get("tokenizer.ggml.tokens")
    document |= {"vocab_size": len(tokens)} if isinstance(tokens, list) and "vocab_size" not in document else {}
    document |= _layers(metadata, arch, file) | _ids(metadata)
    document |= {"block_auto_adjust_ff_dim": False} if arch == DENSE else {"use_expert_bias": biased}
    config = config_from_json(document, file)
    rotated = metadata.get(f"{arch}.rope.dimension_count", config.head_dim)
    if rotated != config.head_dim:
        raise CheckpointError(
            f"{file}: {arch}.rope.dimension_count is {shown(rotated)}; LFM2 rotates all {config.head_dim} of a head."
        )
    return config


def pooling_of(metadata: Mapping[str, Any], file: Path) -> str | None:
    """What a retriever makes of the states of a text, as `VectorHead.pooling`; None of what is no retriever.

    Raises:
      CheckpointError: something that no retriever here does.
    """
    found = metadata.get(f"{metadata.get('general.architecture')}.pooling_type")
    if found is None:
        return None
    numbers = {"NONE": 0, "MEAN": 1, "CLS": 2, "LAST": 3}
    known = {numbers[theirs]: ours for ours, theirs in POOLING.items()}
    if type(found) is not int or found not in known:
        raise CheckpointError(f"{file}: its pooling_type is {shown(found)}; known are {', '.join(map(str, known))}.")
    return known[found]


def _layers(metadata: Mapping[str, Any], arch: str, file: Path) -> dict[str, Any]:
    """Which layers attend, by the numbers of their heads of keys and values."""
    count, groups = metadata[f"{arch}.block_count"], metadata[f"{arch}.attention.head_count_kv"]
    if not isinstance(groups, list) or len(groups) != count:
        raise CheckpointError(
            f"{file}: {arch}.attention.head_count_kv is {shown(groups)}; LFM2 gives one number for each of its "
            f"{shown(count)} layers, 0 where there is a convolution."
        )
    some = sorted({n for n in groups if n != 0}, key=str)
    if len(some) > 1:
        raise CheckpointError(f"{file}: {arch}.attention.head_count_kv names {shown(some)}; LFM2's are all alike.")
    kinds = ["full_attention" if n else "conv" for n in groups]
    return {"num_hidden_layers": count, "layer_types": kinds, "num_key_value_heads": some[0] if some else 1}


def _ids(metadata: Mapping[str, Any]) -> dict[str, Any]:
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    found = {ours: metadata.get(f"tokenizer.ggml.{theirs}_token_id") for ours, theirs in names.items()}
    return {name: value for name, value in found.items() if value is not None}


def _refuse_features(metadata: Mapping[str, Any], arch: str, file: Path) -> None:
    odd = {
        "attention.sliding_window": (0, "its attention sees a window"),
        "rope.scaling.type": ("none", "its rotary embedding is scaled"),
        "expert_gating_func": (SIGMOID, "its router is another"),
        "expert_weights_scale": (1.0, "the weights of its experts are scaled"),
    }
    for key, (plain, why) in odd.items():
        value = metadata.get(f"{arch}.{key}", plain)
        if value != plain:
            raise CheckpointError(
                f"{file}: {arch}.{key} is {shown(value)}: {why}, which LFM2 as it is read here has not."
            )


def _plain(value: Any) -> Any:
    """A float32 as the shortest number that it is the nearest to: 1e-5, not 9.99999974e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value
