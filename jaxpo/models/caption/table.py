"""The text tower's parameter table."""

from __future__ import annotations

from jaxpo.models.caption.config import CaptionConfig
from jaxpo.models.siglip.table import layer_norm_table, linear_table
from jaxpo.models.spec import Param, Table, normal


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
