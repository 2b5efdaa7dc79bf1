"""A stage that is to be longer, or shorter, than when it was begun: where its schedule allows that."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from jaxpo.checkpoint.fallback import set_damaged_aside
from jaxpo.checkpoint.store import CHECKPOINTS, CheckpointStore
from jaxpo.config.fields import BUDGETS, key
from jaxpo.config.serialise import from_jsonable
from jaxpo.convert.kept import MODEL, has_model
from jaxpo.errors import RunError
from jaxpo.recipe.kinds import kind_of
from jaxpo.stages.adapter import ADAPTER_FOLDER
from jaxpo.stages.denoising import SOURCES
from jaxpo.stages.setting import Setting
from jaxpo.stages.taking_steps import EMA, LAST
from jaxpo.stages.working import report_of
from jaxpo.train.optimizer import first_difference


def change_budgets(setting: Setting, names: Collection[str], stored: Any, resume: str | int) -> None:
    """Let the named stages have their new lengths; one that had finished goes on from its last checkpoint.

    Args:
      stored: the configuration with the lengths that they had, as JSON.
      resume: the step to go back to in the stage under way, or "auto".

    Raises:
      RunError: steps that were taken would have had other learning rates, or a later stage has begun.
    """
    old = {key(s["name"]): {b: from_jsonable(s.get(b)) for b in BUDGETS} for s in stored["stages"]}
    stages = [stage for stage in setting.run.stages if stage.name in names]
    lines = [_change(setting, stage, replace(stage, **old[key(stage.name)]), resume) for stage in stages]
    for stage, line in zip(stages, lines, strict=True):
        setting.console.say(f"changed: {line}")
        setting.home.reopen(stage.name, (MODEL, EMA, LAST, ADAPTER_FOLDER))


def go_back(setting: Setting, names: Collection[str], resume: str | int) -> None:
    """Remove what was saved after the step to go back to, before the new lengths are kept.

    Otherwise a start that ends before its first step would leave it to the next one, which took it for steps of the
    new length.
    """
    if isinstance(resume, int):
        for name in names:
            CheckpointStore(setting.home.stage(name) / CHECKPOINTS).discard_after(resume)


def _change(setting: Setting, stage: Any, before: Any, resume: str | int) -> str:
    """What is said of one change; RunError where it cannot be."""
    line = f"{stage.name}: {_budget(before)} -> {_budget(stage)}"
    folder = setting.home.stage(stage.name)
    store = CheckpointStore(folder / CHECKPOINTS)
    if resume == "auto":
        set_damaged_aside(store, setting.console.say)
    steps = store.steps()
    if not steps and has_model(folder):
        raise RunError(f"{line}: {store.directory} holds no checkpoint to go on from. {_otherwise(setting, stage)}")
    if not steps:
        return f"{line} (no step was taken yet)"
    begun = [s.name for s in setting.run.stages[setting.run.stages.index(stage) + 1 :] if _has_begun(setting, s)]
    if begun:
        raise RunError(f"{line}: {begun[0]}, which follows it, has begun. {_otherwise(setting, stage)}")
    taken = resume if isinstance(resume, int) else steps[-1]
    if taken not in steps:
        raise RunError(f"--resume {taken}: {store.directory} has checkpoints of steps {steps}.")
    loader = SOURCES[kind_of(stage).runs](setting, stage, setting.inputs.of(stage), store)["train"]
    totals = loader.total_steps(before), loader.total_steps(stage)
    if totals[1] < taken:
        raise RunError(f"{line}: {taken} steps have been taken, more than the {totals[1]} that it would have.")
    found = first_difference(stage.optimizer, *totals, taken)
    if found is None:
        return f"{line} ({totals[0]} -> {totals[1]} steps; those taken are the same in both)"
    step, was, now = found
    earlier = [s for s in steps if s <= step]
    back = f" --resume {earlier[-1]} goes back to before that." if earlier else ""
    raise RunError(
        f"{line}: the rate of its {stage.optimizer.lr_scheduler_type!r} schedule depends on how long the stage is: "
        f"step {step + 1} was taken with {was:.3g} and would have been taken with {now:.3g}.{back} "
        "Only a constant rate, or 'wsd' before its decay, with a warm-up given in steps, can be made longer. "
        f"{_otherwise(setting, stage)}"
    )


def _has_begun(setting: Setting, stage: Any) -> bool:
    folder = setting.home.stage(stage.name)
    store = CheckpointStore(folder / CHECKPOINTS)
    return has_model(folder) or report_of(folder) is not None or bool(store.steps())


def _budget(stage: Any) -> str:
    return ", ".join(f"{name} {value}" for name in BUDGETS if (value := getattr(stage, name)) is not None)


def _otherwise(setting: Setting, stage: Any) -> str:
    folder = setting.home.stage(stage.name)
    return f"Leave it as it was, and train on in a run that starts from its model: --run NEW --model-from {folder}."
