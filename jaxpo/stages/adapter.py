"""A stage that trains adapters: its checks before any work, what it reports, and what it leaves behind."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxpo.checkpoint.fingerprint import fingerprint
from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.config import LoRA, Run, Stage
from jaxpo.config.serialise import from_jsonable, to_jsonable
from jaxpo.convert.model_io import Model, load_model, read_config, stage_folder
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.lowrank import adapter_table, merge, scale_of
from jaxpo.models.spec import abstract_params, param_count, param_shardings
from jaxpo.recipe.lineage import declared_model, trained
from jaxpo.sharding import make_mesh
from jaxpo.train.flops import active_matrices, training_flops_per_token

Tree = Any
ADAPTER_FOLDER, BASE_FOLDER = "adapter", "base"


def check_patterns(run: Run) -> None:
    """Every pattern of every stage finds its matrices; ConfigError with all that do not. Reads no weights."""
    problems = []
    for stage in trained(run):
        if stage.lora is None:
            continue
        model = declared_model(run, stage)
        config = read_config(model) if isinstance(model, str) else model
        try:
            adapter_table(param_table(config), stage.lora)
        except ConfigError as error:
            problems += [f"{stage.name}.{p}" for p in error.problems]
    if problems:
        raise ConfigError(problems)


def flops_per_token(stage: Stage, config: LFM2Config, context: float) -> float:
    """As for the whole model, but frozen matrices have no gradient of their own: two products of three."""
    whole = training_flops_per_token(config, context)
    if stage.lora is None:
        return whole
    adapter = param_count(adapter_table(param_table(config), stage.lora))
    return whole - 2.0 * active_matrices(config) + 6.0 * adapter


def merged(base: Tree, adapter: Tree, lora: LoRA, config: LFM2Config, mesh: jax.sharding.Mesh, rules: Any) -> Tree:
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
