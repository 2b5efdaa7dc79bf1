"""Any objective of which a part is trained: the rest lies in `frozen` and is put back where the networks run."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from jaxpo.data.packing.batch import Batch
from jaxpo.models.paths import joined
from jaxpo.objectives.base import Objective

Tree = Any
FIXED, MODEL = "fixed part", "model"
"""The first is the name in `frozen` and in checkpoints; it is no name that a network can have."""


def with_fixed(objective: Objective) -> Objective:
    """The same objective, whose parameters are `params` and `frozen["fixed part"]` together, group by group.

    Only `params` has a gradient, moments and an average. What the objective's carry keeps of the model (a moving
    reference) is of the trained part too: the rest of it is the fixed part, which does not move.

    Args:
      objective: any, `with_lora` and `with_moving_reference` included; the outermost wrapper.
    """

    def encode(params: Tree, frozen: Tree, batch: Batch, rng: jax.Array | None) -> tuple[Tree, dict[str, Any]]:
        return objective.encode(joined(params, frozen[FIXED]), frozen, batch, rng)

    def networks(frozen: Tree, carry: Tree) -> Tree:
        rest = frozen[FIXED].get(MODEL, {})
        seen = objective.networks(frozen, carry)
        return {name: x if name in frozen else joined(x, rest) for name, x in seen.items()}

    return dataclasses.replace(objective, encode=encode, networks=networks)
