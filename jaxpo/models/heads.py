"""Small trainable heads beside a model, each with a parameter table of its own."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.spec import Param, Table, normal, zeros
from jaxpo.ops.linear import linear


def value_table(config: LFM2Config, *, std: float = 0.0) -> Table:
    """A scalar per position, stored under `params["value"]`: weight `[D, 1]`, zero by default, else Gaussian."""
    init = normal(std) if std else zeros
    return {"weight": Param((config.hidden_size, 1), ("embed", None), init, decay=False)}


def value(params: Any, hidden: Float[Array, "... D"]) -> Float[Array, "..."]:
    """`v = w^T h` in float32: rewards and values are differences of small numbers."""
    return linear(hidden.astype(jnp.float32), params["weight"])[..., 0]
