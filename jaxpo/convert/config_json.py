"""`config.json` and `generation_config.json` of a Hugging Face checkpoint, as the families read and write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.family import Config, Export, families, family


def export_of(config: Config) -> Export:
    """How a model lies in Hugging Face files; ConfigError when its family lies in none."""
    found = family(config)
    if found.export is None:
        raise ConfigError(f"a model of the family {found.name!r} has no form as a Hugging Face checkpoint.")
    return found.export


def exports() -> dict[str, Export]:
    """`model_type` of a config.json -> the family that reads it."""
    return {kind: each.export for each in families() if each.export is not None for kind in each.export.classes}


def config_to_json(config: Config, dtype: str) -> dict[str, Any]:
    """The keys that transformers and the other readers of the family look for."""
    return export_of(config).to_json(config, dtype)


def generation_config_to_json(config: Config) -> dict[str, Any]:
    """Token ids that `generate` needs."""
    return export_of(config).generation(config)


def config_from_json(document: Mapping[str, Any], source: object = "config.json") -> Any:
    """Read a released or exported configuration.

    Raises:
      CheckpointError: a model that no family reads, a feature that its family has not, or inconsistent numbers; names
        the file.
    """
    return export_of_document(document, source).from_json(document, source)


def export_of_document(document: Mapping[str, Any], source: object) -> Export:
    """The family that reads a config.json; CheckpointError names those that there are."""
    kind, known = document.get("model_type"), exports()
    if kind not in known:
        readable = ", ".join(f"{export.classes[name]} ({name!r})" for name, export in known.items())
        raise CheckpointError(f"{source}: model_type is {kind!r}; this importer reads {readable}.")
    return known[kind]


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; CheckpointError when the file is missing or broken."""
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; a Hugging Face checkpoint folder holds one.")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file}: not valid JSON ({error}); copy or download it again.") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{file}: expected a JSON object, found {type(document).__name__}.")
    return document
