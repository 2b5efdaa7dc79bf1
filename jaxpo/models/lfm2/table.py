"""LFM2's and LFM3's parameter table: shapes, axes, initialisers and Hugging Face names, declared once."""

from __future__ import annotations

import dataclasses

from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.experts import experts_table
from jaxpo.models.spec import TRANSPOSE, Layout, Param, Table, normal, ones

_MATRIX = ((0,), (1,))
_PER_GATE = ((0,), (2,))

# B, C and x lie one after another in the released in_proj [3D, D]. An axis of their own keeps a tensor-sharded channel
# axis from running across the three.
GATES = Layout(
    to_disk=lambda x: x.reshape(x.shape[0], -1).T,
    from_disk=lambda x, shape: x.T.reshape(shape),
)
TAPS = Layout(
    to_disk=lambda x: x.T[:, None, :],
    from_disk=lambda x, shape: x[:, 0, :].T,
)


def _norm(size: int, hf: str) -> Table:
    return {"weight": Param((size,), ("norm",), ones, hf, decay=False)}


def _matrix(config: LFM2Config, n_in: int, n_out: int, axes: tuple[str | None, ...], hf: str) -> Table:
    return {"weight": Param((n_in, n_out), axes, normal(config.initializer_range), hf, TRANSPOSE, muon=_MATRIX)}


def conv_table(config: LFM2Config, hf: str) -> Table:
    """Gated short convolution: `in_proj` [D, 3, D], taps [k, D], `out_proj` [D, D]."""
    d, k = config.hidden_size, config.conv_kernel
    std = config.initializer_range
    return {
        "in_proj": {
            "weight": Param(
                (d, 3, d), ("embed", None, "conv"), normal(std), f"{hf}.in_proj.weight", GATES, muon=_PER_GATE
            )
        },
        # A tap's fan-in is k, whatever the width of the model.
        "conv": {"weight": Param((k, d), (None, "conv"), normal(k**-0.5), f"{hf}.conv.weight", TAPS)},
        "out_proj": _matrix(config, d, d, ("conv", "embed"), f"{hf}.out_proj.weight"),
    }


_ATTENTION_NAMES = {
    "lfm2": {"out": "out_proj", "q": "q_layernorm", "k": "k_layernorm"},
    "lfm3": {"out": "o_proj", "q": "q_norm", "k": "k_norm"},
}
"""How the generations call the same things in a file."""


def attention_table(config: LFM2Config, hf: str) -> Table:
    """Grouped-query attention with normalised queries and keys, and perhaps a gate per head."""
    names = _ATTENTION_NAMES[config.model_type]
    d, h = config.hidden_size, config.head_dim
    heads, groups = config.num_attention_heads * h, config.num_key_value_heads * h
    # A few columns: split over devices they would not be worth it, and their number need not be divisible.
    gate = _matrix(config, d, config.num_attention_heads, ("embed", None), f"{hf}.gate_proj.weight")["weight"]
    gate = dataclasses.replace(gate, hf_module=f"{hf}.g_proj")  # transformers renames it when it loads
    return {
        "q_proj": _matrix(config, d, heads, ("embed", "heads"), f"{hf}.q_proj.weight"),
        "k_proj": _matrix(config, d, groups, ("embed", "kv_heads"), f"{hf}.k_proj.weight"),
        "v_proj": _matrix(config, d, groups, ("embed", "kv_heads"), f"{hf}.v_proj.weight"),
        "out_proj": _matrix(config, heads, d, ("heads", "embed"), f"{hf}.{names['out']}.weight"),
        "q_layernorm": _norm(h, f"{hf}.{names['q']}.weight"),
        "k_layernorm": _norm(h, f"{hf}.{names['k']}.weight"),
        **({"gate_proj": {"weight": gate}} if config.attention_gate else {}),
    }


def feed_forward_table(config: LFM2Config, hf: str) -> Table:
    """SwiGLU: `w1` gate, `w3` up, `w2` down."""
    d, f = config.hidden_size, config.intermediate_size
    return {
        "w1": _matrix(config, d, f, ("embed", "mlp"), f"{hf}.w1.weight"),
        "w2": _matrix(config, f, d, ("mlp", "embed"), f"{hf}.w2.weight"),
        "w3": _matrix(config, d, f, ("embed", "mlp"), f"{hf}.w3.weight"),
    }


MIXER_TABLES = {
    "conv": ("conv", conv_table),
    "full_attention": ("self_attn", attention_table),
    "sliding_attention": ("self_attn", attention_table),
}
"""Layer type -> (name of the mixer's subtree, its table)."""


def _layer_table(config: LFM2Config, index: int, kind: str, hf: str) -> Table:
    fed = experts_table if config.is_mixture(index) else feed_forward_table
    name, mixer = MIXER_TABLES[kind]
    after = ("post_operator_norm", "post_ffn_norm") if config.sandwich_norm else ()
    return {
        "operator_norm": _norm(config.hidden_size, f"{hf}.operator_norm.weight"),
        name: mixer(config, f"{hf}.{name}"),
        "ffn_norm": _norm(config.hidden_size, f"{hf}.ffn_norm.weight"),
        "feed_forward": fed(config, f"{hf}.feed_forward"),
        **{norm: _norm(config.hidden_size, f"{hf}.{norm}.weight") for norm in after},
    }


def param_table(config: LFM2Config) -> Table:
    """The whole model: `embed_tokens`, `layers/0..L-1`, `embedding_norm` (the final norm, whatever its name says).

    The output matrix is the embedding if tied; otherwise it is `lm_head` [V, D]. Weight decay applies to everything but
    norm weights. Muon sees each gate of `in_proj` as a matrix of its own; embedding, `lm_head` and taps stay on AdamW.
    """
    v, d = config.vocab_size, config.hidden_size
    embedding = Param((v, d), ("vocab", "embed"), normal(config.initializer_range), "model.embed_tokens.weight")
    head = dataclasses.replace(embedding, hf="lm_head.weight")
    return {
        "embed_tokens": {"weight": embedding},
        "layers": {
            str(i): _layer_table(config, i, kind, f"model.layers.{i}") for i, kind in enumerate(config.layer_types)
        },
        "embedding_norm": _norm(d, "model.embedding_norm.weight"),
        **({} if config.tie_word_embeddings else {"lm_head": {"weight": head}}),
    }
