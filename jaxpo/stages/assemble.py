"""From a stage's configuration to the values that the loop runs: objective, optimiser, state, step, evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxpo.config import SFT, Compute, Distill, Preference, Pretrain, Reward, Stage
from jaxpo.data.source import Source, StepBatch
from jaxpo.errors import ConfigError
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.lowrank import adapter_table, scale_of
from jaxpo.models.spec import Table
from jaxpo.objectives.base import Objective, merge_metrics
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.tokens import next_token
from jaxpo.objectives.methods.base import Method
from jaxpo.objectives.methods.bradley_terry import BradleyTerry
from jaxpo.objectives.wrappers.lora import ADAPTER, with_lora
from jaxpo.objectives.wrappers.moving_reference import with_moving_reference
from jaxpo.objectives.wrappers.routing import with_routing
from jaxpo.recipe.checks.routing import balance_problems
from jaxpo.sharding import put_batch, replicated, settle
from jaxpo.train.init import abstract_state
from jaxpo.train.optimizer import make_optimizer, make_schedule
from jaxpo.train.state import State
from jaxpo.train.step import Step, make_eval, make_step

Tree = Any


def make_scorer(config: LFM2Config, compute: Compute) -> Scorer:
    """How this run evaluates its networks."""
    return Scorer(config, compute.dtype, compute.remat, compute.attention, compute.head_chunk, experts=compute.experts)


def cached_reference(stage: Stage) -> bool:
    """Whether the reference's log-probs are stored beforehand instead of computed in every step."""
    if not isinstance(stage, Preference | SFT) or stage.loss is None:
        return False
    if stage.precompute_ref_log_probs is None and getattr(stage, "sync_ref_model", False):
        return False
    return stage.precompute_ref_log_probs is not False and stage.loss.NEEDS.reference == "logps"


def has_method(stage: Stage) -> bool:
    """Whether a stage minimises a method of the catalogue rather than plain next-token prediction."""
    return isinstance(stage, Reward) or getattr(stage, "loss", None) is not None


def method_of(stage: Stage) -> Method:
    """The method of a stage, if it minimises one."""
    if isinstance(stage, Preference | SFT | Distill | Reward) and stage.loss is not None:
        return stage.loss
    if isinstance(stage, Reward):
        return BradleyTerry(stage.label_smoothing, stage.center_rewards_coefficient)
    raise ConfigError(f"stage {stage.name}: {type(stage).__name__} has no method")


def make_objective(stage: Stage, scorer: Scorer, teacher: Scorer | None = None) -> Objective:
    """What the stage minimises, of the parameters that it trains and with the reference that it keeps.

    Args:
      teacher: how the teacher is run that the stage keeps beside the student; None = as the student, if at all.
    """
    if isinstance(stage, SFT):
        scorer = dataclasses.replace(scorer, embedding_dropout=stage.embedding_dropout)
    objective = _balanced(_plain_objective(stage, scorer, teacher), stage, scorer.config)
    if stage.lora is not None:
        return with_lora(objective, scale=scale_of(stage.lora))
    if isinstance(stage, Preference) and stage.sync_ref_model:
        alpha, every = stage.ref_model_mixup_alpha, stage.ref_model_sync_steps
        return with_moving_reference(objective, alpha=alpha, every=every)
    return objective


def _balanced(objective: Objective, stage: Stage, config: LFM2Config) -> Objective:
    """With the routers' statistics, where the model has experts."""
    problems = list(balance_problems(stage, config))
    if problems:
        raise ConfigError(problems)
    return with_routing(objective, config, stage.routing) if config.num_experts else objective


def _plain_objective(stage: Stage, scorer: Scorer, teacher: Scorer | None) -> Objective:
    if isinstance(stage, Pretrain):
        return next_token(scorer, roles=("text",))
    if isinstance(stage, SFT) and stage.loss is None:
        return next_token(scorer, roles=("completion",))
    method, cached = method_of(stage), cached_reference(stage)
    if isinstance(stage, Distill):
        records = stage.precompute_teacher
        return method.build(scorer, cached_reference=False, teacher_records=records, teacher_scorer=teacher)
    if isinstance(stage, Preference):
        return method.build(
            scorer, cached_reference=cached, use_weighting=stage.use_weighting, diagnostics=stage.diagnostics
        )
    return method.build(scorer, cached_reference=cached)


def trained_tables(stage: Stage, config: LFM2Config) -> dict[str, Table]:
    """Parameter tables of a stage's state: the model or its adapter, and the heads of the method."""
    model = param_table(config)
    own = {"model": model} if stage.lora is None else {ADAPTER: adapter_table(model, stage.lora)}
    return own | (method_of(stage).extra_tables(config) if has_method(stage) else {})


@dataclass(frozen=True)
class Assembly:
    """One stage, ready to run.

    Attributes:
      step: compiled on first use; donates the state.
      put: host batch to devices.
    """

    objective: Objective
    tables: dict[str, Table]
    optimizer: optax.GradientTransformation
    total_steps: int
    abstract: State
    step: Step
    put: Callable[[StepBatch], StepBatch]


def assemble(
    stage: Stage,
    source: Source,
    scorer: Scorer,
    mesh: Mesh,
    rules: Mapping[str, Any],
    teacher: Scorer | None = None,
) -> Assembly:
    """Build everything a stage needs besides its data and its first parameters; compiles nothing yet."""
    objective = make_objective(stage, scorer, teacher)
    tables = trained_tables(stage, scorer.config)
    total_steps = source.total_steps(stage)
    schedule = make_schedule(stage.optimizer, total_steps)
    optimizer = make_optimizer(stage.optimizer, tables, schedule)
    abstract = abstract_state(tables, optimizer, objective, mesh, rules, average=stage.ema_decay is not None)
    parts = stage.gradient_accumulation_steps
    step = make_step(objective, optimizer, schedule, microbatches=parts, ema_decay=stage.ema_decay)
    shardings = jax.tree.map(lambda a: a.sharding, abstract)
    return Assembly(
        objective=objective,
        tables=tables,
        optimizer=optimizer,
        total_steps=total_steps,
        abstract=abstract,
        step=jax.jit(step, donate_argnums=0, out_shardings=(shardings, replicated(mesh))),
        put=lambda batch: put_batch(batch, mesh),
    )


def make_evaluation(
    objective: Objective,
    batches: Sequence[StepBatch],
    put: Callable[[StepBatch], StepBatch],
    frozen: Tree,
    *,
    use_ema: bool = False,
) -> Callable[[State], dict[str, float]]:
    """`state -> metrics` over held-out batches: terms, totals and counts add up, so every example weighs the same.

    Args:
      use_ema: measure the moving average of the parameters.
    """
    evaluate = jax.jit(make_eval(objective))
    count = jax.jit(objective.counts)

    def run(state: State) -> dict[str, float]:
        counts: Any = None
        for batch in batches:
            found = settle(count(put(batch)))
            counts = found if counts is None else jax.tree.map(jnp.add, counts, found)
        loss, total = jnp.zeros(()), None
        for batch in batches:
            params = state.ema if use_ema else state.params
            term, metrics = settle(evaluate(params, state.carry, frozen, put(batch), counts))
            loss, total = loss + term, metrics if total is None else merge_metrics(total, metrics)
        values = jax.device_get((loss, total))
        return {"loss": float(values[0])} | {name: float(m.value()) for name, m in values[1].items()}

    return run
