"""Any objective of a model whose matrices are rounded wherever they are used: quantisation-aware training."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from jaxpo.data.packing.batch import Batch
from jaxpo.models.family import TextConfig
from jaxpo.models.grids import fake_quantized
from jaxpo.objectives.base import Objective
from jaxpo.ops.grids import Grid

Tree = Any


def with_grid(objective: Objective, config: TextConfig, to: Grid) -> Objective:
    """The same objective of the rounded model; its gradient goes straight through to what is rounded.

    Networks beside the trained one, and heads, stay as they are.
    """

    def encode(params: Tree, frozen: Tree, batch: Batch, rng: jax.Array | None) -> tuple[Tree, dict[str, Any]]:
        return objective.encode(params | {"model": fake_quantized(params["model"], config, to)}, frozen, batch, rng)

    return dataclasses.replace(objective, encode=encode)
