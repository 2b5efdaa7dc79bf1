"""AdamW with decoupled decay on the parameters whose table says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxpo.config import Optimizer
from jaxpo.config.optimizers import Moments
from jaxpo.models.spec import Table, map_table
from jaxpo.train.optimizers.gate import Gated, chained, kept
from jaxpo.train.optimizers.moments import Storage, storage

Tree = Any


def decay_mask(tables: dict[str, Table]) -> Any:
    """True at the leaves that weight decay applies to."""
    return {name: map_table(lambda p: p.decay, table) for name, table in tables.items()}


def build(
    config: Optimizer, tables: dict[str, Table], schedule: optax.Schedule, mask: Any = None
) -> optax.GradientTransformation:
    """theta <- theta - lr (m_hat / (sqrt(v_hat) + eps) + lambda theta),   m, v moving means of g and g^2

    The state is that of `optax.adamw`, whose results these are.

    Args:
      mask: which leaves decay; None = as the tables say. A function of the parameters where other leaves are masked.

    Reference:
      Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2.
    """
    return chained(
        scale_by_adam(config.adam_beta1, config.adam_beta2, config.adam_epsilon, config.moments),
        optax.add_decayed_weights(config.weight_decay, mask=decay_mask(tables) if mask is None else mask),
        optax.scale_by_learning_rate(schedule),
    )


def scale_by_adam(b1: float, b2: float, eps: float, moments: Moments = "float32") -> Gated:
    """m_hat / (sqrt(v_hat) + eps), from the moments as they are kept after this step.

    The new moments are gated and rounded before they are used, so that every array is read and written once: gradient
    and m give m, gradient and v give v, both give the update, each in the memory of its predecessor.

    Reference:
      Kingma and Ba 2015, arXiv 1412.6980, algorithm 1.
    """
    first, second = storage(moments, signed=True), storage(moments, signed=False)

    def init(params: Tree) -> optax.ScaleByAdamState:
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), first.start(params), second.start(params))

    def update(
        grads: Tree, state: optax.ScaleByAdamState, params: Tree = None, *, ok: Any = True, **extra: Any
    ) -> tuple[Tree, optax.ScaleByAdamState]:
        count = optax.safe_increment(state.count)
        mu = moved(first, state.mu, grads, lambda m, g: (1 - b1) * g + b1 * m, 2 * count, ok)
        nu = moved(second, state.nu, grads, lambda v, g: (1 - b2) * g**2 + b2 * v, 2 * count + 1, ok)
        c1, c2 = 1 - b1**count, 1 - b2**count
        updates = jax.tree.map(lambda m, v: (m / c1) / (jnp.sqrt(v / c2) + eps), first.read(mu), second.read(nu))
        return updates, optax.ScaleByAdamState(jnp.where(ok, count, state.count), mu, nu)

    return Gated(init, update)


def moved(kind: Storage, stored: Tree, grads: Tree, mean: Callable[[Any, Any], Any], seed: Any, ok: Any) -> Tree:
    """A tree of moments after one more gradient, in its stored form; as it was where `ok` is false."""
    return kept(ok, kind.write(jax.tree.map(mean, kind.read(stored), grads), seed), stored)
