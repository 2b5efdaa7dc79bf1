"""The checks of every trained stage: data, budget, schedule, evaluation, initial weights, method."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxpo.config import Data, Run, Stage
from jaxpo.config.fields import BUDGETS, flag
from jaxpo.errors import did_you_mean
from jaxpo.objectives.methods.base import Method
from jaxpo.recipe.checks.beside import beside_problems
from jaxpo.recipe.checks.critic import critic_problems
from jaxpo.recipe.checks.files import file_problems
from jaxpo.recipe.checks.lora import lora_problems
from jaxpo.recipe.checks.model import direction_problems, origin_problems, own_model_problems
from jaxpo.recipe.checks.optimizer import average_problems, optimizer_problems
from jaxpo.recipe.checks.qat import qat_problems
from jaxpo.recipe.checks.routing import routing_problems
from jaxpo.recipe.checks.sharing import window_problems
from jaxpo.recipe.kind import Kind
from jaxpo.recipe.kinds import find_method, kind_of, kinds_for
from jaxpo.recipe.lineage import PREVIOUS, RANDOM, declared_model, with_models


def stage_problems(run: Run, index: int, stage: Any) -> Iterator[str]:
    """What is wrong with a trained stage of whatever kind."""
    kind = kind_of(stage)
    yield from length_problems(stage)
    yield from budget_problems(stage)
    yield from optimizer_problems(stage)
    yield from average_problems(stage)
    yield from evaluation_problems(stage, kind)
    yield from init_problems(run, index, stage)
    yield from own_model_problems(run, stage)
    yield from origin_problems(run, index, stage)
    yield from direction_problems(stage, declared_model(run, stage), kind.predicts)
    yield from window_problems(stage, declared_model(run, stage))
    yield from lora_problems(stage)
    yield from qat_problems(stage)
    yield from routing_problems(run, stage)
    if kind.default is None or getattr(stage, "loss", None) is not None:
        yield from method_problems(stage, kind)
    method = find_method(stage)
    if hasattr(method, "NEEDS") and not isinstance(method, type):
        yield from whole_step_problems(stage, method)
        yield from beside_problems(run, index, stage, method)
        yield from critic_problems(run, index, stage)


def data_problems(run: Run, stage: Stage) -> Iterator[str]:
    """Files."""
    data, name = stage.data, stage.name
    if not data.files:
        yield f"{name}.data.train: no training files; give {flag((name, 'data', 'train'))} FILES."
    yield from mix_problems(data, name)
    earlier, images = run.stages[: run.stages.index(stage)], kind_of(stage).runs == "denoise"
    yield from file_problems(run, f"{name}.data.train", data.train, earlier, images=images)
    for source, mixed in data.mix:
        yield from file_problems(run, f"{name}.data.mix.{source}.files", mixed.files, earlier)
    yield from file_problems(run, f"{name}.data.eval", data.eval, earlier, images=images)


def length_problems(stage: Stage) -> Iterator[str]:
    """Lengths of segments and rows, blocks, and the order of the rows."""
    data, name = stage.data, stage.name
    if data.max_length < 2:
        yield f"{name}.data.max_length: {data.max_length} leaves nothing to predict; it must be at least 2."
    if data.max_length > data.row_length:
        yield (
            f"{name}.data.max_length: {data.max_length} is longer than row_length {data.row_length}; "
            f"raise {flag((name, 'data', 'row_length'))} or lower {flag((name, 'data', 'max_length'))}."
        )
    if data.block_rows is not None and data.block_rows < 1:
        yield f"{name}.data.block_rows: {data.block_rows} must be at least 1."
    if data.fim is not None and not 0 < data.fim.rate <= 1:
        yield f"{name}.data.fim.rate: {data.fim.rate:g} must lie in (0, 1]; None rearranges nothing."
    if (curriculum := data.curriculum) is not None:
        where = f"{name}.data.curriculum"
        if curriculum.phases < 1:
            yield f"{where}.phases: {curriculum.phases} must be at least 1."
        if not 0 <= curriculum.mix <= 1:
            yield f"{where}.mix: {curriculum.mix:g} must lie in [0, 1]; it is the share of rows spread over all phases."
        if not curriculum.column:
            yield f"{where}.column: names no column of the training rows."


def mix_problems(data: Data, name: str) -> Iterator[str]:
    """Names, weights and limits of a mixture's sources."""
    where = f"{name}.data.mix"
    if data.mix and data.train:
        yield f"{where}: the files of data.train belong to none of its sources; name them in one, or leave mix out."
    if data.spread_groups and (data.mix or data.curriculum is not None):
        other = "mixture" if data.mix else "curriculum"
        yield f"{name}.data.spread_groups: a {other} has an order of its own; leave one of the two out."
    if data.spread_groups and not data.shuffle:
        yield f"{name}.data.spread_groups: shuffle is off, which keeps the order of the file; leave one of the two out."
    if data.balance_groups and not data.spread_groups:
        yield f"{name}.data.balance_groups: it is spread_groups that orders by group; switch that on too."
    if data.mix and data.curriculum is not None:
        yield f"{where}: a curriculum has an order of its own; leave one of the two out."
    if not 0 < data.mix_until < math.inf:
        yield f"{name}.data.mix_until: {data.mix_until:g} must be above 0."
    ends = [mixed.weight if mixed.end_weight is None else mixed.end_weight for _, mixed in data.mix]
    if ends and not any(end > 0 for end in ends):
        yield f"{where}: every source's end_weight is 0; one must be above."
    names = [source for source, _ in data.mix]
    for source in {n for n in names if names.count(n) > 1}:
        yield f"{where}: two sources are called {source!r}."
    for source, mixed in data.mix:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", source):
            yield f"{where}: {source!r} is no name of a source; use letters, digits, _ and -."
        if not mixed.files:
            yield f"{where}.{source}.files: no files; give {flag((name, 'data', 'mix', source, 'files'))} FILES."
        if not 0 < mixed.weight < math.inf:
            yield f"{where}.{source}.weight: {mixed.weight:g} must be above 0; or leave the source out."
        if mixed.end_weight is not None and not 0 <= mixed.end_weight < math.inf:
            yield f"{where}.{source}.end_weight: {mixed.end_weight:g} must be at least 0."
        if mixed.max_epochs is not None and not mixed.max_epochs > 0:
            yield f"{where}.{source}.max_epochs: {mixed.max_epochs:g} must be above 0, or None for no limit."


def budget_problems(stage: Stage) -> Iterator[str]:
    """Exactly one budget; whole microbatches."""
    name = stage.name
    given = [b for b in BUDGETS if getattr(stage, b) is not None]
    choices = ", ".join(flag((name, b)) for b in BUDGETS)
    if not given:
        yield f"{name}: has no budget; give one of {choices}."
    elif len(given) > 1:
        yield f"{name}: has several budgets ({', '.join(given)}); give exactly one of {choices}."
    for budget in given:
        if getattr(stage, budget) <= 0:
            yield f"{name}.{budget}: {getattr(stage, budget)} must be above 0."
    rows, parts = stage.rows_per_step, stage.gradient_accumulation_steps
    if rows < 1:
        yield f"{name}.rows_per_step: {rows} must be at least 1."
    if parts < 1:
        yield f"{name}.gradient_accumulation_steps: {parts} must be at least 1."
    elif rows % parts:
        yield (
            f"{name}.rows_per_step: {rows} rows do not divide into {parts} microbatches "
            f"(gradient_accumulation_steps); use {rows // parts * parts or parts} or {-(-rows // parts) * parts} rows."
        )
    block = stage.data.block_rows
    if block is not None and block >= 1 and parts >= 1 and rows % parts == 0 and (rows // parts) % block:
        yield f"{name}.data.block_rows: a microbatch of {rows // parts} rows is not whole blocks of {block} rows."


def negative(stage: Any, fields: tuple[str, ...]) -> Iterator[str]:
    for field in fields:
        if getattr(stage, field) < 0:
            yield f"{stage.name}.{field}: {getattr(stage, field)} must not be negative."


def evaluation_problems(stage: Stage, kind: Kind) -> Iterator[str]:
    """Evaluation needs files; the best checkpoint needs a metric that exists."""
    name, metric = stage.name, stage.metric_for_best_model
    yield from negative(stage, ("eval_steps", "save_steps", "snapshot_steps"))
    for field in ("eval_rows", "logging_steps", "save_total_limit"):
        if getattr(stage, field) < 1:
            yield f"{name}.{field}: {getattr(stage, field)} must be at least 1."
    asked = "metric_for_best_model" if metric is not None else "eval_steps" if stage.eval_steps > 0 else None
    if stage.load_best_model_at_end and metric is None:
        yield (
            f"{name}.load_best_model_at_end: by no metric is one the best; give "
            f"{flag((name, 'metric_for_best_model'))} METRIC, or leave it out."
        )
    if asked and not stage.data.eval:
        yield f"{name}.{asked}: needs held-out files; give {flag((name, 'data', 'eval'))} FILES."
    if metric is not None:
        method = getattr(getattr(stage, "loss", None), "METRICS", ())
        unmeasured = getattr(getattr(stage, "loss", None), "UNMEASURED", ())
        known = (*(m for m in kind.metrics if m not in unmeasured), *method, *kind.more_metrics(stage))
        if metric.removeprefix("eval_") not in known:
            near = did_you_mean(metric.removeprefix("eval_"), known, prefix="eval_")
            yield (
                f"{name}.metric_for_best_model: a {type(stage).__name__} stage has no metric {metric!r}.{near} "
                f"Known: {', '.join('eval_' + k for k in known)}."
            )


def init_problems(run: Run, index: int, stage: Stage) -> Iterator[str]:
    """`init_from` names "previous", "random", an earlier stage, or a folder."""
    earlier = [s.name for s in with_models(run, index)]
    wanted = stage.init_from
    if wanted in (PREVIOUS, RANDOM) or wanted in earlier or Path(wanted).is_dir():
        return
    if wanted in [s.name for s in run.stages[index:]]:
        yield f"{stage.name}.init_from: the stage {wanted!r} does not come before {stage.name!r}."
    else:
        yield (
            f"{stage.name}.init_from: {wanted!r} is neither 'previous' nor 'random', nor an earlier stage "
            f"({', '.join(earlier) or 'there is none'}), nor a folder."
            f"{did_you_mean(wanted, [*earlier, PREVIOUS, RANDOM])}"
        )


def method_problems(stage: Any, kind: Kind) -> Iterator[str]:
    """The method exists and can use what the stage offers it."""
    name = stage.name
    needs = getattr(stage.loss, "NEEDS", None)
    if stage.loss is None:
        yield f"{name}.loss: no method chosen; give {flag((name, 'loss'))} NAME (`jaxpo losses` lists them)."
    elif needs is None or isinstance(stage.loss, type):
        shown = (
            repr(stage.loss)
            if isinstance(stage.loss, str)
            else getattr(stage.loss, "__name__", type(stage.loss).__name__)
        )
        yield f"{name}.loss: {shown} is not a method; use an instance of a dataclass of jaxpo.objectives.methods."
    if isinstance(stage.loss, Method):
        yield from family_problems(stage, kind)
        problems = stage.loss.problems() + stage.loss.option_problems(kind.options(stage))
        yield from (f"{name}.loss: {problem}" for problem in problems)


def whole_step_problems(stage: Stage, method: Any) -> Iterator[str]:
    """A method that must see all examples of a step together has one microbatch."""
    if method.NEEDS.whole_step and stage.gradient_accumulation_steps > 1:
        yield (
            f"{stage.name}.gradient_accumulation_steps: {type(method).__name__} must see a whole step at once; set "
            f"{flag((stage.name, 'gradient_accumulation_steps'))} 1, with fewer rows or `compute.remat` if memory is "
            "short."
        )


def family_problems(stage: Any, kind: Kind) -> Iterator[str]:
    """Methods on demonstrations belong to SFT, with a teacher to Distill, with a value head to Reward, and so on."""
    info, here = stage.loss.INFO, type(stage).__name__
    if info.family not in kind.families:
        right = kinds_for(info.family) or "no known"
        yield f"{stage.name}.loss: {info.name} (family {info.family!r}) belongs to a {right} stage; this one is {here}."
