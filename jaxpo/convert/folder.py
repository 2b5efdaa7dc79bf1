"""A folder as every reader of models opens it: a Hugging Face checkpoint, a PEFT adapter on the base that it names, a
pipeline of diffusers, the VAE of one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxpo.convert.adapter_folder import adapted, base_of, is_adapter, read_adapter
from jaxpo.convert.config_json import CONFIG, export_of, read_config_json, read_json
from jaxpo.convert.diffusers.decoder import is_decoder, open_decoder, read_decoder_config
from jaxpo.convert.diffusers.files import is_pipeline
from jaxpo.convert.diffusers.read import open_pipeline, read_pipeline_config
from jaxpo.convert.fused_experts import per_expert
from jaxpo.convert.shards import Stored, open_shards
from jaxpo.data.media.settings import read_settings
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.family import TextConfig


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
    """Whether a folder is a Hugging Face checkpoint, an adapter of one, a pipeline of diffusers, or its VAE."""
    return is_adapter(path) or is_checkpoint(path) or is_pipeline(path) or is_decoder(path)


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is a whole Hugging Face checkpoint; a run directory has a config.json of another kind."""
    return (path / CONFIG).is_file() and not {"model_type", "architectures"}.isdisjoint(read_json(path / CONFIG))


def config_of(path: Path) -> TextConfig:
    """The configuration of the model that a folder gives, without its weights."""
    if is_pipeline(path):
        return read_pipeline_config(path)
    if is_decoder(path):
        return read_decoder_config(path)
    base = base_of(path) if is_adapter(path) else path
    config: TextConfig = read_config_json(base)
    if export_of(config).fitted is None:
        return config
    with open_shards(base) as stored:
        return _fitted(config, base, _renamed(stored, config, base))


def corrected(path: Path) -> list[str]:
    """What config.json says otherwise than the files beside it, which are believed; a line each."""
    said, meant = read_config_json(base_of(path) if is_adapter(path) else path), config_of(path)
    return [
        f"{path / CONFIG}: {field.name} is {getattr(said, field.name)!r}, and the files beside it say "
        f"{getattr(meant, field.name)!r}, which is taken"
        for field in dataclasses.fields(said)
        if getattr(said, field.name) != getattr(meant, field.name)
    ]


def _renamed(stored: Mapping[str, Stored], config: TextConfig, folder: Path) -> dict[str, Stored]:
    """The tensors under the names of the table, without those that the model is not made of."""
    found: dict[str, Stored] = {}
    for name, own in export_of(config).renamed(stored).items():
        if own in found:
            raise CheckpointError(f"{folder}: holds {own} under two names, one of them {name}; save the model again.")
        if own is not None:
            found[own] = stored[name]
    return found


def _fitted(config: TextConfig, folder: Path, names: Iterable[str]) -> TextConfig:
    """The configuration, with what only the other files say."""
    correct = export_of(config).fitted
    if correct is None:
        return config
    settings = read_settings(folder)
    try:
        fitted: TextConfig = correct(config, names, {} if settings is None else vars(settings))
    except ConfigError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return fitted


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[Folder]:
    """Open a checkpoint, an adapter or a pipeline.

    Raises:
      CheckpointError: as `config_from_json`, `read_pipeline_config` and `open_shards`; or an adapter that cannot be
        added to its base, with the command that merges it.
    """
    opened = open_pipeline(path) if is_pipeline(path) else open_decoder(path) if is_decoder(path) else None
    if opened is not None:
        with opened as (own, stored):
            yield Folder(path, own, stored)
        return
    base = base_of(path) if is_adapter(path) else path
    with open_shards(base) as stored:
        config: TextConfig = read_config_json(base)
        stored = _renamed(stored, config, base)
        config = _fitted(config, base, stored)
        tensors: Mapping[str, Stored] = per_expert(stored)
        if is_adapter(path):
            tensors = adapted(tensors, config, read_adapter(path))
        yield Folder(path, config, tensors)
