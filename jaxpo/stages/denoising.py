"""One stage of a run that trains a model which denoises images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.config.fields import flag
from jaxpo.data.images.source import ImageSource
from jaxpo.data.packing.caps import shared_problems
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.paths import joined
from jaxpo.recipe.kinds import method_of
from jaxpo.recipe.lineage import seed_of
from jaxpo.sharding import BATCH_AXES, axis_size, row_share
from jaxpo.stages.assemble import assemble, make_evaluation, own_tables
from jaxpo.stages.beside import open_beside, same_beside
from jaxpo.stages.loaders import make_loaders
from jaxpo.stages.run_inputs import StageData
from jaxpo.stages.setting import Setting
from jaxpo.stages.taking_steps import Trained, train_to_end
from jaxpo.stages.trained import beside_fixed, check_heads, fixed_part, trained_lines
from jaxpo.stages.training import first_of, open_store, plain, start_of

Tree = Any


def train_denoiser(setting: Setting, stage: Any, previous: Tree, resume: str | int) -> Tree:
    """Train one stage, or go on with it; returns its parameters.

    Args:
      previous: parameters that the stage before it left.
      resume: "auto", or the step of this stage to go back to.
    """
    data, config = setting.inputs.of(stage), setting.config(stage)
    base = start_of(setting, stage, previous, setting.origin(stage))
    store = open_store(setting, stage, setting.home.stage(stage.name), resume)
    sources = image_sources(setting, stage, data, store)
    beside = open_beside(setting, stage, base, {})
    tables = own_tables(stage, config)
    check_heads(stage, tables, base)
    first = first_of(base, tables, seed_of(setting.run, stage), ())
    fixed = fixed_part(setting, stage, config, first)
    beside = beside_fixed(beside, fixed)

    def whole(params: Tree) -> Tree:
        return plain(setting, stage, base["model"], joined(params, fixed))

    scorer = setting.scorer_of(stage)
    assembly = assemble(stage, sources["train"], scorer, setting.mesh, setting.rules, beside.scorers)
    for line in trained_lines(stage, config, assembly):
        setting.console.say(line)
    images: Any = data.train
    for line in empty_caption_lines(stage.name, method_of(stage), 0 if images.empty is not None else images.states):
        setting.console.say(line)
    same_beside(store, beside.about)
    setting.results.data_counts(stage.name, data)
    held_out = None
    if "eval" in sources:
        batches = sources["eval"].one_pass(stage.eval_rows)
        held_out = make_evaluation(assembly.objective, batches, assembly.put, beside.frozen, use_ema=stage.use_ema)
    return train_to_end(
        setting,
        stage,
        Trained(assembly, sources["train"], beside, base, first, fixed, whole),
        store,
        evaluate=held_out,
        meta={"data": {"plan": sources["train"].hash, **data.fingerprint()}},
    )


def empty_caption_lines(stage: str, method: Any, states: int) -> list[str]:
    """What is said where no tower makes the empty caption.

    Args:
      states: of the longest caption; 0 where captions are tokens, or the data have those of the empty one.
    """
    if not (states and method.reads_empty):
        return []
    return [
        f"{stage}: warning: the captions are states, so that the empty caption of {method.INFO.name} is one state of "
        "zeros, not what an encoder makes of an empty text; a model that was trained elsewhere does not know it. Give "
        f"its states: {flag((stage, 'images', 'empty_states'))} FILE."
    ]


def image_sources(setting: Setting, stage: Any, data: StageData, store: CheckpointStore) -> dict[str, ImageSource]:
    """Of the training images, and of the held-out ones in their order.

    Raises:
      ConfigError: devices and microbatches that cannot share a step's examples.
      CheckpointError: the batches would be others than those that the checkpoints have seen.
    """
    sharers = axis_size(setting.mesh, BATCH_AXES) * stage.gradient_accumulation_steps
    if problems := shared_problems(stage.rows_per_step, 1, sharers):
        raise ConfigError([f"{stage.name}: {problem}" for problem in problems])
    index, count = row_share(setting.mesh)
    parts: Mapping[str, Any] = {"train": data.train, "eval": data.held_out}
    sources = {
        part: ImageSource(
            dataset,
            seed=seed_of(setting.run, stage),
            rows_per_step=stage.rows_per_step,
            shuffle=stage.data.shuffle and part == "train",
            process_index=index,
            process_count=count,
        )
        for part, dataset in parts.items()
        if dataset is not None
    }
    latest = store.latest()
    if latest is not None and store.meta(latest)["data"]["plan"] != sources["train"].hash:
        raise CheckpointError(
            f"{store.directory}: its checkpoints have seen other batches than those that would follow now; put the "
            "images and their settings back, or start over with --restart."
        )
    return sources


SOURCES: Mapping[str, Callable[..., Any]] = {"train": make_loaders, "denoise": image_sources}
"""`Kind.runs` -> the batches of such a stage."""
