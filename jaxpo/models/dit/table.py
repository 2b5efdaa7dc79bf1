"""The parameter table of a diffusion transformer: paths are the names that diffusers' modules have."""

from __future__ import annotations

import numpy as np

from jaxpo.models.caption.table import text_tables
from jaxpo.models.denoising import attention_table, time_table
from jaxpo.models.dit.config import DiTConfig
from jaxpo.models.siglip.table import linear_table
from jaxpo.models.spec import Layout, Param, Table, normal, zeros

TIME_CHANNELS = 256
"""Width of the embedding of a time, before it is mapped to the model's."""
MLP_RATIO = 4


def patch_layout(patch: int, channels: int) -> Layout:
    """A matrix `[P P C, D]` of patches (row, column, channel) is a convolution `[D, C, P, P]` on disk."""

    def to_disk(x: np.ndarray) -> np.ndarray:
        return x.reshape(patch, patch, channels, -1).transpose(3, 2, 0, 1)

    def from_disk(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return x.transpose(2, 3, 1, 0).reshape(shape)

    return Layout(to_disk, from_disk)


def glorot(n_in: int, n_out: int) -> float:
    """`(2 / (in + out))^1/2` (Glorot and Bengio 2010), as released diffusion transformers begin."""
    return float((2 / (n_in + n_out)) ** 0.5)


def _block(config: DiTConfig, index: int) -> Table:
    d, name = config.width, f"transformer_blocks.{index}"
    std, wide = glorot(d, d), glorot(d, MLP_RATIO * d)
    return {
        "scale_shift_table": Param((6, d), (None, "embed"), zeros, f"{name}.scale_shift_table", decay=False),
        "attn1": attention_table(d, d, f"{name}.attn1", bias=True, std=std, out_std=std),
        "attn2": attention_table(d, d, f"{name}.attn2", bias=True, user=config.user_channels, std=std),
        "ff": {
            "net": {
                "0": {"proj": linear_table(d, MLP_RATIO * d, ("embed", "mlp"), wide, f"{name}.ff.net.0.proj")},
                "2": linear_table(MLP_RATIO * d, d, ("mlp", "embed"), wide, f"{name}.ff.net.2"),
            }
        },
    }


def param_table(config: DiTConfig) -> Table:
    """The whole model, `caption` (the text tower, where there is one) among it.

    A fresh one gives zeros and its blocks pass their input on: the last projection, the gates of the adaptive norm and
    what attention to the text adds begin at zero. Weight decay applies to matrices alone.
    """
    d, patch = config.width, config.patch_size**2 * config.in_channels
    patches = Param(
        (patch, d), (None, "embed"), normal(glorot(patch, d)), "pos_embed.proj.weight",
        patch_layout(config.patch_size, config.in_channels),
    )  # fmt: skip
    out = config.patch_size**2 * config.out_channels
    return {
        "pos_embed": {
            "proj": {"weight": patches, "bias": Param((d,), ("embed",), zeros, "pos_embed.proj.bias", decay=False)}
        },
        "adaln_single": {
            "emb": {"timestep_embedder": time_table(TIME_CHANNELS, d, "adaln_single.emb.timestep_embedder")},
            "linear": linear_table(d, 6 * d, (None, "embed"), 0.0, "adaln_single.linear"),
        },
        "caption_projection": {
            "linear_1": linear_table(
                config.caption_channels, d, (None, "embed"), glorot(config.caption_channels, d),
                "caption_projection.linear_1",
            ),
            "linear_2": linear_table(d, d, (None, "embed"), glorot(d, d), "caption_projection.linear_2"),
        },
        "transformer_blocks": {str(i): _block(config, i) for i in range(config.num_layers)},
        "scale_shift_table": Param((2, d), (None, "embed"), zeros, "scale_shift_table", decay=False),
        "proj_out": linear_table(d, out, ("embed", None), 0.0, "proj_out"),
        **text_tables(config),
    }  # fmt: skip
