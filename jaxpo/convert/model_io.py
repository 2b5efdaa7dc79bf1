"""Finished models: what a stage hands on, and what `generate`, `chat`, `export` and `merge` read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxpo.checkpoint.store import CheckpointStore, together
from jaxpo.config.serialise import to_jsonable
from jaxpo.convert.adapter_folder import base_of, is_adapter
from jaxpo.convert.diffusers.decoder import is_decoder
from jaxpo.convert.diffusers.files import is_pipeline
from jaxpo.convert.folder import config_of, is_export, open_folder
from jaxpo.convert.generation import read_generation
from jaxpo.convert.heads_hf import is_heads, read_heads_of, reading_of
from jaxpo.convert.hf import check_tensors, import_hf
from jaxpo.convert.kept import MODEL, Kept, kept, stage_folder
from jaxpo.convert.pylate_files import is_retriever, read_retriever
from jaxpo.convert.reader import REWARD, Reader, reader_of
from jaxpo.convert.retriever import RETRIEVER, Retriever, retriever_of
from jaxpo.convert.reward_hf import HEAD, import_reward, is_reward
from jaxpo.convert.token_classes_hf import SCORES
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.errors import CheckpointError
from jaxpo.models.document import shown
from jaxpo.models.family import TextConfig, param_table
from jaxpo.models.spec import abstract_params, param_shardings
from jaxpo.sharding import make_mesh, replicated

Tree = Any
TOKENIZER = "tokenizer"


@dataclass(frozen=True)
class Model:
    """A model ready to be used.

    Attributes:
      params: {"model": ..., "value": ...}: the model, and the heads that were trained beside it.
      tokenizer: None when the folder holds none.
      about: what the checkpoint says of itself: stage, what it was trained on.
      path: where it was read; None of a model that was made.
      generation: its own generation_config.json; None when it has none.
    """

    params: Mapping[str, Tree]
    config: TextConfig
    tokenizer: Tokenizer | None
    about: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    generation: Mapping[str, Any] | None = None

    @property
    def reader(self) -> Reader | None:
        """How its rewards are read; None where it is no reward model."""
        return reader_of(self.params, self.about, self.path or "the model")

    @property
    def retriever(self) -> Retriever | None:
        """How it finds texts; None where it is no retriever."""
        return retriever_of(self.params, self.about, self.path or "the model")


def save_model(directory: Path, params: Mapping[str, Tree], config: TextConfig, about: Mapping[str, Any]) -> None:
    """Write the parameters of a finished stage to `directory/model`, once."""
    store = CheckpointStore(directory / MODEL, keep=None)
    heads = {name: jax.tree.map(lambda x: list(x.shape), tree) for name, tree in params.items() if name != "model"}
    meta = {"config": to_jsonable(config), "heads": heads, "about": dict(about)}
    store.save(0, dict(params), meta)
    store.close()


def discard_model(directory: Path) -> Path:
    """Take a damaged model out of a stage directory, on every process; where it is kept."""
    store = CheckpointStore(directory / MODEL, keep=None)
    together("a damaged model is found")
    moved = store.set_aside(0)
    together("and set aside")
    return moved


def read_config(path: Path | str) -> TextConfig:
    """The architecture of what `load_model` reads, without its weights."""
    path = Path(path)
    if is_export(path):
        return config_of(path)
    return kept(path).config


def check_files(path: Path | str) -> None:
    """Every tensor of a Hugging Face folder is there and fits, as `load_model` will find; none is read.

    Raises:
      CheckpointError: as `jaxpo.convert.hf.import_hf`.
    """
    path = Path(path)
    if not is_export(path):
        return
    besides = _besides(path)
    with open_folder(path) as found:
        tensors = {name: tensor for name, tensor in found.tensors.items() if name not in besides}
        check_tensors(tensors, param_table(found.config), path)


def _besides(path: Path) -> tuple[str, ...]:
    """Names of tensors of an export that are a head's."""
    if is_heads(path):
        return SCORES
    return (HEAD,) if is_reward(path) else ()


def read_heads(path: Path | str) -> tuple[str, ...]:
    """Names of the heads beside the model of what `load_model` reads, without their weights."""
    path = Path(path)
    if is_export(path):
        if is_heads(path):
            return tuple(dict.fromkeys(name.split(".")[0] for name in reading_of(path)["heads"]))
        if is_retriever(path):
            return tuple(read_retriever(path)[0])
        return ("value",) if is_reward(path) else ()
    return tuple(kept(path).heads)


def read_reader(path: Path | str) -> Reader | None:
    """How the rewards of what `load_model` reads are read, without its weights; None where it is no reward model."""
    path = Path(path)
    if not is_export(path):
        found = kept(path)
        return reader_of(found.heads, found.about, path)
    about = {REWARD: reading_of(path)} if is_heads(path) else {}
    return reader_of(dict.fromkeys(read_heads(path)), about, path)


def read_retriever_of(path: Path | str) -> Retriever | None:
    """How what `load_model` reads finds texts, without its weights; None where it is no retriever."""
    path = Path(path)
    if is_export(path):
        return read_retriever(path)[1] if is_retriever(path) else None
    found = kept(path)
    return retriever_of(found.heads, found.about, path)


def load_model(path: Path | str, mesh: jax.sharding.Mesh | None = None, rules: Any = None) -> Model:
    """Read a model: of a run (its last finished stage), a stage, a checkpoint, an HF export, an adapter on its base.

    Raises:
      CheckpointError: the folder holds no model; names what was looked for.
    """
    path = Path(path)
    mesh = mesh or make_mesh({}, jax.devices()[:1])
    if is_export(path):
        return _load_export(path, mesh, rules)
    found = kept(path)
    table = param_table(found.config)
    model = abstract_params(table, shardings=param_shardings(table, mesh, rules))
    params = _read(found, {"model": model, **_abstract_heads(found.heads, mesh, found.folder)})
    tokenizer, generation = near_tokenizer(found.stage), near_generation(found.stage)
    return Model(params, found.config, tokenizer, found.about, found.stage, generation)


def _read(found: Kept, abstract: Tree) -> Tree:
    if not found.part:
        return found.store.restore(found.step, abstract)[0]
    return found.store.restore_part(found.step, found.part.removesuffix("/"), abstract)[0]


def _abstract_heads(shapes: Any, mesh: jax.sharding.Mesh, folder: Path) -> Any:
    """What lies beside the model, on every device: a head's table follows its method's settings, which are not here."""
    if isinstance(shapes, Mapping):
        return {name: _abstract_heads(below, mesh, folder) for name, below in shapes.items()}
    if not isinstance(shapes, list) or not all(type(size) is int and 0 < size < 2**31 for size in shapes):
        raise CheckpointError(f"{folder}: its meta.json gives a head the shape {shown(shapes)}; copy it again.")
    return jax.ShapeDtypeStruct(tuple(shapes), jnp.float32, sharding=replicated(mesh))


def _load_export(path: Path, mesh: jax.sharding.Mesh, rules: Any) -> Model:
    config = read_config(path)
    shardings = param_shardings(param_table(config), mesh, rules)
    about: dict[str, Any] = dict(import_record(path))
    if is_reward(path):
        params, config = import_reward(path, shardings=shardings)
    else:
        params = {"model": import_hf(path, shardings=shardings, besides=_besides(path))[0]}
    if is_heads(path):
        params |= read_heads_of(path, replicated(mesh))
        about[REWARD] = reading_of(path)
    if is_retriever(path):
        layers, retriever = read_retriever(path)
        params |= jax.device_put(layers, replicated(mesh))
        about[RETRIEVER] = retriever.as_json()
    return Model(params, config, near_tokenizer(path), about, path, near_generation(path))


def import_record(path: Path) -> dict[str, str]:
    """What a model says of itself that was read from a Hugging Face folder."""
    name = path.resolve().name
    if is_pipeline(path):
        return {"stage": "import", "trained_on": f"a pipeline of diffusers ({name})"}
    if is_decoder(path):
        return {"stage": "import", "trained_on": f"the decoder of a VAE of diffusers ({name})"}
    if is_adapter(path):
        return {"stage": "import", "trained_on": f"a PEFT adapter ({name}) on {base_of(path).name}"}
    return {"stage": "import", "trained_on": f"a Hugging Face checkpoint ({name})"}


def near_tokenizer(path: Path) -> Tokenizer | None:
    """The tokenizer of what `load_model` reads; None when there is none beside it."""
    file = "tokenizer.json"
    folders = _export_folders(path) if is_export(path) else [near / TOKENIZER for near in _near(stage_folder(path))]
    return next((Tokenizer.load(folder) for folder in folders if (folder / file).is_file()), None)


def near_generation(path: Path) -> dict[str, Any] | None:
    """The generation_config.json of what `load_model` reads; None when there is none of its own."""
    folders = _export_folders(path) if is_export(path) else _near(stage_folder(path))
    return next((found for folder in folders if (found := read_generation(folder)) is not None), None)


def _export_folders(path: Path) -> list[Path]:
    """A checkpoint's folder; an adapter's, and then its base's; that of a pipeline's tokenizer."""
    if is_pipeline(path):
        return [path / TOKENIZER]
    return [path, base_of(path)] if is_adapter(path) else [path]


def _near(stage: Path) -> list[Path]:
    """A stage's folder and those of its run."""
    return [stage, *list(stage.resolve().parents)[:3]]
