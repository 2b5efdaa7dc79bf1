"""The family of U-Nets. Loads jax only where a function runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxpo.models.caption.family import captions, limits, own_to_json, with_own
from jaxpo.models.family import Family
from jaxpo.models.parts import Diffusers, Flops
from jaxpo.models.unet.config import UNetConfig
from jaxpo.models.unet.config_json import CLASS, config_from_json, config_to_json
from jaxpo.models.unet.presets import PRESETS

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.models.spec import Table

Tree = Any


def table(config: UNetConfig) -> Table:
    """See `jaxpo.models.unet.table.param_table`."""
    from jaxpo.models.unet.table import param_table

    return param_table(config)


def flops(config: UNetConfig, context: float) -> Flops:
    """See `jaxpo.models.unet.work.flops_per_image`."""
    from jaxpo.models.unet.work import flops_per_image

    return flops_per_image(config, context)


def denoise(params: Tree, x: Array, t: Array, context: Array, *, config: UNetConfig, **options: Any) -> Array:
    """See `jaxpo.models.unet.forward.denoise`."""
    from jaxpo.models.unet.forward import denoise

    return denoise(params, x, t, context, config=config, **options)


FAMILY = Family(
    name="unet",
    limits=limits,
    table=table,
    flops=flops,
    denoise=denoise,
    captions=captions,
    diffusers=Diffusers(
        (CLASS,), "unet", "StableDiffusionPipeline", config_to_json, config_from_json, own_to_json, with_own
    ),
    presets=PRESETS,
)
