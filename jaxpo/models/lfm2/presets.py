"""The released sizes of each generation, dense and with experts, and some that train on a laptop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jaxpo.models.family import preset
from jaxpo.models.lfm2.config import LFM2Config

__all__ = ["PRESETS", "lfm3_layer_types", "preset"]


def _pattern(layers: int, attention: tuple[int, ...]) -> tuple[str, ...]:
    return tuple("full_attention" if i in attention else "conv" for i in range(layers))


def lfm3_layer_types(layers: int) -> tuple[str, ...]:
    """Every fourth layer sees everything (from 2 on), every fourth its window (from 4 on), the others convolve."""
    special = {2: "full_attention", 0: "sliding_attention"}
    return tuple(special.get(i % 4, "conv") if i else "conv" for i in range(layers))


_SIXTEEN = _pattern(16, (2, 5, 8, 10, 12, 14))
_THIRTY = _pattern(30, (2, 5, 9, 13, 17, 21, 24, 27))

_NANO = LFM2Config(
    vocab_size=4096,
    hidden_size=192,
    intermediate_size=512,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=32,
    layer_types=_pattern(6, (2, 4)),
    initializer_range=0.04,
    max_position_embeddings=4096,
)
_LFM3: dict[str, Any] = {
    "model_type": "lfm3",
    "conv_kernel": 7,
    "partial_rotary_factor": 0.5,
    "sandwich_norm": True,
    "attention_gate": True,
}

PRESETS: dict[str, LFM2Config] = {
    # 2.5 million parameters beside the embedding; the vocabulary follows the tokenizer at run time. The wider
    # initial matrices make up for the narrow model: 0.02 is meant for a width of 1,024 and more.
    "nano": _NANO,
    "lfm2_350m": LFM2Config(
        hidden_size=1024,
        intermediate_size=4608,
        num_attention_heads=16,
        layer_types=_SIXTEEN,
    ),
    "lfm2_700m": LFM2Config(
        hidden_size=1536,
        intermediate_size=6912,
        num_attention_heads=24,
        layer_types=_SIXTEEN,
    ),
    "lfm2_1_2b": LFM2Config(
        hidden_size=2048,
        intermediate_size=8192,
        num_attention_heads=32,
        layer_types=_SIXTEEN,
    ),
    "lfm2_2_6b": LFM2Config(
        hidden_size=2048,
        intermediate_size=10752,
        num_attention_heads=32,
        layer_types=_THIRTY,
    ),
    "nano_lfm3": replace(
        _NANO,
        num_attention_heads=4,
        layer_types=lfm3_layer_types(6),
        sliding_window=32,
        **_LFM3,
    ),
    "lfm3_1_7b": LFM2Config(
        vocab_size=128_000,
        hidden_size=2048,
        intermediate_size=7680,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=128,
        layer_types=lfm3_layer_types(24),
        sliding_window=256,
        pad_token_id=124_893,
        bos_token_id=124_894,
        eos_token_id=124_900,
        **_LFM3,
    ),
    # As nano, with 8 experts of which each token uses 2: as many active parameters, 2.4 times as many in all.
    "nano_moe": replace(
        _NANO,
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=256,
    ),
    "lfm2_8b_a1b": LFM2Config(
        hidden_size=2048,
        intermediate_size=7168,
        num_attention_heads=32,
        layer_types=_pattern(24, (2, 6, 10, 14, 18, 21)),
        num_experts=32,
        moe_intermediate_size=1792,
    ),
    "lfm2_24b_a2b": LFM2Config(
        hidden_size=2048,
        intermediate_size=11776,
        num_attention_heads=32,
        layer_types=_pattern(40, tuple(range(2, 40, 4))),
        num_experts=64,
        moe_intermediate_size=1536,
    ),
}
