"""Mesh axes and the default rules by which logical axes lie on them, as data: checks before any work read them too."""

from __future__ import annotations

from collections.abc import Mapping

Rules = Mapping[str, str | tuple[str, ...] | None]

AXES = ("replica", "fsdp", "expert", "sequence", "tensor")
BATCH_AXES = ("replica", "fsdp", "expert")
"""Mesh axes over which rows of a batch are spread."""
SEQUENCE = "sequence"
"""Mesh axis over which the positions of a row are spread."""

RULES: Rules = {
    # parameters
    "vocab": "tensor",
    "embed": ("fsdp", "expert"),
    "mlp": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "conv": "tensor",
    "norm": None,
    "expert": "expert",
    "expert_embed": "fsdp",
    "expert_mlp": "tensor",
    # activations
    "batch": BATCH_AXES,
    "sequence": SEQUENCE,
    "embed_act": None,
    "mlp_act": "tensor",
    "heads_act": "tensor",
    "kv_heads_act": "tensor",
    "conv_act": "tensor",
    "vocab_act": "tensor",
}
