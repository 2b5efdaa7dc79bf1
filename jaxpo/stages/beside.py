"""The networks beside a stage's trained one: checked before the first stage, opened or recorded when it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.convert.model_io import read_config, read_heads
from jaxpo.data.packing.columns import Columns
from jaxpo.data.packing.loader import Loader
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.family import limits
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.wrappers.fixed import FIXED
from jaxpo.objectives.wrappers.lora import BASE
from jaxpo.recipe.beside import START, Companion
from jaxpo.recipe.checks.beside import decodes, image_part, same_shape
from jaxpo.recipe.checks.denoise import beside_image_problems
from jaxpo.recipe.checks.model import difference
from jaxpo.recipe.kinds import method_of, networks_of
from jaxpo.stages.distilling import Part, given_fingerprint, given_records, open_records, record_top_k, to_record
from jaxpo.stages.frozen import FrozenNetwork, Say, check_vocabulary, load_frozen
from jaxpo.stages.recording import record_per_token
from jaxpo.stages.setting import Setting

Tree = Any
WHOLE = ("values", "network")
"""Kinds that are read of a model together with the heads beside it."""


@dataclass
class Opened:
    """The networks beside a trained one, ready for its training.

    Attributes:
      frozen: name -> parameters, of those that run in every step.
      scorers: name -> how one of them is run that is not the model that the stage starts from.
      columns: of the training files and of the held-out ones, readers of what was recorded.
      about: name -> fingerprint; what the stage's checkpoints say of them.
    """

    frozen: dict[str, Tree] = field(default_factory=dict)
    scorers: dict[str, Scorer] = field(default_factory=dict)
    columns: dict[Part, list[Columns]] = field(default_factory=lambda: {"train": [], "eval": []})
    about: dict[str, str] = field(default_factory=dict)


def check_beside(setting: Setting, stage: Any, say: Say = lambda _: None) -> None:
    """What can be known of a stage's networks or their records before the first stage is trained.

    Args:
      say: see `check_vocabulary`.

    Raises:
      ConfigError, DataError: another vocabulary, or records of something else.
      CheckpointError: a folder without a model.
    """
    for network in networks_of(stage):
        recorded = network.recorded and network.kind == "top_k"
        if network.source not in (None, START, *(s.name for s in setting.run.stages)):
            _check_folder(setting, stage, network, Path(str(network.source)), say)
        elif network.source == START:
            _check_images(setting, stage, network, setting.config(stage))
        if recorded and stage.name in setting.inputs.stages:
            _check_records(setting, stage, network.name)


def _check_folder(setting: Setting, stage: Any, network: Companion, folder: Path, say: Say) -> None:
    """A network from elsewhere has the vocabulary, and where it matters the shape and the head."""
    config = setting.config(stage)
    size = _vocabulary(setting, stage, network.name, folder)
    check_vocabulary(network.name, folder, setting.inputs.tokenizer, size, say)
    found = read_config(folder)
    _check_images(setting, stage, network, found)
    if network.name in same_shape(method_of(stage)) and found != config:
        raise ConfigError(
            f"{network.name} {folder}: it has another architecture ({difference(found, config)}), and the loss reads "
            "its activations layer by layer; use a model of the same shape."
        )
    if network.kind == "values" and "value" not in read_heads(folder):
        raise ConfigError(f"{network.name} {folder}: has no value head; give the model of a reward stage.")


def _vocabulary(setting: Setting, stage: Any, name: str, folder: Path) -> int | None:
    """Tokens that a network must have, as many as the trained one's; any where it judges or decodes images and one of
    the two reads no words."""
    own = limits(setting.config(stage)).vocabulary
    if image_part(method_of(stage), name) not in ("towers", "decode"):
        return own
    return own if own and limits(read_config(folder)).vocabulary else None


def _check_images(setting: Setting, stage: Any, network: Companion, theirs: Any) -> None:
    """What is known of a model in a folder now alone: see `jaxpo.recipe.checks.denoise.beside_image_problems`."""
    method = method_of(stage)
    part = image_part(method, network.name)
    if part is not None:
        problems = beside_image_problems(setting.config(stage), theirs, part, decoded=decodes(method))
        if found := [f"{stage.name}.beside.{network.name}.source: {problem}" for problem in problems]:
            raise ConfigError(found)


def _check_records(setting: Setting, stage: Any, network: str) -> None:
    data = setting.inputs.of(stage)
    parts: dict[Part, Any] = {"train": data.train, "eval": data.held_out}
    for part, dataset in parts.items():
        folder = given_records(stage, network, part)
        if folder is not None and dataset is not None:
            open_records(setting, stage, network, Path(folder), dataset)


def open_beside(setting: Setting, stage: Any, start: Tree, loaders: Mapping[Part, Loader]) -> Opened:
    """Load the networks that run in every step, and record those that do not.

    What comes from the start are the very arrays that the stage starts from: `init_state` copies what it trains.

    Args:
      start: the model that the stage starts from, with its heads.
      loaders: of the files that there are.
    """
    opened, origin = Opened(), FrozenNetwork(start["model"], setting.scorer_of(stage))
    if stage.lora is not None:
        opened.frozen[BASE], opened.about[BASE] = origin.params, origin.fingerprint
    for wanted in networks_of(stage):
        if wanted.moves:
            continue
        network = _load(setting, stage, wanted, origin, start) if _is_run(stage, wanted) else None
        if wanted.recorded:
            for part, loader in loaders.items():
                opened.columns[part].append(_record(setting, stage, wanted, network, loader, part))
            known = given_fingerprint(stage, wanted.name) if network is None else network.fingerprint
            opened.about[wanted.name] = known
        else:
            assert network is not None
            _run_in_every_step(setting, stage, wanted, network, opened)
    return opened


def _run_in_every_step(setting: Setting, stage: Any, wanted: Companion, network: FrozenNetwork, opened: Opened) -> None:
    own = _is_start(setting, stage, wanted)
    opened.about[wanted.name] = network.fingerprint
    if not own:
        opened.scorers[wanted.name] = network.scorer
    # With adapters the base stands in for a network that is not there: it is held once.
    if not own or stage.lora is None or wanted.kind in WHOLE:
        opened.frozen[wanted.name] = network.params


def _is_run(stage: Any, wanted: Companion) -> bool:
    """Whether the network itself is needed: in every step, or to record what nobody has recorded yet."""
    return wanted.source is not None and not (
        wanted.recorded and wanted.kind == "top_k" and not to_record(stage, wanted.name)
    )


def _is_start(setting: Setting, stage: Any, wanted: Companion) -> bool:
    """Whether it is the model that the stage starts from, by that name or by another."""
    if wanted.source in (None, START):
        return True
    origin = setting.origin(stage)
    return origin is not None and origin.resolve() == setting.model_folder(str(wanted.source)).resolve()


def _load(setting: Setting, stage: Any, wanted: Companion, origin: FrozenNetwork, start: Tree) -> FrozenNetwork:
    heads = wanted.kind in WHOLE
    if not _is_start(setting, stage, wanted):
        folder = setting.model_folder(str(wanted.source))
        found = load_frozen(
            wanted.name,
            folder,
            setting.inputs.tokenizer,
            setting.mesh,
            setting.rules,
            vocab_size=_vocabulary(setting, stage, wanted.name, folder),
            scorer=setting.scorer_of(stage),
            heads=heads,
        )
    else:
        found = FrozenNetwork(dict(start), origin.scorer) if heads else origin
    if wanted.kind == "values" and "value" not in found.params:
        raise CheckpointError(
            f"{stage.name}.beside.{wanted.name}: {wanted.source} has no value head; name a model that was trained with "
            "one, such as a reward model."
        )
    return found


def _record(
    setting: Setting, stage: Any, wanted: Companion, network: FrozenNetwork | None, loader: Loader, part: Part
) -> Columns:
    if wanted.kind == "top_k":
        return record_top_k(setting, stage, wanted.name, network, loader, part)
    assert network is not None
    folder = setting.home.stage(stage.name) / wanted.name
    return record_per_token(network, wanted.name, wanted.kind, loader, folder, setting.mesh, setting.console.say)


def same_beside(store: CheckpointStore, about: Mapping[str, str]) -> None:
    """A stage goes on beside the networks that it began beside, or not at all: its checkpoints hold none of them.

    Checkpoints of earlier versions do not speak of every network.
    """
    latest = store.latest()
    stored = {} if latest is None else store.meta(latest)
    for name, found in about.items():
        if stored.get(name, found) != found:
            remedy = "the model that the stage starts from" if name in (BASE, FIXED) else f"that {name}"
            raise CheckpointError(
                f"{store.directory}: its checkpoints were trained beside another {name} than the one found now; put "
                f"{remedy} back, or start over with --restart."
            )
