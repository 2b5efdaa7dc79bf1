"""The family of diffusion transformers. Loads jax only where a function runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxpo.models.dit.config import DiTConfig
from jaxpo.models.dit.presets import PRESETS
from jaxpo.models.family import Family, Flops, Limits

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.models.spec import Table

Tree = Any


def limits(config: DiTConfig) -> Limits:
    """Those of captions: none are read without a text tower."""
    tower = config.caption
    return Limits(0, 0, causal=False) if tower is None else Limits(tower.max_length, tower.vocab_size, causal=False)


def table(config: DiTConfig) -> Table:
    """See `jaxpo.models.dit.table.param_table`."""
    from jaxpo.models.dit.table import param_table

    return param_table(config)


def flops(config: DiTConfig, context: float) -> Flops:
    """See `jaxpo.models.dit.work.flops_per_image`."""
    from jaxpo.models.dit.work import flops_per_image

    return flops_per_image(config, context)


def denoise(params: Tree, x: Array, t: Array, context: Array, *, config: DiTConfig, **options: Any) -> Array:
    """See `jaxpo.models.dit.forward.denoise`."""
    from jaxpo.models.dit.forward import denoise

    return denoise(params, x, t, context, config=config, **options)


def captions(params: Tree, tokens: Array, *, config: DiTConfig, dtype: Any) -> Array:
    """See `jaxpo.models.caption.forward.caption_states`."""
    from jaxpo.models.caption.forward import caption_states

    assert config.caption is not None
    return caption_states(params["caption"], tokens, config=config.caption, dtype=dtype)


FAMILY = Family(
    name="dit", limits=limits, table=table, flops=flops, denoise=denoise, captions=captions, presets=PRESETS
)
