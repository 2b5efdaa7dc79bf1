"""`config.json` of a Hugging Face checkpoint, as the families read and write it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxpo.config.json_text import parse
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.document import shown
from jaxpo.models.family import Config, Export, families, family

CONFIG = "config.json"
MASKED_LM = "BidirectionalForMaskedLM"
"""What follows a family's name in the class of a model that looks both ways and fills blanks."""
_CLASSES = ("ForCausalLM", "ForSequenceClassification", "Model", "BidirectionalModel", MASKED_LM)
"""What may follow a family's name in `architectures`; "Model" is saved without the head, which is tied."""
_QUANTISED = ("quantization_config", "quantization", "compression_config")
"""Where transformers, MLX and compressed-tensors say how they packed the weights."""


def export_of(config: Config) -> Export:
    """How a model lies in Hugging Face files; ConfigError when its family lies in none."""
    found = family(config)
    if found.export is None:
        other = "; --format diffusers" if found.diffusers is not None else ""
        raise ConfigError(f"a model of the family {found.name!r} has no form as a Hugging Face checkpoint{other}.")
    return found.export


def exports() -> dict[str, Export]:
    """`model_type` of a config.json -> the family that reads it."""
    return {kind: each.export for each in families() if each.export is not None for kind in each.export.classes}


def config_to_json(config: Config, dtype: str) -> dict[str, Any]:
    """The keys that transformers and the other readers of the family look for."""
    return export_of(config).to_json(config, dtype)


def read_config_json(folder: Path) -> Any:
    """The configuration that a Hugging Face folder's `config.json` means; see `config_from_json`."""
    return config_from_json(read_json(folder / CONFIG), folder / CONFIG)


def config_from_json(document: Mapping[str, Any], source: object = CONFIG) -> Any:
    """Read a configuration, as it was released or as any of the tools that save one writes it.

    Raises:
      CheckpointError: a model that no family reads, a feature that its family has not, or inconsistent, absurd or
        mistyped values; names the file.
    """
    export = export_of_document(document, source)
    for key in _QUANTISED:
        if document.get(key):
            raise CheckpointError(
                f"{source}: has {key}: the weights are quantised, and only whole ones are read. Use the checkpoint "
                "that they were made from, or save this one dequantised (model.dequantize() in transformers)."
            )
    return export.from_json(document, source)


def export_of_document(document: Mapping[str, Any], source: object) -> Export:
    """The family that reads a config.json; CheckpointError names those that there are."""
    kind, known = document.get("model_type"), exports()
    if not isinstance(kind, str) or kind not in known:
        readable = ", ".join(f"{export.classes[name]} ({name!r})" for name, export in known.items())
        raise CheckpointError(f"{source}: model_type is {shown(kind)}; this importer reads {readable}.")
    names, prefix = document.get("architectures") or [], known[kind].classes[kind]
    allowed = [prefix + suffix for suffix in _CLASSES]
    name = next(iter(names), None) if isinstance(names, list) else names
    # Early releases spelt the class LFM2ForCausalLM.
    if name is not None and shown(name)[1:-1].lower() not in [each.lower() for each in allowed]:
        raise CheckpointError(
            f"{source}: architectures is {shown(name)}: another model on the same layers, with "
            f"another head. This importer reads {', '.join(allowed)}."
        )
    return known[kind]


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; CheckpointError when the file is missing or broken."""
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; a Hugging Face checkpoint folder holds one.")
    try:
        document = parse(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise CheckpointError(f"{file}: not valid JSON ({error}); copy or download it again.") from error
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror}).") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{file}: expected a JSON object, found {type(document).__name__}.")
    return document


def write_json(file: Path, document: dict[str, Any]) -> None:
    """Write a JSON object, indented."""
    file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
