"""The steps of a trained stage that is ready, and what it keeps beside the model that it hands on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.config import Stage
from jaxpo.config.serialise import to_jsonable
from jaxpo.construct.context import SNAPSHOTS
from jaxpo.convert.kept import ROUNDED, has_model
from jaxpo.convert.model_io import save_model
from jaxpo.data.source import Source
from jaxpo.models.family import TextConfig
from jaxpo.models.paths import cut, joined
from jaxpo.objectives.wrappers.lora import ADAPTER, BASE
from jaxpo.recipe.lineage import seed_of
from jaxpo.stages.adapter import BASE_FOLDER, save_adapter
from jaxpo.stages.assemble import Assembly
from jaxpo.stages.beside import Opened
from jaxpo.stages.setting import Setting
from jaxpo.train.bookkeeping import Evaluate
from jaxpo.train.clock import UNKNOWN, Ceiling
from jaxpo.train.init import init_state
from jaxpo.train.loop import best_state, fit
from jaxpo.train.profile import Profile
from jaxpo.train.state import State

Tree = Any
EMA, LAST = "ema", "last"
PROFILE = "profile"


@dataclass(frozen=True)
class Trained:
    """A stage about to be trained.

    Attributes:
      base: the model that it starts from, with its heads.
      first, fixed: the first parameters of what it may train, and the part of them that stays.
      whole: what is trained -> the plain model and its heads.
    """

    assembly: Assembly
    source: Source
    beside: Opened
    base: Tree
    first: Tree
    fixed: Tree
    whole: Callable[[Tree], Tree]


def train_to_end(
    setting: Setting,
    stage: Any,
    trained: Trained,
    store: CheckpointStore,
    *,
    evaluate: Evaluate | None,
    meta: Mapping[str, Any],
    ceiling: Ceiling = UNKNOWN,
) -> Tree:
    """Take a stage's steps, keep what it keeps beside its model, and return the parameters that it hands on.

    Args:
      meta: what checkpoints say of the data, beside what they say of every stage.
    """
    assembly, whole, config = trained.assembly, trained.whole, setting.config(stage)
    folder, seed = setting.home.stage(stage.name), seed_of(setting.run, stage)

    def snapshot(n: int, state: State) -> None:
        about = setting.about(stage) | {"step": n}
        now = state.ema if stage.use_ema else state.params
        keep_snapshot(folder / SNAPSHOTS / str(n), whole(now), config, about)

    state = fit(
        stage=stage,
        total_steps=assembly.total_steps,
        init=lambda: init_state(
            assembly.abstract, cut(assembly.trained, trained.first), assembly.optimizer, assembly.objective, seed
        ),
        abstract=assembly.abstract,
        frozen=trained.beside.frozen,
        step=assembly.step,
        evaluate=evaluate,
        source=trained.source,
        put=assembly.put,
        store=store,
        meta={
            "config": to_jsonable(setting.run),
            "model": to_jsonable(config),
            "weights": "ema" if stage.use_ema else "params",
            **({} if stage.qat is None else {ROUNDED: stage.qat.grid}),
            **{name: said for name, said in setting.about(stage).items() if name != "stage"},
            **trained.beside.about,
            **meta,
        },
        log=setting.log,
        console=setting.console,
        stop=setting.stop,
        on_nonfinite_dir=folder,
        ceiling=ceiling,
        snapshot=snapshot,
        watching=setting.watching,
        profile=Profile(setting.profile and setting.profile.of(stage.name), folder / PROFILE, setting.console.say),
        hang_timeout=setting.run.hang_timeout,
        hang_exit=setting.run.hang_exit,
    )
    if stage.load_best_model_at_end:
        state = best_state(store, assembly.abstract, state, setting.console.say)
    result, other = (state.ema, state.params) if stage.use_ema else (state.params, state.ema)
    if other is not None:
        _keep_other(setting, stage, whole(other))
    if stage.lora is not None:
        adapter, origin = joined(result, trained.fixed)[ADAPTER], setting.origin(stage)
        _keep_adapter(setting, stage, trained.base["model"], adapter, origin, trained.beside.about)
    return whole(result)


def _keep_other(setting: Setting, stage: Stage, params: Tree) -> None:
    """Keep what the stage does not hand on of the last parameters and their average, as a model of its own."""
    folder = setting.home.stage(stage.name) / (LAST if stage.use_ema else EMA)
    if not has_model(folder):
        about = setting.about(stage) | {"stage": f"{stage.name}/{folder.name}"}
        save_model(folder, params, setting.config(stage), about)


def _keep_adapter(
    setting: Setting, stage: Stage, base: Tree, adapter: Tree, origin: Path | None, about: Mapping[str, str]
) -> None:
    """Keep the adapter for `jaxpo export --adapter`."""
    assert stage.lora is not None
    folder, config = setting.home.stage(stage.name), setting.config(stage)
    if origin is None:
        origin = folder / BASE_FOLDER
        save_model(origin, {"model": base}, config, {"stage": "initial", "trained_on": "nothing"})
    save_adapter(folder, adapter, stage.lora, origin, about[BASE])


def keep_snapshot(folder: Path, params: Tree, config: TextConfig, about: Mapping[str, Any]) -> None:
    """Save the model of one step for good, unless an earlier start did: a step taken again gives the same model."""
    if not has_model(folder):
        save_model(folder, params, config, about)
