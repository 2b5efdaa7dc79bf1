"""Schedules, and the optimiser that a configuration chooses by its type."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpo.config import Adafactor, Muon, Optimizer, OptimizerBase
from jaxpo.errors import ConfigError
from jaxpo.models.paths import factors_of
from jaxpo.models.spec import Table, trained_part, with_buffers
from jaxpo.train.optimizers import adafactor, adamw, muon
from jaxpo.train.optimizers.gate import Gated, chained
from jaxpo.train.optimizers.offload import brought_in

Tree = Any

BUILDERS: dict[type[OptimizerBase], Callable[[Any, dict[str, Table], optax.Schedule], optax.GradientTransformation]] = {
    Optimizer: adamw.build,
    Muon: muon.build,
    Adafactor: adafactor.build,
}


def make_schedule(config: OptimizerBase, total_steps: int) -> optax.Schedule:
    """Learning rate of optimiser step i (0-based), for a run of `total_steps`.

    Linear warm-up, `peak (i + 1) / warmup_steps` (or of `warmup_ratio` of all steps); then "constant" stays, "linear"
    and "cosine" go towards `final_learning_rate`, "wsd" stays and falls to it over the last `decay_ratio` of the run.
    The final rate belongs to step `total_steps`, one after the last that is taken (number `total_steps - 1`), as with
    transformers' schedules: with a final rate of 0 no step is lost.

    Raises:
      ConfigError: the warm-up is as long as the run.
    """
    warmup = config.warmup_steps or math.floor(config.warmup_ratio * total_steps)
    if warmup >= max(total_steps, 1):
        raise ConfigError(
            f"optimizer.warmup_steps={warmup} leaves nothing of {total_steps} steps; lower it or train longer"
        )
    rest = max(total_steps - warmup, 1)
    peak, end = config.learning_rate, config.final_learning_rate
    if config.lr_scheduler_type == "constant":
        main = optax.constant_schedule(peak)
    elif config.lr_scheduler_type == "linear":
        main = optax.linear_schedule(peak, end, rest)
    elif config.lr_scheduler_type == "cosine":
        main = optax.cosine_decay_schedule(peak, rest, alpha=end / peak if peak else 0.0)
    else:
        decay = max(1, round(config.decay_ratio * total_steps))
        stable = max(rest - decay, 0)
        main = optax.join_schedules(
            [optax.constant_schedule(peak), optax.linear_schedule(peak, end, min(decay, rest))], [stable]
        )
    if not warmup:
        return main
    # Step 0 already moves: (i + 1) / warmup of the peak.
    ramp = optax.linear_schedule(peak / warmup, peak, warmup - 1) if warmup > 1 else optax.constant_schedule(peak)
    return optax.join_schedules([ramp, main], [warmup])


def first_difference(config: OptimizerBase, before: int, after: int, taken: int) -> tuple[int, float, float] | None:
    """The first of `taken` steps (0-based) whose rate a run of `after` steps would not have had, with both rates.

    None: that run begins with the very same steps.
    """
    steps = jnp.arange(taken)
    old, new = (np.broadcast_to(make_schedule(config, total)(steps), taken) for total in (before, after))
    differing = np.flatnonzero(old != new)
    return (int(differing[0]), float(old[differing[0]]), float(new[differing[0]])) if len(differing) else None


def make_optimizer(config: OptimizerBase, tables: dict[str, Table], schedule: optax.Schedule) -> Gated:
    """Clipping by global norm, then the optimiser of this configuration's type, then the factors of its learning rate.

    Every optimiser's update is the learning rate times something that does not depend on it, decay included, so that
    a factor of the update is one of the rate.

    Args:
      tables: one parameter table per group of `State.params`; their labels say what decays and what Muon moves.
    """
    trained = trained_part(tables, tables)
    factors = [_scaled(factors_of(trained, config.lr_factors))] if config.lr_factors else []
    optimizer = chained(clip(config.max_grad_norm), BUILDERS[type(config)](config, trained, schedule), *factors)
    whole = optimizer if trained == tables else _beside_buffers(optimizer, tables)
    return brought_in(whole) if config.offload else whole


def clip(max_norm: float) -> optax.GradientTransformation:
    """g * min(1, max_norm / |g|), the norm over all leaves; g itself where that is below max_norm.

    One factor for all entries: it fuses with the update, where a division of every entry would be a pass of its own.

    Reference:
      Pascanu et al. 2013, arXiv 1211.5063, algorithm 1.
    """

    def clipped(grads: Tree, _: Tree) -> Tree:
        norm = optax.tree.norm(grads)
        factor = jnp.where(norm < max_norm, 1.0, max_norm / norm)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)

    return optax.stateless(clipped)


def _scaled(factors: Tree) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, factor: u * factor, updates, factors))


def _beside_buffers(optimizer: Gated, tables: Table) -> Gated:
    """The optimiser for the trained part alone: buffers have no moments and an update of zero."""

    def init(params: Tree) -> Tree:
        return optimizer.init(trained_part(tables, params))

    def update(grads: Tree, state: Tree, params: Tree = None, **extra: Any) -> tuple[Tree, Tree]:
        updates, state = optimizer.update(trained_part(tables, grads), state, trained_part(tables, params), **extra)
        return with_buffers(tables, updates, lambda p: jnp.zeros(p.shape, jnp.float32)), state

    return Gated(init, update)
