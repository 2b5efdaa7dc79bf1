"""The family of diffusion transformers. Loads jax only where a function runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxpo.models.caption.family import captions, limits, own_to_json, with_own
from jaxpo.models.dit.config import DiTConfig
from jaxpo.models.dit.config_json import CLASSES, config_from_json, config_to_json
from jaxpo.models.dit.presets import PRESETS
from jaxpo.models.family import Family
from jaxpo.models.parts import Diffusers, Flops

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.models.spec import Table

Tree = Any


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


FAMILY = Family(
    name="dit",
    limits=limits,
    table=table,
    flops=flops,
    denoise=denoise,
    captions=captions,
    diffusers=Diffusers(
        CLASSES, "transformer", "PixArtAlphaPipeline", config_to_json, config_from_json, own_to_json, with_own
    ),
    presets=PRESETS,
)
