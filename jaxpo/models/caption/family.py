"""What a family that denoises images says of its text tower. Loads jax only where a function runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxpo.models.family import DenoiserConfig, Limits

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
