"""Moving a host's share of a batch onto the devices."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import Mesh

from jaxpo.sharding.rules import batch_sharding

Tree = Any


def put_batch(batch: Tree, mesh: Mesh) -> Tree:
    """Host arrays with a leading row or example axis -> global arrays spread over the batch axes.

    Each process passes the rows that are its own; together they are the global batch.
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
