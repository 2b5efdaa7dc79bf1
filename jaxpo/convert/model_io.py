"""Finished models: what a stage hands on, and what `generate`, `chat`, `export` and `merge` read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.config.serialise import from_jsonable, to_jsonable
from jaxpo.convert.config_json import config_from_json
from jaxpo.convert.hf import import_hf
from jaxpo.convert.reward_hf import import_reward, is_reward
from jaxpo.data.tokens.tokenizer import Tokenizer
from jaxpo.errors import CheckpointError
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import abstract_params, param_shardings
from jaxpo.sharding import make_mesh, replicated
from jaxpo.train.files import read_json

Tree = Any
MODEL, TOKENIZER = "model", "tokenizer"


@dataclass(frozen=True)
class Model:
    """A model ready to be used.

    Attributes:
      params: {"model": ..., "value": ...}: the model, and the heads that were trained beside it.
      tokenizer: None when the folder holds none.
      about: what the checkpoint says of itself: stage, what it was trained on.
      path: where it was read; None of a model that was made.
    """

    params: Mapping[str, Tree]
    config: LFM2Config
    tokenizer: Tokenizer | None
    about: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None


def save_model(directory: Path, params: Mapping[str, Tree], config: LFM2Config, about: Mapping[str, Any]) -> None:
    """Write the parameters of a finished stage to `directory/model`, once."""
    store = CheckpointStore(directory / MODEL, keep=None)
    heads = {name: jax.tree.map(lambda x: list(x.shape), tree) for name, tree in params.items() if name != "model"}
    meta = {"config": to_jsonable(config), "heads": heads, "about": dict(about)}
    store.save(0, dict(params), meta)
    store.close()


def has_model(directory: Path) -> bool:
    """Whether a stage directory holds a finished model."""
    return (directory / MODEL).is_dir() and CheckpointStore(directory / MODEL, keep=None).latest() is not None


def stage_folder(path: Path) -> Path:
    """The stage directory that a path means: itself, or the last finished stage of a run directory."""
    if not path.is_dir():
        raise CheckpointError(f"there is no folder {path}; give a run directory, a stage directory or an HF export")
    return path if (path / MODEL).is_dir() else _last_stage(path)


def is_export(path: Path) -> bool:
    """Whether a folder is a Hugging Face checkpoint."""
    return (path / "config.json").is_file() and "model_type" in (read_json(path / "config.json") or {})


def read_config(path: Path | str) -> LFM2Config:
    """The architecture of what `load_model` reads, without its weights."""
    path = Path(path)
    if is_export(path):
        return config_from_json(read_json(path / "config.json") or {}, path / "config.json")
    return from_jsonable(CheckpointStore(stage_folder(path) / MODEL, keep=None).meta()["config"])


def read_heads(path: Path | str) -> tuple[str, ...]:
    """Names of the heads beside the model of what `load_model` reads, without their weights."""
    path = Path(path)
    if is_export(path):
        return ("value",) if is_reward(path) else ()
    return tuple(CheckpointStore(stage_folder(path) / MODEL, keep=None).meta()["heads"])


def load_model(path: Path | str, mesh: jax.sharding.Mesh | None = None, rules: Any = None) -> Model:
    """Read a model from a run directory (its last finished stage), a stage directory, or an HF export.

    Raises:
      CheckpointError: the folder holds no model; names what was looked for.
    """
    path = Path(path)
    mesh = mesh or make_mesh({}, jax.devices()[:1])
    if is_export(path):
        return _load_export(path, mesh, rules)
    stage = stage_folder(path)
    store = CheckpointStore(stage / MODEL, keep=None)
    meta = store.meta()
    config = from_jsonable(meta["config"])
    model = param_table(config)
    heads = _abstract_heads(meta["heads"], mesh)
    abstract = {"model": abstract_params(model, shardings=param_shardings(model, mesh, rules)), **heads}
    params, _ = store.restore(None, abstract)
    return Model(params, config, _tokenizer_near(stage), meta["about"], stage)


def _abstract_heads(shapes: Any, mesh: jax.sharding.Mesh) -> Any:
    """What lies beside the model, on every device: a head's table follows its method's settings, which are not here."""
    if isinstance(shapes, Mapping):
        return {name: _abstract_heads(below, mesh) for name, below in shapes.items()}
    return jax.ShapeDtypeStruct(tuple(shapes), jnp.float32, sharding=replicated(mesh))


def _load_export(path: Path, mesh: jax.sharding.Mesh, rules: Any) -> Model:
    config = read_config(path)
    shardings = param_shardings(param_table(config), mesh, rules)
    if is_reward(path):
        params, config = import_reward(path, shardings=shardings)
    else:
        params = {"model": import_hf(path, shardings=shardings)[0]}
    about = {"stage": "import", "trained_on": f"a Hugging Face checkpoint ({path.name})"}
    return Model(params, config, near_tokenizer(path), about, path)


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


def near_tokenizer(path: Path) -> Tokenizer | None:
    """The tokenizer of what `load_model` reads; None when there is none beside it."""
    if is_export(path):
        return Tokenizer.load(path) if (path / "tokenizer.json").is_file() else None
    return _tokenizer_near(stage_folder(path))


def _tokenizer_near(stage: Path) -> Tokenizer | None:
    for folder in (stage, *list(stage.resolve().parents)[:3]):
        if (folder / TOKENIZER / "tokenizer.json").is_file():
            return Tokenizer.load(folder / TOKENIZER)
    return None
