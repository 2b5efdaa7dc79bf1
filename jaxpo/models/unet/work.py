"""What an image costs in a U-Net."""

from __future__ import annotations

from jaxpo.models.parts import Flops
from jaxpo.models.spec import leaves
from jaxpo.models.unet.config import UNetConfig
from jaxpo.models.unet.table import param_table


def flops_per_image(config: UNetConfig, context: float) -> Flops:
    """One image of `sample_size` with a caption of `context` tokens, without a user.

    A matrix or a convolution counts once for each pixel of its output, or for each token of the caption, or once for
    the time.
    """
    named = [(path, param.size) for path, param in leaves(param_table(config)) if len(param.shape) > 1]
    matrices = sum(size * _uses(path, config, context) for path, size in named)
    attentions = [path for path, _ in named if path.endswith("attn1/to_q/weight")]
    between = sum(
        4 * config.block_out_channels[_level(path, config)] * n * (n + context)
        for path in attentions
        for n in (_pixels(_level(path, config), config),)
    )
    tower = config.caption
    inside = 0.0 if tower is None else 4 * tower.hidden_size * tower.num_hidden_layers * context**2
    return Flops(matrices, between + inside)


def _pixels(level: int, config: UNetConfig) -> int:
    return (config.sample_size // 2**level) ** 2


def _level(path: str, config: UNetConfig) -> int:
    """The level whose pixels a parameter's output has."""
    part, index, *rest = path.split("/")
    if part == "down_blocks":
        return int(index) + (rest[0] == "downsamplers")
    if part == "up_blocks":
        return config.levels - 1 - int(index) - (rest[0] == "upsamplers")
    return config.levels - 1 if part == "mid_block" else 0


def _uses(path: str, config: UNetConfig, context: float) -> float:
    if "_embedding/weight" in path or "_user/" in path:
        return 0
    if path.startswith("time_embedding/") or "/time_emb_proj/" in path:
        return 1
    if path.startswith(("caption/", "text_adapter/")) or "/attn2/to_k/" in path or "/attn2/to_v/" in path:
        return context
    return _pixels(_level(path, config), config)
