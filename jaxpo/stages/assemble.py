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

from jaxpo.config import Compute, Stage
from jaxpo.data.source import Source, StepBatch
from jaxpo.errors import BackendError, ConfigError
from jaxpo.models.family import TextConfig, family, param_table
from jaxpo.models.lowrank import adapter_table, scale_of
from jaxpo.models.paths import EVERYTHING, split_table
from jaxpo.models.spec import Table
from jaxpo.objectives.base import Objective, merge_metrics
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.groups import BY_GROUP
from jaxpo.objectives.methods.options import Ids
from jaxpo.objectives.wrappers.fixed import with_fixed
from jaxpo.objectives.wrappers.lora import ADAPTER, with_lora
from jaxpo.objectives.wrappers.moving_reference import with_moving_reference
from jaxpo.objectives.wrappers.on_grid import with_grid
from jaxpo.objectives.wrappers.routing import with_routing
from jaxpo.ops import attention, conv, grouped
from jaxpo.ops.grids import grid
from jaxpo.recipe.checks.routing import balance_problems
from jaxpo.recipe.kinds import kind_of, method_of, networks_of
from jaxpo.recipe.platform import dtype_of
from jaxpo.sharding import put_batch, replicated, settle, to_host
from jaxpo.train.init import abstract_state
from jaxpo.train.optimizer import make_optimizer, make_schedule
from jaxpo.train.state import State
from jaxpo.train.step import Step, make_eval, make_step

Tree = Any


def check_implementations(compute: Compute) -> None:
    """Those that are named are on this platform and can do it on the enclosing mesh; ConfigError says why not."""
    dtype = dtype_of(compute, jax.default_backend())
    checks: dict[str, Callable[[], object]] = {
        "attention": lambda: attention.chosen(compute.attention, dtype=dtype),
        "conv": lambda: conv.chosen(compute.conv, dtype=dtype),
        "experts": lambda: grouped.chosen(compute.experts),
    }
    problems = []
    for field, check in checks.items():
        try:
            check()
        except BackendError as error:
            problems.append(f"compute.{field}: {error}")
    if problems:
        raise ConfigError(problems)


def make_scorer(config: TextConfig, compute: Compute) -> Scorer:
    """How this run evaluates its networks; a type that it leaves open is the platform's.

    "auto" stands for "none" until a stage knows its step (`stages.remat`).
    """
    return Scorer(
        config,
        dtype_of(compute, jax.default_backend()),
        "none" if compute.remat == "auto" else compute.remat,
        compute.attention,
        compute.head_chunk,
        experts=compute.experts,
        conv=compute.conv,
        scan=compute.scan,
    )


def make_objective(
    stage: Any,
    scorer: Scorer,
    scorers: Mapping[str, Scorer] | None = None,
    groups: tuple[str, ...] = (),
    ids: Ids | None = None,
) -> Objective:
    """What the stage minimises, of the parameters that it trains and with the networks that it keeps beside them.

    Args:
      scorers: how those are run that the stage does not start from.
      groups: names of the groups that its rows belong to.
      ids: what takes the place of hidden tokens (`Kind.ids`).
    """
    kind, networks = kind_of(stage), networks_of(stage)
    recorded = frozenset(network.name for network in networks if network.recorded)
    options = dataclasses.replace(kind.options(stage), recorded=recorded, groups=groups, scorers=scorers or {}, ids=ids)
    plain = method_of(stage).build(dataclasses.replace(scorer, **kind.scoring(stage)), **vars(options))
    objective = _compared(_on_grid(_balanced(plain, stage, scorer.config), stage, scorer.config), stage)
    return objective if stage.train == EVERYTHING else with_fixed(objective)


def _on_grid(objective: Objective, stage: Stage, config: TextConfig) -> Objective:
    """With the model's matrices rounded, where the stage trains them so."""
    return objective if stage.qat is None else with_grid(objective, config, grid(stage.qat.grid, stage.qat.group))


def _compared(objective: Objective, stage: Any) -> Objective:
    """With the model that it is compared with, where that is not another one: the adapter's base, or its own past."""
    networks = networks_of(stage)
    if stage.lora is not None:
        return with_lora(objective, scale=scale_of(stage.lora))
    if any(network.moves for network in networks):
        alpha, every = stage.ref_model_mixup_alpha, stage.ref_model_sync_steps
        return with_moving_reference(objective, alpha=alpha, every=every)
    return objective


def _balanced(objective: Objective, stage: Stage, config: TextConfig) -> Objective:
    """With the routers' statistics, where the model has experts."""
    problems = list(balance_problems(stage, config))
    if problems:
        raise ConfigError(problems)
    experts = family(config).experts(config)
    return objective if experts is None else with_routing(objective, experts, stage.routing)


def own_tables(stage: Stage, config: TextConfig) -> dict[str, Table]:
    """Parameter tables of what a stage may train: the model or its adapter, and the heads of the method."""
    model = param_table(config)
    own = {"model": model} if stage.lora is None else {ADAPTER: adapter_table(model, stage.lora)}
    return own | method_of(stage).extra_tables(config)


@dataclass(frozen=True)
class Assembly:
    """One stage, ready to run.

    Attributes:
      tables: of what the stage may train; of the model, or its adapter, and the heads.
      trained: what of them `stage.train` matches.
      step: compiled on first use; donates the state.
      put: host batch to devices.
    """

    objective: Objective
    tables: Mapping[str, Table]
    trained: Mapping[str, Table]
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
    scorers: Mapping[str, Scorer] | None = None,
    groups: tuple[str, ...] = (),
    ids: Ids | None = None,
) -> Assembly:
    """Build everything a stage needs besides its data and its first parameters; compiles nothing yet.

    Args:
      scorers: of the networks beside the trained one, see `make_objective`.
      groups, ids: see there.
    """
    objective = make_objective(stage, scorer, scorers, groups, ids)
    tables = own_tables(stage, scorer.config)
    trained, _ = split_table(tables, stage.train)
    total_steps = source.total_steps(stage)
    schedule = make_schedule(stage.optimizer, total_steps)
    optimizer = make_optimizer(stage.optimizer, trained, schedule)
    average, offload = stage.ema_decay is not None, stage.optimizer.offload
    abstract = abstract_state(trained, optimizer, objective, mesh, rules, average=average, offload=offload)
    parts = stage.gradient_accumulation_steps
    step = make_step(objective, optimizer, schedule, microbatches=parts, ema_decay=stage.ema_decay)
    shardings = jax.tree.map(lambda a: a.sharding, abstract)
    return Assembly(
        objective=objective,
        tables=tables,
        trained=trained,
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
        values = to_host((loss, total))
        measured = {name: m for name, m in values[1].items() if not (name.startswith(BY_GROUP) and m.count == 0)}
        return {"loss": float(values[0])} | {name: float(m.value()) for name, m in measured.items()}

    return run
