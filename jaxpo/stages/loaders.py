"""The packed batches of a stage: the same on any number of devices, in the blocks that the stage began with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from jaxpo.checkpoint.fallback import set_damaged_aside
from jaxpo.checkpoint.store import CHECKPOINTS, CheckpointStore
from jaxpo.config import Run, Stage
from jaxpo.convert.kept import has_model
from jaxpo.data.packing.best_fit import Caps
from jaxpo.data.packing.caps import shared_problems
from jaxpo.data.packing.loader import Loader
from jaxpo.data.tokens.prepare import Dataset
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.recipe.kinds import kind_of
from jaxpo.recipe.lineage import seed_of, trained
from jaxpo.sharding import BATCH_AXES, axis_size, row_share
from jaxpo.stages.distilling import Part
from jaxpo.stages.run_inputs import StageData
from jaxpo.stages.setting import Setting
from jaxpo.train.rundir import RunDir

BLOCKS, PLAN = "blocks", "row_plan"


def make_loaders(setting: Setting, stage: Stage, data: StageData, store: CheckpointStore) -> dict[Part, Loader]:
    """Of the training files, and of the held-out ones in their order.

    Raises:
      ConfigError: devices and microbatches that cannot share a step's blocks.
      CheckpointError: the batches would be others than those that the checkpoints have seen.
    """
    latest = store.latest()
    stored = {} if latest is None else store.meta(latest)
    blocks = {part: Caps(**caps) for part, caps in stored.get(BLOCKS, {}).items()}
    if latest is not None and not blocks:
        blocks = blocks_of_plan(stage, data.train, seed_of(setting.run, stage), stored.get("data", {}))
    loaders: dict[Part, Loader] = {"train": _loader(setting, stage, data.train, "train", blocks)}
    if latest is not None:
        _same_order(loaders["train"], stored, store)
    if data.held_out is not None:
        loaders["eval"] = _loader(setting, stage, data.held_out, "eval", blocks)
    return loaders


def _loader(setting: Setting, stage: Stage, dataset: Dataset, part: Part, blocks: Mapping[str, Caps]) -> Loader:
    index, count = row_share(setting.mesh)
    try:
        return Loader(
            dataset,
            stage.data,
            seed=seed_of(setting.run, stage),
            rows_per_step=stage.rows_per_step,
            shuffle=stage.data.shuffle if part == "train" else False,
            process_index=index,
            process_count=count,
            divisor=_sharers(stage, setting.mesh),
            caps=blocks.get(part),
        )
    except ConfigError as error:
        raise ConfigError([f"{_where(stage, part)}: {problem}" for problem in error.problems]) from error


def _where(stage: Stage, part: Part) -> str:
    return stage.name if part == "train" else f"{stage.name}, held-out rows"


def _sharers(stage: Stage, mesh: Mesh) -> int:
    """Microbatches times data-parallel devices."""
    return axis_size(mesh, BATCH_AXES) * stage.gradient_accumulation_steps


def check_rows(run: Run, mesh: Mesh, home: RunDir) -> None:
    """The rows of every stage still to be trained can be shared, as far as that shows before its data are read.

    Raises:
      ConfigError: lists the stages of which they cannot.
    """
    problems = [
        f"{stage.name}: {problem}"
        for stage in trained(run)
        if not has_model(home.stage(stage.name))
        for problem in shared_problems(stage.rows_per_step, stage.data.block_rows or 1, _sharers(stage, mesh))
    ]
    if problems:
        raise ConfigError(problems)


def check_blocks(setting: Setting, resume: str | int) -> None:
    """Every stage still to be trained whose data are there gets its batches; before any is, so that none stops late.

    Args:
      resume: the step to go back to in the stage under way, or "auto": damaged checkpoints are set aside first.

    Raises:
      ConfigError: lists the stages of which the devices and microbatches cannot share the blocks, and the sources of
        mixtures that would be passed through more often than they may.
    """
    problems = []
    for stage in trained(setting.run):
        folder = setting.home.stage(stage.name)
        if has_model(folder):
            continue
        store = CheckpointStore(folder / CHECKPOINTS)
        if resume == "auto":
            set_damaged_aside(store, setting.console.say)
        elif resume in store.steps():
            store.back_to(int(resume))
        if stage.name not in setting.inputs.stages or kind_of(stage).runs != "train":
            continue  # images are no blocks: `check_rows` has seen that their rows can be shared
        try:
            loader = make_loaders(setting, stage, setting.inputs.of(stage), store)["train"]
            problems += _too_often(loader, stage)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def _too_often(loader: Loader, stage: Stage) -> list[str]:
    """Sources of a stage's mixture that would be passed through more often than their `max_epochs` allows."""
    if loader.plan.mixture is None:
        return []
    try:
        loader.mixture_lines(loader.total_steps(stage) * stage.rows_per_step)
    except ConfigError as error:
        return [f"{stage.name}: {problem}" for problem in error.problems]
    return []


def blocks_of_plan(stage: Stage, dataset: Dataset, seed: int, kept: Mapping[str, Any]) -> dict[str, Caps]:
    """The training blocks behind a checkpoint of 0.1.0, which chose them for its devices and kept their hash alone."""
    sizes = [n for n in range(1, stage.rows_per_step + 1) if stage.rows_per_step % n == 0]
    for rows in sizes if stage.data.block_rows is None else ():
        try:
            data = dataclasses.replace(stage.data, block_rows=rows)
            loader = Loader(dataset, data, seed=seed, rows_per_step=stage.rows_per_step)
        except ConfigError:  # an example needs more rows
            continue
        if loader.named(kept.get("train", "")) == kept.get("plan"):
            return {"train": loader.caps}
    return {}


def _same_order(loader: Loader, stored: Mapping[str, Any], store: CheckpointStore) -> None:
    """The batches to come continue those that the checkpoint has seen; else CheckpointError."""
    kept = stored.get("data", {})
    if PLAN in stored:
        same = stored[PLAN] == loader.plan.hash
    else:
        same = "plan" not in kept or kept["plan"] == loader.named(kept.get("train", ""))
    if not same:
        raise CheckpointError(
            f"{store.directory}: its rows were packed into other batches than now, so that some would come twice and "
            f"others never. jaxpo {store.environment().get('jaxpo', 'of an earlier version')}, which saved it, goes on "
            "with it."
        )
