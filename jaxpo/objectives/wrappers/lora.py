"""Any objective with low-rank adapters: the base is frozen, the adapter is trained, the base serves as reference."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from jaxpo.data.packing.batch import Batch
from jaxpo.models.lowrank import attach
from jaxpo.objectives.base import Objective

Tree = Any
ADAPTER, BASE = "adapter", "base"


def with_lora(objective: Objective, *, scale: float) -> Objective:
    """The same objective, whose model is `frozen["base"]` with the adapter `params["adapter"]` attached.

    Trained are the adapter and the extra groups ("value", ...). `frozen["base"]` holds the model once, undonated; a
    network that the objective reads and `frozen` does not name is those same arrays.

    Args:
      objective: any; its `encode` reads `params["model"]`.
      scale: of the low-rank update, see `jaxpo.models.lowrank.scale_of`.
    """

    def encode(params: Tree, frozen: Tree, batch: Batch, rng: jax.Array | None) -> Tree:
        model = attach(frozen[BASE], params[ADAPTER], scale)
        extra = {name: group for name, group in params.items() if name != ADAPTER}
        beside = {name: frozen[BASE] for name, _ in objective.needs.networks}
        return objective.encode({"model": model, **extra}, beside | frozen, batch, rng)

    return dataclasses.replace(objective, encode=encode)
