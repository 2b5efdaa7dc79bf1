"""The shapes that are measured. Needs nothing but jaxpo's configuration, for `--device` has little else."""

from __future__ import annotations

from dataclasses import replace

from jaxpo.models.lfm2.config import LFM2Config

C, A = "conv", "full_attention"
CONFIG = LFM2Config(
    vocab_size=8192,
    hidden_size=512,
    intermediate_size=1536,
    num_attention_heads=8,
    num_key_value_heads=4,
    layer_types=(C, C, A, C, C, A, C, A),
)
NARROW = replace(
    CONFIG,
    vocab_size=2048,
    hidden_size=128,
    intermediate_size=384,
    num_attention_heads=4,
    num_key_value_heads=2,
    layer_types=(C, A),
)
"""A quarter of the other's width and depth, where many steps are compiled."""
TINY = LFM2Config(
    vocab_size=128,
    hidden_size=32,
    intermediate_size=64,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    layer_types=(C, A),
)
