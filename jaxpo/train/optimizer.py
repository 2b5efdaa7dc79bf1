"""AdamW and its schedules, with the decay mask taken from the parameter table."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import optax

from jaxpo.config import Optimizer
from jaxpo.errors import ConfigError
from jaxpo.models.spec import Table, map_table

Tree = Any


def make_schedule(config: Optimizer, total_steps: int) -> optax.Schedule:
    """Learning rate of optimiser step i (0-based), for a run of `total_steps`.

    Linear warm-up from 0 reaches the peak after `warmup_steps` (or `warmup_ratio` of all steps); then "constant" stays,
    "linear" and "cosine" go to `final_learning_rate` at the last step, "wsd" stays and falls linearly over the last
    `decay_ratio` of the run.
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


def make_optimizer(
    config: Optimizer, tables: dict[str, Table], schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW with decoupled decay on the parameters whose table says so.

    Args:
      tables: one parameter table per group of `State.params`.
    """
    decay = {name: map_table(lambda p: p.decay, table) for name, table in tables.items()}
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(
            schedule,
            b1=config.adam_beta1,
            b2=config.adam_beta2,
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
            mask=decay,
            mu_dtype=jnp.float32,
        ),
    )
