"""How a checkpoint wants its images: what its two processor files say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from jaxpo.config.images import BILINEAR, FIXED, ImageSettings
from jaxpo.errors import CheckpointError, ConfigError

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
FILES = (PREPROCESSOR, PROCESSOR)
INNER = "image_processor"


def read_settings(folder: Path) -> ImageSettings | None:
    """Of a checkpoint's folder: both files together, where they differ `processor_config.json`; None if it has neither.

    Raises:
      CheckpointError: a file that cannot be read, or a value under which images would be something else.
    """
    try:
        texts = {name: (folder / name).read_text(encoding="utf-8") for name in FILES if (folder / name).exists()}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: the image processor's files cannot be read: {error}") from error
    return settings_in(texts, folder)


def settings_in(texts: Mapping[str, str], folder: Path) -> ImageSettings | None:
    """The same, of files that were read already; others among them are passed by."""
    found = {name: _document(folder / name, texts[name]) for name in FILES if name in texts}
    if not found:
        return None
    inner = found.get(PROCESSOR, {}).get(INNER, {})
    if not isinstance(inner, dict):
        raise CheckpointError(f"{folder / PROCESSOR}: {INNER} must be an object.")
    return settings_of({**found.get(PREPROCESSOR, {}), **inner}, str(folder))


def settings_of(found: Mapping[str, Any], where: str) -> ImageSettings:
    """What a processor's keys say; those that change nothing here are not read."""
    for name, needed in FIXED.items():
        if found.get(name, needed) != needed:
            raise CheckpointError(f"{where}: {name} is {found[name]!r}; LFM2-VL's images have {needed!r}.")
    if abs(found.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9:
        raise CheckpointError(f"{where}: rescale_factor is {found['rescale_factor']!r}, not 1/255.")
    if found.get("resample", BILINEAR) != BILINEAR:
        raise CheckpointError(f"{where}: resample is {found['resample']!r}, not {BILINEAR} (bilinear).")
    given = {each.name: found[each.name] for each in fields(ImageSettings) if found.get(each.name) is not None}
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    try:
        return ImageSettings(**values)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{where}: {error}") from error


def _document(path: Path, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: must be an object.")
    return found
