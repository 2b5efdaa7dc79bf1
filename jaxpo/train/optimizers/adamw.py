"""AdamW with decoupled decay on the parameters whose table says so."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax

from jaxpo.config import Optimizer
from jaxpo.models.spec import Table, map_table


def decay_mask(tables: dict[str, Table]) -> Any:
    """True at the leaves that weight decay applies to."""
    return {name: map_table(lambda p: p.decay, table) for name, table in tables.items()}


def build(
    config: Optimizer, tables: dict[str, Table], schedule: optax.Schedule, mask: Any = None
) -> optax.GradientTransformation:
    """theta <- theta - lr (m_hat / (sqrt(v_hat) + eps) + lambda theta),   m, v moving means of g and g^2

    Args:
      mask: which leaves decay; None = as the tables say. A function of the parameters where other leaves are masked.

    Reference:
      Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2.
    """
    return optax.adamw(
        schedule,
        b1=config.adam_beta1,
        b2=config.adam_beta2,
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        mask=decay_mask(tables) if mask is None else mask,
        mu_dtype=jnp.float32,
    )
