"""The family of the two towers. Loads jax only where a function runs it."""

from __future__ import annotations

from jaxpo.models.denscore.config import DenscoreConfig
from jaxpo.models.family import Family
from jaxpo.models.lazy import lazy
from jaxpo.models.parts import Limits, Towers


def limits(config: DenscoreConfig) -> Limits:
    """Those of a caption's segments."""
    return Limits(config.max_length, config.vocab_size, causal=False)


FAMILY = Family(
    name="denscore",
    limits=limits,
    table=lazy("jaxpo.models.denscore.table:denscore_table"),
    flops=lazy("jaxpo.models.denscore.table:flops_per_pair"),
    towers=Towers(
        lazy("jaxpo.models.denscore.forward:image_features"), lazy("jaxpo.models.denscore.forward:text_features")
    ),
    presets={"nano_denscore": DenscoreConfig()},
)
