"""The text tower, and the adapter of a second encoder, as objects of a JSON file."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxpo.config.text_adapter import TextAdapter
from jaxpo.errors import ConfigError
from jaxpo.models.caption.config import CaptionConfig
from jaxpo.models.document import Document, refuse_unknown

_MOST = {
    "vocab_size": 2**24,
    "hidden_size": 2**16,
    "intermediate_size": 2**18,
    "num_hidden_layers": 1024,
    "num_attention_heads": 1024,
    "max_length": 2**20,
}
"""The most of each size that is believed."""


def caption_to_json(config: CaptionConfig | None) -> dict[str, Any] | None:
    """Its fields; None where there is no tower."""
    return None if config is None else dataclasses.asdict(config)


def caption_from_json(read: Document) -> CaptionConfig | None:
    """Read them; None where the object is empty. Problems are left in the document."""
    if not read.values:
        return None
    default = CaptionConfig()
    refuse_unknown(read, {*_MOST, "norm_eps"})
    sizes: dict[str, Any] = {
        key: read.integer(key, getattr(default, key), least=0, most=most) for key, most in _MOST.items()
    }
    norm_eps = read.number("norm_eps", default.norm_eps)
    try:
        return CaptionConfig(**sizes, norm_eps=norm_eps)
    except ConfigError as error:
        read.problems.extend(error.problems)
        return None


def text_adapter_from_json(read: Document) -> TextAdapter | None:
    """Read its fields; None where the object is empty. Problems are left in the document."""
    if not read.values:
        return None
    default, sizes = TextAdapter(), {"channels": 2**16, "intermediate_size": 2**18}
    refuse_unknown(read, {*sizes, "norm_eps"})
    found = {key: read.integer(key, getattr(default, key), least=1, most=most) for key, most in sizes.items()}
    norm_eps = read.number("norm_eps", default.norm_eps)
    return None if read.problems else TextAdapter(**found, norm_eps=norm_eps)
