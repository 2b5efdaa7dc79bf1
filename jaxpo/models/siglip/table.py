"""The tower's parameter table."""

from __future__ import annotations

from jaxpo.models.siglip.config import SiglipConfig
from jaxpo.models.spec import TRANSPOSE, Param, Table, normal, ones, zeros

_MATRIX = ((0,), (1,))


def layer_norm_table(size: int, hf: str) -> Table:
    """Weight and bias of a layer norm, `[size]`."""
    return {
        "weight": Param((size,), ("norm",), ones, f"{hf}.weight", decay=False),
        "bias": Param((size,), ("norm",), zeros, f"{hf}.bias", decay=False),
    }


def linear_table(
    n_in: int, n_out: int, axes: tuple[str | None, str | None], std: float, hf: str, *, bias: bool = True
) -> Table:
    """A projection `[n_in, n_out]` and what is added to it."""
    weight = Param((n_in, n_out), axes, normal(std), f"{hf}.weight", TRANSPOSE, muon=_MATRIX)
    return {
        "weight": weight,
        **({"bias": Param((n_out,), (axes[1],), zeros, f"{hf}.bias", decay=False)} if bias else {}),
    }


def siglip_table(config: SiglipConfig, hf: str) -> Table:
    """`patch_embedding`, `position_embedding`, `layers/0..L-1`, `post_layernorm`; the position table is not decayed.

    Args:
      hf: what the names of its tensors begin with.
    """
    d, f, std = config.hidden_size, config.intermediate_size, config.initializer_range

    def layer(i: int) -> Table:
        name = f"{hf}.encoder.layers.{i}"
        inwards = {
            each: linear_table(d, d, ("embed", "heads"), std, f"{name}.self_attn.{each}")
            for each in ("q_proj", "k_proj", "v_proj")
        }
        return {
            "layer_norm1": layer_norm_table(d, f"{name}.layer_norm1"),
            "self_attn": {
                **inwards,
                "out_proj": linear_table(d, d, ("heads", "embed"), std, f"{name}.self_attn.out_proj"),
            },
            "layer_norm2": layer_norm_table(d, f"{name}.layer_norm2"),
            "mlp": {
                "fc1": linear_table(d, f, ("embed", "mlp"), std, f"{name}.mlp.fc1"),
                "fc2": linear_table(f, d, ("mlp", "embed"), std, f"{name}.mlp.fc2"),
            },
        }

    embeddings = f"{hf}.embeddings"
    positions = Param(
        (config.num_patches, d), (None, "embed"), normal(std), f"{embeddings}.position_embedding.weight", decay=False
    )
    return {
        "patch_embedding": linear_table(config.patch_values, d, (None, "embed"), std, f"{embeddings}.patch_embedding"),
        "position_embedding": {"weight": positions},
        "layers": {str(i): layer(i) for i in range(config.num_hidden_layers)},
        "post_layernorm": layer_norm_table(d, f"{hf}.post_layernorm"),
    }
