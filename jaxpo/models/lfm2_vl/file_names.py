"""Names of LFM2-VL's tensors in files: as transformers saves them today, and as older versions and others do.

model.vision_tower.*             or  model.vision_tower.vision_model.*, vision_tower.*, vision_tower.vision_model.*
model.multi_modal_projector.*    or  multi_modal_projector.*
model.language_model.*           or  language_model.*, language_model.model.*, model.language_model.model.*
lm_head.weight                   or  language_model.lm_head.weight
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from jaxpo.errors import CheckpointError
from jaxpo.models.lfm2_vl.config import LFM2VLConfig

TEXT, VISION, CONNECTOR = "model.language_model", "model.vision_tower", "model.multi_modal_projector"
HEAD = "lm_head.weight"
POOLING = "head."
"""Of the tower: a head that pools an image into one vector, of which LFM2-VL computes nothing."""


def renamed(names: Iterable[str]) -> dict[str, str | None]:
    """Name in a file -> that of the table; None for the tower's pooling head."""
    return {name: _own_name(name) for name in names}


def _own_name(name: str) -> str | None:
    place, _, rest = name.removeprefix("model.").partition(".")
    if f"model.{place}" == VISION:
        rest = rest.removeprefix("vision_model.")
        return None if rest.startswith(POOLING) else f"{VISION}.{rest}"
    if f"model.{place}" == TEXT:
        rest = rest.removeprefix("model.")
        return HEAD if rest == HEAD else f"{TEXT}.{rest}"
    return f"{CONNECTOR}.{rest}" if f"model.{place}" == CONNECTOR else name


def fitted(config: LFM2VLConfig, names: Iterable[str], processor: Mapping[str, Any]) -> LFM2VLConfig:
    """The configuration with what the files beside config.json know better.

    Released files disagree with their own tensors about the connector's norm; and how bytes are normalised stands with
    the image processor alone.

    Args:
      names: in the table's form.
      processor: its settings; empty where the folder has none.

    Raises:
      CheckpointError: the processor cuts patches of another size than the tower reads.
    """
    size = processor.get("encoder_patch_size", config.vision.patch_size)
    if size != config.vision.patch_size:
        raise CheckpointError(
            f"the image processor cuts patches of {size} pixels, and the tower reads {config.vision.patch_size}: its "
            "files belong to another model."
        )
    there = set(names)
    return dataclasses.replace(
        config,
        projector_use_layernorm=f"{CONNECTOR}.layer_norm.weight" in there,
        projector_bias=f"{CONNECTOR}.linear_1.bias" in there,
        image_mean=tuple(processor.get("image_mean", config.image_mean)),
        image_std=tuple(processor.get("image_std", config.image_std)),
    )
