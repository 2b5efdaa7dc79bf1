"""The family of diffusion transformers. Loads jax only where a function runs it."""

from __future__ import annotations

from jaxpo.models.caption.family import adapted, captions, limits, own_to_json, with_own
from jaxpo.models.dit.config_json import CLASSES, config_from_json, config_to_json
from jaxpo.models.dit.presets import PRESETS
from jaxpo.models.family import Family
from jaxpo.models.lazy import lazy
from jaxpo.models.parts import Diffusers

FAMILY = Family(
    name="dit",
    limits=limits,
    table=lazy("jaxpo.models.dit.table:param_table"),
    flops=lazy("jaxpo.models.dit.work:flops_per_image"),
    denoise=lazy("jaxpo.models.dit.forward:denoise"),
    captions=captions,
    adapted=adapted,
    diffusers=Diffusers(
        CLASSES, "transformer", "PixArtAlphaPipeline", config_to_json, config_from_json, own_to_json, with_own
    ),
    presets=PRESETS,
)
