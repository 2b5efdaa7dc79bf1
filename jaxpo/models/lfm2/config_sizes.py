"""Sizes above which a `config.json` is refused before anything is built: far above every model, below a hang."""

from __future__ import annotations

from jaxpo.models.document import Document

MOST = {
    "vocab_size": 2**24,
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "moe_intermediate_size": 2**20,
    "num_hidden_layers": 1024,
    "num_dense_layers": 1024,
    "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12,
    "num_experts": 2**12,
    "num_experts_per_tok": 2**12,
    "max_position_embeddings": 2**30,
    "conv_L_cache": 2**12,
    "sliding_window": 2**30,
}
MOST_EXPERTS = 2**16
"""Of all layers together: each is three tensors of the file."""


def layers_of(read: Document, default: int, experts: int = 1) -> int:
    """Number of layers; a problem where they and their experts are more than any file could hold."""
    layers = read.integer("num_hidden_layers", default, most=MOST["num_hidden_layers"])
    if layers * experts > MOST_EXPERTS:
        read.problems.append(f"{layers:,} layers of {experts:,} experts are more than {MOST_EXPERTS:,} experts in all")
    return layers
