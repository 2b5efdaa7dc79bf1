"""The family of the two towers. Loads jax only where a function runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxpo.models.denscore.config import DenscoreConfig
from jaxpo.models.family import Family
from jaxpo.models.parts import Flops, Limits, Towers

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.models.spec import Table

Tree = Any


def limits(config: DenscoreConfig) -> Limits:
    """Those of a caption's segments."""
    return Limits(config.max_length, config.vocab_size, causal=False)


def table(config: DenscoreConfig) -> Table:
    """See `jaxpo.models.denscore.table.denscore_table`."""
    from jaxpo.models.denscore.table import denscore_table

    return denscore_table(config)


def flops(config: DenscoreConfig, context: float) -> Flops:
    """See `jaxpo.models.denscore.table.flops_per_pair`."""
    from jaxpo.models.denscore.table import flops_per_pair

    return flops_per_pair(config, context)


def images(params: Tree, images: Array) -> Array:
    """See `jaxpo.models.denscore.forward.image_features`."""
    from jaxpo.models.denscore.forward import image_features

    return image_features(params, images)


def texts(params: Tree, tokens: Array, mask: Array) -> Array:
    """See `jaxpo.models.denscore.forward.text_features`."""
    from jaxpo.models.denscore.forward import text_features

    return text_features(params, tokens, mask)


FAMILY = Family(
    name="denscore",
    limits=limits,
    table=table,
    flops=flops,
    towers=Towers(images, texts),
    presets={"nano_denscore": DenscoreConfig()},
)
