"""The parameter tables of the text tower, and of the adapter of a second encoder's states."""

from __future__ import annotations

from jaxpo.config.text_adapter import TextAdapter
from jaxpo.models.caption.config import CaptionConfig
from jaxpo.models.family import DenoiserConfig
from jaxpo.models.siglip.table import layer_norm_table, linear_table
from jaxpo.models.spec import Param, Table, normal

TEXT_ADAPTER = "text_adapter"


def caption_table(config: CaptionConfig) -> Table:
    """`token_embedding`, `position_embedding`, `layers/0..L-1`, `final_layer_norm`.

    A projection's initial standard deviation is `(2 / (in + out))^1/2` (Glorot and Bengio 2010), that of the embeddings
    1 / sqrt(D).
    """
    d, f = config.hidden_size, config.intermediate_size

    def lookup(rows: int, axis: str | None, hf: str) -> Table:
        return {"weight": Param((rows, d), (axis, "embed"), normal(d**-0.5), f"{hf}.weight", decay=False)}

    def layer(i: int) -> Table:
        name, std = f"caption.layers.{i}", d**-0.5
        inwards = {
            each: linear_table(d, d, ("embed", "heads"), std, f"{name}.self_attn.{each}")
            for each in ("q_proj", "k_proj", "v_proj")
        }
        out = linear_table(d, d, ("heads", "embed"), std, f"{name}.self_attn.out_proj")
        wide = (2 / (d + f)) ** 0.5
        return {
            "layer_norm1": layer_norm_table(d, f"{name}.layer_norm1"),
            "self_attn": {**inwards, "out_proj": out},
            "layer_norm2": layer_norm_table(d, f"{name}.layer_norm2"),
            "mlp": {
                "fc1": linear_table(d, f, ("embed", "mlp"), wide, f"{name}.mlp.fc1"),
                "fc2": linear_table(f, d, ("mlp", "embed"), wide, f"{name}.mlp.fc2"),
            },
        }

    return {
        "token_embedding": lookup(config.vocab_size, "vocab", "caption.token_embedding"),
        "position_embedding": lookup(config.max_length, None, "caption.position_embedding"),
        # Without a layer there is no such entry: a tree of arrays has no empty part.
        **({"layers": {str(i): layer(i) for i in range(n)}} if (n := config.num_hidden_layers) else {}),
        "final_layer_norm": layer_norm_table(d, "caption.final_layer_norm"),
    }


def text_adapter_table(config: TextAdapter, width: int) -> Table:
    """`layers/0` and `layers/1`: a norm and a gated feed-forward layer each, the first from the second encoder's width.

    Args:
      width: of a text's states, which the denoiser reads.
    """
    inner = config.intermediate_size

    def layer(i: int, n_in: int) -> Table:
        name = f"{TEXT_ADAPTER}.layers.{i}"
        return {
            "norm": layer_norm_table(n_in, f"{name}.norm"),
            "proj": linear_table(n_in, 2 * inner, ("embed", "mlp"), n_in**-0.5, f"{name}.proj"),
            "out": linear_table(inner, width, ("mlp", "embed"), inner**-0.5, f"{name}.out"),
        }

    return {"layers": {"0": layer(0, config.channels), "1": layer(1, width)}}


def text_tables(config: DenoiserConfig) -> Table:
    """What a denoiser has for its texts: `caption`, the tower, and `text_adapter`, each where it has one."""
    found: dict[str, Table] = {}
    if config.caption is not None:
        found["caption"] = caption_table(config.caption)
    if config.text_adapter is not None:
        found[TEXT_ADAPTER] = text_adapter_table(config.text_adapter, config.context_channels)
    return found
