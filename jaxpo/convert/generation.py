"""`generation_config.json`: how a checkpoint is sampled and what ends its texts. It is the checkpoint's own, and kept.

A Hugging Face folder holds it beside the weights; a run directory and an imported model hold a copy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxpo.convert.config_json import CONFIG, export_of, read_json, write_json
from jaxpo.models.document import Document
from jaxpo.models.family import Config
from jaxpo.sampling.sampler import Sampler

GENERATION = "generation_config.json"


def read_generation(folder: Path) -> dict[str, Any] | None:
    """What the folder says, as it stands there; None when it says nothing beyond the ids of its configuration.

    Older checkpoints have no such file and several end ids in config.json.

    Raises:
      CheckpointError: no JSON object, or end ids that are none.
    """
    file = folder / GENERATION
    if file.is_file():
        found = read_json(file)
        _checked(found, file)
        return found
    if not (folder / CONFIG).is_file():
        return None
    document = read_json(folder / CONFIG)
    ends = document.get("eos_token_id")
    if not isinstance(ends, list) or len(ends) < 2:
        return None
    _checked(document, folder / CONFIG)
    return {"eos_token_id": ends}


def _checked(document: Mapping[str, Any], source: Path) -> None:
    read = Document(document)
    read.end_ids("eos_token_id", 0)
    for setting in dataclasses.fields(Sampler):
        if type(value := document.get(setting.name)) not in (int, float, type(None)):
            read.wrong(setting.name, value, "a number", None)
    read.check(source)


def write_generation(folder: Path, config: Config, own: Mapping[str, Any] | None) -> None:
    """Write the model's own file; ids that it does not give are those of the configuration."""
    write_json(folder / GENERATION, export_of(config).generation(config) | dict(own or {}))


def keep_generation(folder: Path, own: Mapping[str, Any] | None) -> None:
    """Put a copy where a run, or a model that was imported or merged, lies."""
    if own is not None:
        write_json(folder / GENERATION, dict(own))


def end_ids(own: Mapping[str, Any] | None, turn: int) -> tuple[int, ...]:
    """The ids that end an answer: the turn's end, and every end that the checkpoint names."""
    return tuple(dict.fromkeys((turn, *Document(own or {}).end_ids("eos_token_id", turn))))
