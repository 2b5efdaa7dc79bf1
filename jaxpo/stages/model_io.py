"""Finished models: what a stage hands on, and what `generate`, `chat`, `export` and `merge` read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.convert.hf import import_hf
from jaxpo.data.tokenizer import Tokenizer
from jaxpo.errors import CheckpointError
from jaxpo.models.heads import value_table
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import Table, abstract_params
from jaxpo.sharding import make_mesh, param_shardings
from jaxpo.stages.serialise import from_jsonable, to_jsonable
from jaxpo.train.files import read_json

Tree = Any
MODEL, TOKENIZER = "model", "tokenizer"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be used.

    Attributes:
      params: {"model": ..., "value": ...}: one tree per parameter table.
      tokenizer: None when the folder holds none.
      about: what the checkpoint says of itself: stage, what it was trained on.
    """

    params: dict[str, Tree]
    config: LFM2Config
    tokenizer: Tokenizer | None
    about: dict[str, Any]
    path: Path


def tables_for(config: LFM2Config, groups: tuple[str, ...] = ()) -> dict[str, Table]:
    """Parameter tables of a model and of the extra groups that an objective asks for."""
    extra = {"value": value_table}
    return {"model": param_table(config)} | {name: extra[name](config) for name in groups}


def save_model(directory: Path, params: Mapping[str, Tree], config: LFM2Config, about: Mapping[str, Any]) -> None:
    """Write the parameters of a finished stage to `directory/model`, once."""
    store = CheckpointStore(directory / MODEL, keep=None)
    meta = {"config": to_jsonable(config), "groups": [g for g in params if g != "model"], "about": dict(about)}
    store.save(0, dict(params), meta)
    store.close()


def has_model(directory: Path) -> bool:
    """Whether a stage directory holds a finished model."""
    return (directory / MODEL).is_dir() and CheckpointStore(directory / MODEL, keep=None).latest() is not None


def load_model(path: Path | str, mesh: jax.sharding.Mesh | None = None, rules: Any = None) -> LoadedModel:
    """Read a model from a run directory (its last finished stage), a stage directory, or an HF export.

    Raises:
      CheckpointError: the folder holds no model; names what was looked for.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"there is no folder {path}; give a run directory, a stage directory or an HF export")
    if (path / "config.json").is_file() and "model_type" in (read_json(path / "config.json") or {}):
        return _load_export(path)
    stage = path if (path / MODEL).is_dir() else _last_stage(path)
    store = CheckpointStore(stage / MODEL, keep=None)
    meta = store.meta()
    config = from_jsonable(meta["config"])
    mesh = mesh or make_mesh({}, jax.devices()[:1])
    abstract = {
        name: abstract_params(table, shardings=param_shardings(table, mesh, rules))
        for name, table in tables_for(config, tuple(meta["groups"])).items()
    }
    params, _ = store.restore(None, abstract)
    return LoadedModel(params, config, _tokenizer_near(stage), meta["about"], stage)


def _load_export(path: Path) -> LoadedModel:
    params, config = import_hf(path)
    tokenizer = Tokenizer.load(path) if (path / "tokenizer.json").is_file() else None
    about = {"stage": "import", "trained_on": f"a Hugging Face checkpoint ({path.name})"}
    return LoadedModel({"model": params}, config, tokenizer, about, path)


def _last_stage(run: Path) -> Path:
    """The last stage of a run that has finished, in the order of its configuration."""
    config = read_json(run / "config.json")
    if not config or "stages" not in config:
        raise CheckpointError(
            f"{run} is not a run directory, a stage directory or an HF export: "
            f"there is neither {MODEL}/ nor config.json"
        )
    for stage in reversed(config["stages"]):
        if has_model(run / "stages" / stage["name"]):
            return run / "stages" / stage["name"]
    raise CheckpointError(f"{run}: no stage has finished yet; run the same command again to go on")


def _tokenizer_near(stage: Path) -> Tokenizer | None:
    for folder in (stage, *list(stage.resolve().parents)[:3]):
        if (folder / TOKENIZER / "tokenizer.json").is_file():
            return Tokenizer.load(folder / TOKENIZER)
    return None
