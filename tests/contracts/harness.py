"""Run three optimiser steps of any objective on a tiny model, in any layout, and compare the outcomes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from contracts.batches import VOCAB

from jaxpo.data.packing.batch import Batch
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.base import Objective
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.methods.base import Method
from jaxpo.sharding import batch_sharding, make_mesh, replicated, use_mesh
from jaxpo.train.init import abstract_state, build_state
from jaxpo.train.state import State
from jaxpo.train.step import make_step

CONFIG = LFM2Config(
    vocab_size=VOCAB,
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    layer_types=("full_attention",),
    initializer_range=0.3,
)
SCORER = Scorer(CONFIG)
STEPS = 3
SCHEDULE = optax.constant_schedule(0.05)
# Steps along the normalised gradient: of the same size whatever the loss's scale, so that they stand well above the
# rounding of the parameters; Adam's division by a near-zero second moment would turn rounding into full-sized updates.
DESCENT = optax.chain(optax.normalize_by_update_norm(), optax.scale(-1.0))

Outcome = tuple[State, list[dict[str, float]]]


def tables(objective: Objective, method: Method | None = None) -> dict[str, Any]:
    """Parameter tables of the model and of what the method trains beside it."""
    return {"model": param_table(CONFIG)} | (method.extra_tables(CONFIG) if method else {})


def initial(objective: Objective, method: Method | None = None) -> tuple[State, dict[str, Any]]:
    """A state and the frozen networks the objective needs: a reference that differs from the policy."""
    params = {name: init_params(table, jax.random.key(1)) for name, table in tables(objective, method).items()}
    for name in params.keys() - {"model"}:
        params[name] = jax.tree.map(lambda x: x + 0.1, params[name])  # heads may start at zero
    frozen = {}
    if objective.needs.kind("reference") != "none":
        frozen["reference"] = init_params(tables(objective)["model"], jax.random.key(2))
    if objective.needs.kind("teacher") != "none":
        frozen["teacher"] = init_params(tables(objective)["model"], jax.random.key(2))
    if objective.needs.kind("previous") != "none":
        frozen["previous"] = init_params(tables(objective)["model"], jax.random.key(4))
    return build_state(params, DESCENT, objective, jax.random.key(3)), frozen


def run(
    objective: Objective,
    batches: list[Batch],
    method: Method | None = None,
    *,
    microbatches: int = 1,
    devices: int = 1,
) -> Outcome:
    """`STEPS` steps over `batches` (cycled) on `devices` of the simulated devices."""
    step = make_step(objective, DESCENT, SCHEDULE, microbatches=microbatches)
    if devices == 1:
        return drive(jax.jit(step), *initial(objective, method), batches)
    with placed(objective, method, batches, devices) as (where, state, frozen, spread):
        return drive(jax.jit(step, out_shardings=where), state, frozen, spread)


@contextlib.contextmanager
def placed(
    objective: Objective, method: Method | None, batches: list[Batch], devices: int
) -> Iterator[tuple[Any, State, Any, list[Batch]]]:
    """On a mesh of so many devices: where a step's results lie, and state, frozen networks and batches spread there."""
    state, frozen = initial(objective, method)
    mesh = make_mesh({"fsdp": devices}, jax.devices()[:devices])
    with use_mesh(mesh):
        where = jax.tree.map(lambda a: a.sharding, abstract_state(tables(objective, method), DESCENT, objective, mesh))
        spread = [jax.device_put(b, batch_sharding(mesh)) for b in batches]
        frozen = jax.device_put(frozen, replicated(mesh))
        yield (where, replicated(mesh)), jax.device_put(state, where), frozen, spread


def drive(step: Callable[..., Any], state: State, frozen: Any, batches: list[Batch]) -> Outcome:
    state, log = steps(step, state, frozen, batches, 0, STEPS)
    return jax.device_get(dataclasses.replace(state, rng=jax.random.key_data(state.rng))), log


def steps(
    step: Callable[..., Any], state: State, frozen: Any, batches: list[Batch], first: int, last: int
) -> tuple[State, list[dict[str, float]]]:
    """Steps `first` to `last`, each on the batch of its number."""
    log = []
    for i in range(first, last):
        state, metrics = step(state, frozen, batches[i % len(batches)])
        log.append({name: float(m.value()) for name, m in metrics.items()})
    return state, log


def assert_same(got: Outcome, expected: Outcome, start: State, tolerance: float = 2e-5) -> None:
    """Parameter *changes*, carry and metrics agree: max |a - b| <= tolerance * max |b| per tensor."""
    change = lambda state: jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), state.params, start.params)  # noqa: E731
    named = jax.tree_util.tree_flatten_with_path((change(expected[0]), expected[0].carry))[0]
    # A change is a difference of two float32 parameters: known to their rounding only.
    rounding = jax.tree.leaves((expected[0].params, expected[0].carry))
    got_leaves = jax.tree.leaves((change(got[0]), got[0].carry))
    for (path, b), a, value in zip(named, got_leaves, rounding, strict=True):
        allowed = tolerance * np.max(np.abs(b)) + 4e-7 * np.max(np.abs(value))
        assert np.max(np.abs(np.asarray(a) - b)) <= allowed, (jax.tree_util.keystr(path), a, b)
    for a, b in zip(got[1], expected[1], strict=True):
        assert a.keys() == b.keys()
        for name in b:
            assert abs(a[name] - b[name]) <= tolerance * (abs(b[name]) + 1.0), (name, a[name], b[name])


def assert_learned(outcome: Outcome, start: State) -> None:
    """The run moved the parameters: equality of runs that do nothing would prove nothing."""
    moved = [
        float(jnp.max(jnp.abs(a - b)))
        for a, b in zip(jax.tree.leaves(outcome[0].params), jax.tree.leaves(start.params), strict=True)
    ]
    assert max(moved) > 1e-4
    assert all(np.isfinite(m) for m in moved)
