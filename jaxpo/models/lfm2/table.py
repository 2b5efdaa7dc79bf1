"""LFM2's and LFM3's parameter table: shapes, axes, initialisers and Hugging Face names, declared once."""

from __future__ import annotations

import dataclasses

from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.experts import active_fraction, experts_table
from jaxpo.models.lfm2.feed_forward import feed_forward_table
from jaxpo.models.lfm2.mixers import MIXERS
from jaxpo.models.lfm2.params import norm
from jaxpo.models.parts import Flops, Part
from jaxpo.models.spec import Param, Table, leaves, normal


def _layer_table(config: LFM2Config, index: int, kind: str, hf: str) -> Table:
    fed = experts_table if config.is_mixture(index) else feed_forward_table
    mixer = MIXERS[kind]
    after = ("post_operator_norm", "post_ffn_norm") if config.sandwich_norm else ()
    return {
        "operator_norm": norm(config.hidden_size, f"{hf}.operator_norm.weight"),
        mixer.name: mixer.table(config, f"{hf}.{mixer.name}"),
        "ffn_norm": norm(config.hidden_size, f"{hf}.ffn_norm.weight"),
        "feed_forward": fed(config, f"{hf}.feed_forward"),
        **{name: norm(config.hidden_size, f"{hf}.{name}.weight") for name in after},
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
        "embedding_norm": norm(d, "model.embedding_norm.weight"),
        **({} if config.tie_word_embeddings else {"lm_head": {"weight": head}}),
    }


def flops_per_token(config: LFM2Config, context: float) -> Flops:
    """The matrices (the output matrix once, a separate embedding not, of E experts k), and what the mixers add."""
    active = {path: p.size * active_fraction(p, config) for path, p in leaves(param_table(config)) if len(p.shape) > 1}
    head = "embed_tokens/weight" if config.tie_word_embeddings else "lm_head/weight"
    parts = (
        Part(("embed_tokens/",), {}),
        *(_layer_part(config, i, kind, context, active) for i, kind in enumerate(config.layer_types)),
        Part(("embedding_norm/", "lm_head/"), {head: active[head]}),
    )
    entries = sum(sum(part.matrices.values()) for part in parts)
    return Flops(entries, sum(part.mixing for part in parts), parts)


def _layer_part(config: LFM2Config, index: int, kind: str, context: float, active: dict[str, float]) -> Part:
    name = f"layers/{index}/"
    inside = {path: entries for path, entries in active.items() if path.startswith(name)}
    return Part((name,), inside, MIXERS[kind].flops(config, context))
