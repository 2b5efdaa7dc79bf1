"""A stage that trains adapters: what it leaves behind, and how that is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxpo.checkpoint.fingerprint import fingerprint
from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.config import LoRA
from jaxpo.config.serialise import from_jsonable, to_jsonable
from jaxpo.convert.kept import is_checkpoint, stage_folder
from jaxpo.convert.model_io import Model, load_model
from jaxpo.errors import CheckpointError
from jaxpo.models.family import TextConfig, param_table
from jaxpo.models.lowrank import adapter_table, merge, scale_of
from jaxpo.models.spec import abstract_params, param_shardings
from jaxpo.sharding import make_mesh

Tree = Any
ADAPTER_FOLDER, BASE_FOLDER = "adapter", "base"


def merged(base: Tree, adapter: Tree, lora: LoRA, config: TextConfig, mesh: jax.sharding.Mesh, rules: Any) -> Tree:
    """The plain model of a finished stage, placed as any model."""
    where = param_shardings(param_table(config), mesh, rules)
    return jax.jit(partial(merge, scale=scale_of(lora)), out_shardings=where)(base, adapter)


def save_adapter(directory: Path, adapter: Tree, lora: LoRA, base: Path, base_hash: str) -> None:
    """Write a finished stage's adapter to `directory/adapter`, once, with where its base lies.

    Args:
      base: folder that `load_model` reads; kept relative to the stage, so that a run directory can be moved.
      base_hash: fingerprint of the base's parameters.
    """
    store = CheckpointStore(directory / ADAPTER_FOLDER, keep=None)
    store.save(0, adapter, {"lora": to_jsonable(lora), "base": _path_from(directory, base), "base_hash": base_hash})
    store.close()


def _path_from(directory: Path, base: Path) -> str:
    """Relative within a run directory (`RUN/stages/NAME`), else absolute."""
    base, run = base.resolve(), directory.resolve().parents[1]
    return os.path.relpath(base, directory.resolve()) if base.is_relative_to(run) else str(base)


@dataclass(frozen=True)
class LoadedAdapter:
    """What `save_adapter` wrote, and the two models it stands between.

    Attributes:
      params: the adapter's tree.
      base: the model it was trained beside.
      result: the stage's own model, base and adapter merged.
    """

    params: Tree
    lora: LoRA
    base: Model
    result: Model


def load_adapter(path: Path | str) -> LoadedAdapter:
    """Read the adapter of a run directory (its last finished stage) or of a stage directory.

    Raises:
      CheckpointError: the stage trained no adapter, trained a head beside it, or its base has changed since.
    """
    folder = stage_folder(Path(path))
    if is_checkpoint(Path(path)):
        raise CheckpointError(
            f"{path} is a checkpoint; an adapter is read from its stage, {folder}, when it has ended."
        )
    store = CheckpointStore(folder / ADAPTER_FOLDER, keep=None)
    if store.latest() is None:
        found = sorted(str(p.parent) for p in folder.parent.glob(f"*/{ADAPTER_FOLDER}"))
        near = f" Stages with one: {', '.join(found)}." if found else ""
        raise CheckpointError(f"{folder} holds no adapter; only stages trained with lora have one.{near}")
    meta = store.meta()
    result, base = load_model(folder), load_model(os.path.normpath(folder / meta["base"]))
    if extra := [name for name in result.params if name != "model"]:
        raise CheckpointError(
            f"{folder}: was trained with {', '.join(extra)} beside the adapter, which an adapter file cannot hold; "
            "export the merged model, without --adapter."
        )
    if fingerprint(base.params["model"]) != meta["base_hash"]:
        raise CheckpointError(f"{base.path}: is not the model that the adapter in {folder} was trained beside.")
    lora = from_jsonable(meta["lora"])
    table = adapter_table(param_table(result.config), lora)
    where = param_shardings(table, make_mesh({}, jax.devices()[:1]))
    params, _ = store.restore(None, abstract_params(table, shardings=where))
    return LoadedAdapter(params, lora, base, result)
