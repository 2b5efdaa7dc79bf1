"""The family of LFM2-VL. Loads jax only where a function runs it.

What it makes of text alone is LFM2's: experts, work and cache are those of its language model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxpo.errors import ConfigError
from jaxpo.models.export import IMAGE_TEXT, Export
from jaxpo.models.family import Family
from jaxpo.models.lazy import lazy
from jaxpo.models.lfm2 import family as lfm2
from jaxpo.models.lfm2.activations import kept_values
from jaxpo.models.lfm2_vl.config import FEATURES, IMAGE, LFM2VLConfig
from jaxpo.models.lfm2_vl.config_json import (
    CLASSES,
    ENDINGS,
    config_from_json,
    config_to_json,
    generation_config_to_json,
    processor_of,
)
from jaxpo.models.lfm2_vl.costs import patch_kept, patch_parts
from jaxpo.models.lfm2_vl.file_names import fitted, renamed
from jaxpo.models.lfm2_vl.presets import PRESETS
from jaxpo.models.lfm2_vl.reference import reference_logits, reference_text, seen
from jaxpo.models.parts import Decoder, Encoder, Experts, Flops, Kept, Limits

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.models.language import Inputs

Tree = Any


def limits(config: LFM2VLConfig) -> Limits:
    """Context and vocabulary, where the vectors of an image count as tokens."""
    return lfm2.limits(config.text)


def experts(config: LFM2VLConfig) -> Experts | None:
    """Those of the language model."""
    return lfm2.experts(config.text)


def forward(params: Tree, inputs: Inputs, *, config: LFM2VLConfig, **options: Any) -> tuple[Array, dict[str, Any]]:
    """See `jaxpo.models.lfm2_vl.forward.forward`.

    Raises:
      ConfigError: the batch carries media that it has no encoder for.
    """
    from jaxpo.models.lfm2_vl.forward import forward

    if others := inputs.media.keys() - {IMAGE, FEATURES}:
        raise ConfigError(f"the batch carries {', '.join(sorted(others))}, and lfm2_vl reads text and images.")
    return forward(params, inputs, config=config, **options)


def flops(config: LFM2VLConfig, context: float) -> Flops:
    """The work of a token in the language model."""
    return lfm2.flops(config.text, context)


def kept(config: LFM2VLConfig, remat: str, tensor: int = 1) -> Kept:
    """Of the language model."""
    return kept_values(config.text, remat, tensor)


def looped(config: LFM2VLConfig, scan: bool | None, remat: str) -> int:
    """Of the language model, whose layers are those that are counted."""
    layers: int = lfm2.looped(config.text, scan, remat)
    return layers


def cache(config: LFM2VLConfig, batch: int, length: int, dtype: Any, pages: tuple[int, int] | None = None) -> Any:
    """Of the language model."""
    return lfm2.cache(config.text, batch, length, dtype, pages)


def step(params: Tree, tokens: Array, cache: Tree, *, config: LFM2VLConfig, **options: Any) -> tuple[Array, Tree]:
    """Of the language model."""
    after: tuple[Array, Tree] = lfm2.step(params, tokens, cache, config=config.text, **options)
    return after


def see(params: Tree, media: Any, *, config: LFM2VLConfig, dtype: Any) -> Array:
    """See `jaxpo.models.lfm2_vl.forward.image_vectors`."""
    from jaxpo.models.lfm2_vl.forward import image_vectors

    return image_vectors(params, media, config=config, dtype=dtype, remat=False, attention=None)


def encode(params: Tree, media: Any, *, config: LFM2VLConfig, dtype: Any, attention: str | None = None) -> Array:
    """See `jaxpo.models.lfm2_vl.forward.image_features`."""
    from jaxpo.models.lfm2_vl.forward import image_features

    return image_features(params, media, config=config, dtype=dtype, remat=False, attention=attention)


FAMILY = Family(
    name="lfm2_vl",
    limits=limits,
    table=lazy("jaxpo.models.lfm2_vl.table:param_table"),
    forward=forward,
    flops=flops,
    experts=experts,
    unembedding=lfm2.unembedding,
    decoder=Decoder(cache, step, per_position=("k", "v"), see=see, values=lambda config: config.vision.patch_values),
    kept=kept,
    encoder=Encoder("vision", lambda config: config.vision.hidden_size, encode, patch_parts, patch_kept),
    looped=looped,
    export=Export(
        classes=CLASSES,
        endings=ENDINGS,
        to_json=config_to_json,
        from_json=config_from_json,
        generation=generation_config_to_json,
        logits=reference_logits,
        hidden=reference_text,
        renamed=renamed,
        fitted=fitted,
        processor=processor_of,
        seen=seen,
        loader=IMAGE_TEXT,
    ),
    presets=PRESETS,
)
