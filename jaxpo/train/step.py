"""The training step: one for every stage, coupled or not, on one device or many.

Denominators are counted over the whole step before any forward pass, so the gradients of microbatches simply add. A
coupled objective (one whose loss mixes examples: sorts, in-batch statistics) cannot be cut into microbatches that way;
its networks run without gradient first, its loss once on the features of the whole step, and the cotangents go back
through one vector-Jacobian product per microbatch. A step that is one microbatch needs no second run.

A microbatch that holds no example adds nothing and is not computed: a source that makes its data during training may
have room for the most that a step can hold, and pays for what it does hold, in one compiled program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxpo.data.packing.batch import join_leading, split_leading
from jaxpo.data.source import StepBatch
from jaxpo.objectives.base import Mean, Metric, Objective, OfSums, Out
from jaxpo.sharding import current_mesh
from jaxpo.train.optimizers.gate import gated, kept
from jaxpo.train.state import State

Tree = Any
Step = Callable[[State, Tree, StepBatch], tuple[State, dict[str, Metric]]]


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    microbatches: int = 1,
    ema_decay: float | None = None,
) -> Step:
    """Build `step(state, frozen, batch) -> (state, metrics)`, pure and ready for `jax.jit(..., donate_argnums=0)`.

    The update is gated on a finite loss and gradient norm: otherwise parameters, optimiser state and carry stay as they
    were and the metric `skipped` is 1. `grad_norm` is the norm of the accumulated gradient before clipping. A state
    with a moving average moves it once per update, as `ema_decay` says.
    """
    gradients = coupled_gradients if objective.coupled else added_gradients
    optimizer = gated(optimizer)

    def step(state: State, frozen: Tree, batch: StepBatch) -> tuple[State, dict[str, Metric]]:
        rng = jax.random.fold_in(state.rng, state.step)
        counts = objective.counts(batch)
        networks = objective.networks(frozen, state.carry)
        out, grads = gradients(objective, state.params, networks, batch, state.carry, counts, rng, microbatches)
        norm = optax.tree.norm(grads)
        ok = jnp.isfinite(out.loss) & jnp.isfinite(norm)
        # Each tree is gated before anything is made of it: what follows then reads the one new value, and the compiler
        # writes it over the old one. A gate at the end would keep both alive, and copy every moment.
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, ok=ok)
        moved = objective.adjust(optax.apply_updates(state.params, updates), out.stats)
        params = kept(ok, moved, state.params)
        carry = objective.follow(objective.after(state.carry, out.stats), params, state.step + 1)
        carry = kept(ok, carry, state.carry)
        ema = None if ema_decay is None else kept(ok, moved_average(state.ema, params, ema_decay), state.ema)
        one = jnp.ones((), jnp.float32)
        # Sums over the step end here: between steps it is their values that are averaged.
        whole = {name: Mean(m.value(), one) if isinstance(m, OfSums) else m for name, m in out.metrics.items()}
        metrics = whole | {
            "loss": Mean(out.loss, one),
            "grad_norm": Mean(norm, one),
            "learning_rate": Mean(jnp.asarray(schedule(state.step), jnp.float32), one),
            "skipped": Mean(1.0 - ok.astype(jnp.float32), one),
        }
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            rows_seen=state.rows_seen + batch.rows,
            params=params,
            opt_state=opt_state,
            carry=carry,
            ema=ema,
        )
        return state, metrics

    return step


def moved_average(average: Tree, params: Tree, decay: float) -> Tree:
    """Exponential moving average of parameters after one more step, in float32.

        avg_t = decay avg_{t-1} + (1 - decay) params_t,   avg_0 = params_0

    Reference:
      Polyak and Juditsky 1992, with the exponential weights usual in deep learning (e.g. arXiv 1703.01780, eq. in 3).
    """
    return jax.tree.map(lambda a, p: a + (1.0 - decay) * (p.astype(jnp.float32) - a), average, params)


def added_gradients(
    objective: Objective,
    params: Tree,
    frozen: Tree,
    batch: StepBatch,
    carry: Tree,
    counts: Tree,
    rng: Array,
    parts: int,
) -> tuple[Out, Tree]:
    """Loss terms and gradients of the microbatches, added up in a scan."""

    def value(params: Tree, micro: StepBatch) -> tuple[Array, Out]:
        features, _ = objective.encode(params, frozen, micro, rng)
        out = objective.loss(features, micro, carry, counts)
        return out.loss, out

    grad = jax.grad(value, has_aux=True)
    if parts == 1:
        grads, out = grad(params, batch)
        return out, grads

    def add(total: tuple[Out, Tree], micro: StepBatch) -> tuple[Out, Tree]:
        grads, out = grad(params, micro)
        return total[0].merge(out), jax.tree.map(jnp.add, total[1], grads)

    micros = batch.split(parts)
    # Without its gradient: tracing is most of the start of a run, and the scan traces it whole once more.
    _, shape = jax.eval_shape(value, params, jax.tree.map(lambda x: x[0], micros))
    start = (shape.empty(), jax.tree.map(jnp.zeros_like, params))
    visit = unless_empty(parts, add, lambda total: total)
    (out, grads), _ = jax.lax.scan(lambda total, micro: (visit(total, micro), None), start, micros)
    return out, grads


def coupled_gradients(
    objective: Objective,
    params: Tree,
    frozen: Tree,
    batch: StepBatch,
    carry: Tree,
    counts: Tree,
    rng: Array,
    parts: int,
) -> tuple[Out, Tree]:
    """The loss once on the features of the whole step, then one vector-Jacobian product of `encode` per microbatch."""

    def encode(params: Tree, micro: StepBatch) -> Tree:
        return objective.encode(params, frozen, micro, rng)[0]

    if parts == 1:

        def value(params: Tree) -> tuple[Array, Out]:
            out = objective.loss(jax.tree.map(_everywhere, encode(params, batch)), batch, carry, counts)
            return out.loss, out

        grads, out = jax.grad(value, has_aux=True)(params)
        return out, grads

    micros = batch.split(parts)
    shape = jax.eval_shape(encode, params, jax.tree.map(lambda x: x[0], micros))
    split, join = _by_differentiability(shape)
    nothing = split(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape))
    run = unless_empty(parts, lambda _, micro: split(encode(params, micro)), lambda _: nothing)
    _, stacked = jax.lax.scan(lambda _, micro: (None, run(None, micro)), None, micros)
    real, other = jax.tree.map(lambda x: _everywhere(join_leading(x, batch.blocks)), stacked)

    def loss(real: list[Array]) -> tuple[Array, Out]:
        out = objective.loss(join(real, other), batch, carry, counts)
        return out.loss, out

    cotangents, out = jax.grad(loss, has_aux=True)(real)
    pieces = jax.tree.map(lambda x: split_leading(x, batch.blocks, parts), cotangents)

    def pull_back(total: Tree, micro: StepBatch, cotangent: Leaves) -> Tree:
        _, vjp = jax.vjp(lambda p: split(encode(p, micro))[0], params)
        return jax.tree.map(jnp.add, total, vjp(cotangent)[0])

    visit = unless_empty(parts, pull_back, lambda total: total)
    start = jax.tree.map(jnp.zeros_like, params)
    grads, _ = jax.lax.scan(lambda total, piece: (visit(total, *piece), None), start, (micros, pieces))
    return out, grads


def unless_empty(parts: int, visit: Callable[..., Tree], skip: Callable[[Tree], Tree]) -> Callable[..., Tree]:
    """`visit(total, microbatch, ...)`, or `skip(total)` where the microbatch, one of several, holds no example."""
    if parts == 1:
        return visit

    def either(total: Tree, micro: StepBatch, *more: Tree) -> Tree:
        return jax.lax.cond(jnp.any(micro.present), visit, lambda total, *_: skip(total), total, micro, *more)

    return either


Leaves = list[Array]


def _by_differentiability(
    shape: Tree,
) -> tuple[Callable[[Tree], tuple[Leaves, Leaves]], Callable[[Leaves, Leaves], Tree]]:
    """`split(tree) -> (real leaves, others)` and its inverse `join`, for trees of this shape."""
    shapes, treedef = jax.tree.flatten(shape)
    real = [jnp.issubdtype(x.dtype, jnp.inexact) for x in shapes]

    def split(tree: Tree) -> tuple[Leaves, Leaves]:
        leaves = jax.tree.leaves(tree)
        return (
            [x for x, is_real in zip(leaves, real, strict=True) if is_real],
            [x for x, is_real in zip(leaves, real, strict=True) if not is_real],
        )

    def join(reals: Leaves, others: Leaves) -> Tree:
        sources = {True: iter(reals), False: iter(others)}
        return jax.tree.unflatten(treedef, [next(sources[is_real]) for is_real in real])

    return split, join


def _everywhere(x: Array) -> Array:
    """Replicate a feature, so that sorts and gathers over examples never meet a sharded axis."""
    mesh = current_mesh()
    return x if mesh is None else jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec()))


def make_eval(objective: Objective) -> Callable[..., tuple[Array, dict[str, Metric]]]:
    """Build `evaluate(params, carry, frozen, batch, counts) -> (loss, metrics)` for a batch of an evaluation set.

    With the counts of the whole set, the losses of its batches add up to the loss of the set; a coupled objective
    couples within each batch.
    """

    def evaluate(
        params: Tree, carry: Tree, frozen: Tree, batch: StepBatch, counts: Tree
    ) -> tuple[Array, dict[str, Metric]]:
        features, _ = objective.encode(params, objective.networks(frozen, carry), batch, None)
        out = objective.loss(features, batch, carry, counts)
        return out.loss, out.metrics

    return evaluate
