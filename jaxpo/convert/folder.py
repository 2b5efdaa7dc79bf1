"""A folder as every reader of models opens it: a Hugging Face checkpoint, a PEFT adapter on the base that it names, a
pipeline of diffusers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxpo.convert.adapter_folder import adapted, base_of, is_adapter, read_adapter
from jaxpo.convert.config_json import CONFIG, read_config_json, read_json
from jaxpo.convert.diffusers.files import is_pipeline
from jaxpo.convert.diffusers.read import open_pipeline, read_pipeline_config
from jaxpo.convert.fused_experts import per_expert
from jaxpo.convert.shards import Stored, open_shards
from jaxpo.models.family import TextConfig

BARE, PREFIX = "embed_tokens.weight", "model."
PREFIXES = ("", "lfm2.")
"""What may stand before a tensor's name in place of `PREFIX`, in the order in which it is looked for."""


@dataclass(frozen=True)
class Folder:
    """What a folder holds, none of its tensors loaded.

    Attributes:
      config: what config.json means (of an adapter: that of its base).
      tensors: by their names in a checkpoint, experts one by one, an adapter added to its base.
    """

    path: Path
    config: TextConfig
    tensors: Mapping[str, Stored]


def is_export(path: Path) -> bool:
    """Whether a folder is a Hugging Face checkpoint, an adapter of one, or a pipeline of diffusers."""
    return is_adapter(path) or is_checkpoint(path) or is_pipeline(path)


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is a whole Hugging Face checkpoint; a run directory has a config.json of another kind."""
    return (path / CONFIG).is_file() and not {"model_type", "architectures"}.isdisjoint(read_json(path / CONFIG))


def config_of(path: Path) -> TextConfig:
    """The configuration of the model that a folder gives, without its weights."""
    if is_pipeline(path):
        return read_pipeline_config(path)
    config: TextConfig = read_config_json(base_of(path) if is_adapter(path) else path)
    return config


def with_prefix(stored: Mapping[str, Stored]) -> Mapping[str, Stored]:
    """The tensors under the names of a model with its head, whatever a file that was saved without one calls them."""
    other = next((each for each in PREFIXES if each + BARE in stored), None)
    if other is None or PREFIX + BARE in stored:
        return stored
    return {(PREFIX + n.removeprefix(other) if n.startswith(other) else n): tensor for n, tensor in stored.items()}


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[Folder]:
    """Open a checkpoint, an adapter or a pipeline.

    Raises:
      CheckpointError: as `config_from_json`, `read_pipeline_config` and `open_shards`; or an adapter that cannot be
        added to its base, with the command that merges it.
    """
    if is_pipeline(path):
        with open_pipeline(path) as (own, stored):
            yield Folder(path, own, stored)
        return
    base = base_of(path) if is_adapter(path) else path
    with open_shards(base) as stored:
        config: TextConfig = read_config_json(base)
        stored = with_prefix(stored)
        tensors: Mapping[str, Stored] = per_expert(stored)
        if is_adapter(path):
            tensors = adapted(tensors, config, read_adapter(path))
        yield Folder(path, config, tensors)
