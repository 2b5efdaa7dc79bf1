"""What a family that denoises images says of its texts and its users. Loads jax only where a function runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.caption.config_json import caption_from_json, caption_to_json, text_adapter_from_json
from jaxpo.models.document import Document, refuse_unknown
from jaxpo.models.family import DenoiserConfig
from jaxpo.models.parts import Limits

if TYPE_CHECKING:
    from jax import Array

Tree = Any


def limits(config: DenoiserConfig) -> Limits:
    """Those of captions: none are read without a text tower."""
    tower = config.caption
    return Limits(0, 0, causal=False) if tower is None else Limits(tower.max_length, tower.vocab_size, causal=False)


def captions(params: Tree, tokens: Array, *, config: DenoiserConfig, dtype: Any) -> Array:
    """See `jaxpo.models.caption.forward.caption_states`; `config.caption` is there."""
    from jaxpo.models.caption.forward import caption_states

    return caption_states(params["caption"], tokens, config=config.caption, dtype=dtype)


def adapted(params: Tree, states: Array, *, config: DenoiserConfig, dtype: Any) -> Array:
    """See `jaxpo.models.caption.forward.adapted_states`; `config.text_adapter` is there."""
    from jaxpo.models.caption.forward import adapted_states

    return adapted_states(params["text_adapter"], states, config=config.text_adapter, dtype=dtype)


def own_to_json(config: Any) -> dict[str, Any]:
    """See `jaxpo.models.family.Diffusers`."""
    if config.caption is None and config.text_adapter is None and not config.user_channels:
        return {}
    adapter = {} if config.text_adapter is None else {"text_adapter": dataclasses.asdict(config.text_adapter)}
    return {
        "caption": caption_to_json(config.caption),
        **adapter,
        "user_channels": config.user_channels,
        "user_scale": config.user_scale,
    }


def with_own(config: Any, document: Mapping[str, Any], source: object) -> Any:
    """See `jaxpo.models.family.Diffusers`."""
    read = Document(document)
    refuse_unknown(read, ("caption", "text_adapter", "user_channels", "user_scale"))
    own = {
        "caption": caption_from_json(read.part("caption")),
        "text_adapter": text_adapter_from_json(read.part("text_adapter")),
        "user_channels": read.integer("user_channels", 0, least=0, most=2**16),
        "user_scale": read.number("user_scale", 1.0),
    }
    read.check(source)
    try:
        return dataclasses.replace(config, **own)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}") from error
