"""What a run keeps on disk: the model that a stage left, or a checkpoint of it; found and described, not read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxpo.checkpoint.store import CHECKPOINTS, CheckpointStore
from jaxpo.config.places import is_name
from jaxpo.config.serialise import from_jsonable
from jaxpo.convert.reader import REWARD
from jaxpo.errors import CheckpointError, ConfigError, no_folder
from jaxpo.models.family import FAMILIES, family, param_table
from jaxpo.models.spec import leaves
from jaxpo.train.files import read_json

MODEL = "model"
ROUNDED = "rounded to"
"""Entry of a checkpoint whose stage trains on a grid of few bits, which its weights do not lie on yet."""


def has_model(directory: Path) -> bool:
    """Whether a stage directory holds a finished model."""
    return (directory / MODEL).is_dir() and CheckpointStore(directory / MODEL, keep=None).latest() is not None


@dataclass(frozen=True)
class Kept:
    """Parameters that a run keeps: the model that a stage left, or those of one of its checkpoints.

    Attributes:
      part: what their leaves' names begin with.
      heads: name -> shapes of what lies beside the model.
      stage: the directory of the stage.
    """

    store: CheckpointStore
    step: int | None
    part: str
    config: Any
    heads: Mapping[str, Any]
    about: Mapping[str, Any]
    stage: Path

    @property
    def folder(self) -> Path:
        """The checkpoint that holds them."""
        return self.store.path(self.store.latest() or 0 if self.step is None else self.step)


def is_checkpoint(path: Path) -> bool:
    """Whether a path means one checkpoint of a stage, `RUN/stages/STAGE/checkpoints/00000030`."""
    return path.parent.name == CHECKPOINTS and path.name.isdigit() and path.is_dir()


def kept(path: Path) -> Kept:
    """What a run directory, a stage or a checkpoint holds, without its weights."""
    stage = stage_folder(path)
    if not is_checkpoint(path):
        store = CheckpointStore(stage / MODEL, keep=None)
        folder, meta = _meta_of(store)
        return Kept(store, None, "", _config_of(folder, meta["config"]), meta["heads"], meta["about"], stage)
    store, step = CheckpointStore(path.parent, keep=None), int(path.name)
    meta, names = store.meta(step), store.signature(step)
    if "weights" not in meta:
        raise CheckpointError(f"{path}: an earlier version wrote it, which did not say what model it holds.")
    if ROUNDED in meta:
        raise CheckpointError(
            f"{path} holds the weights that its stage rounds to {meta[ROUNDED]}, before they are rounded: give the "
            "folder of a stage that has finished, or one of its snapshots."
        )
    part, config = f"{meta['weights']}/", _config_of(path, meta["model"])
    wanted = (f"{part}model/{name}" for name, _ in leaves(param_table(config)))
    if lacking := [name for name in wanted if name not in names]:
        raise CheckpointError(
            f"{path} holds only what its stage trains, an adapter or a part of the model ({lacking[0]} is not in it): "
            "give the folder of a stage that has finished."
        )
    beside = {name.removeprefix(part): entry["shape"] for name, entry in names.items() if name.startswith(part)}
    heads = nested({name: shape for name, shape in beside.items() if not name.startswith("model/")})
    about = {"stage": f"{stage.name}, step {step}", "trained_on": meta.get("trained_on", "")}
    about |= {REWARD: meta[REWARD]} if REWARD in meta else {}
    return Kept(store, step, part, config, heads, about, stage)


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a/b": x}` as `{"a": {"b": x}}`."""
    out: dict[str, Any] = {}
    for name, value in flat.items():
        *above, last = name.split("/")
        inner = out
        for key in above:
            inner = inner.setdefault(key, {})
        inner[last] = value
    return out


def stage_folder(path: Path) -> Path:
    """The stage directory that a path means: itself, that of a checkpoint, or a run's last finished stage."""
    if not path.is_dir():
        raise CheckpointError(f"{no_folder(path)}; give a run directory, a stage directory or an HF export")
    if is_checkpoint(path):
        return path.parents[1]
    return path if (path / MODEL).is_dir() else _last_stage(path)


def _meta_of(store: CheckpointStore) -> tuple[Path, Mapping[str, Any]]:
    """What a stage's model says of itself, and the folder that says it; CheckpointError when that is no model's."""
    meta = store.meta()
    folder = store.path(store.latest() or 0)
    parts = ("config", "heads", "about")
    if not isinstance(meta, Mapping) or not all(isinstance(meta.get(name), Mapping) for name in parts):
        raise CheckpointError(f"{folder}: its meta.json describes no model; copy the checkpoint again.")
    return folder, meta


def _config_of(folder: Path, stored: Any) -> Any:
    try:
        config = from_jsonable(stored, known_types=FAMILIES)
        family(config)
    except ConfigError as error:
        raise CheckpointError(f"{folder}: its meta.json holds a configuration that cannot be read: {error}") from error
    return config


def _last_stage(run: Path) -> Path:
    """The last stage of a run that has finished, in the order of its configuration."""
    config = read_json(run / "config.json")
    if not isinstance(config, dict) or not isinstance(config.get("stages"), list):
        raise CheckpointError(
            f"{run} is not a run directory, a stage directory, an HF export or a PEFT adapter: "
            f"there is neither {MODEL}/ nor config.json nor adapter_config.json"
        )
    for name in reversed(_stage_names(run, config["stages"])):
        if has_model(run / "stages" / name):
            return run / "stages" / name
    raise CheckpointError(f"{run}: no stage has finished yet; run the same command again to go on")


def _stage_names(run: Path, stages: Any) -> list[str]:
    """The names of a stored configuration's stages; each is one of a folder inside the run's."""
    names = [str(stage.get("name", "")) if isinstance(stage, Mapping) else "" for stage in stages]
    if not all(map(is_name, names)):
        raise CheckpointError(f"{run / 'config.json'}: names no stages; restore the file.")
    return names
