"""What an image costs in a diffusion transformer."""

from __future__ import annotations

from jaxpo.models.dit.config import DiTConfig
from jaxpo.models.dit.table import param_table
from jaxpo.models.parts import Flops
from jaxpo.models.spec import leaves

ONCE = ("adaln_single/",)
OF_TEXT = ("caption_projection/", "caption/layers/", "text_adapter/", "/attn2/to_k/", "/attn2/to_v/")
LOOKED_UP = ("scale_shift_table", "caption/token_embedding", "caption/position_embedding")


def flops_per_image(config: DiTConfig, context: float) -> Flops:
    """One image of `sample_size` with a caption of `context` tokens, without a user.

    A matrix counts once for each patch, or for each token of the caption, or once for the time.
    """
    patches = (config.sample_size // config.patch_size) ** 2
    matrices = sum(
        param.size * _uses(path, patches, context)
        for path, param in leaves(param_table(config))
        if len(param.shape) > 1
    )
    between = 4 * config.width * config.num_layers * patches * (patches + context)
    tower = config.caption
    inside = 0.0 if tower is None else 4 * tower.hidden_size * tower.num_hidden_layers * context**2
    return Flops(matrices, between + inside)


def _uses(path: str, patches: int, context: float) -> float:
    if any(part in path for part in LOOKED_UP) or "_user/" in path:
        return 0
    if path.startswith(ONCE):
        return 1
    return context if any(part in f"/{path}" for part in OF_TEXT) else patches
