"""The family of U-Nets. Loads jax only where a function runs it."""

from __future__ import annotations

from jaxpo.models.caption.family import adapted, captions, limits, own_to_json, with_own
from jaxpo.models.family import Family
from jaxpo.models.lazy import lazy
from jaxpo.models.parts import Diffusers
from jaxpo.models.unet.config_json import CLASS, config_from_json, config_to_json
from jaxpo.models.unet.presets import PRESETS

FAMILY = Family(
    name="unet",
    limits=limits,
    table=lazy("jaxpo.models.unet.table:param_table"),
    flops=lazy("jaxpo.models.unet.work:flops_per_image"),
    denoise=lazy("jaxpo.models.unet.forward:denoise"),
    captions=captions,
    adapted=adapted,
    diffusers=Diffusers(
        (CLASS,), "unet", "StableDiffusionPipeline", config_to_json, config_from_json, own_to_json, with_own
    ),
    presets=PRESETS,
)
