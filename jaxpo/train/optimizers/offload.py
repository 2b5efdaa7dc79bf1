"""Optimiser state in the memory of the hosts, brought to the device for each update."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import NamedSharding

from jaxpo.sharding.host_memory import HOST, require_host_memory
from jaxpo.train.optimizers.gate import Gated

Tree = Any
REMEDY = "leave it False; optimizer.moments bfloat16 or int8 saves memory as well"
"""What to do where devices have no such memory."""


def brought_in(optimizer: Gated) -> Gated:
    """The optimiser on a state that may live in the memory of the hosts.

    Where the new state goes is said by the output shardings of the compiled step, as for every other part of a state.
    """

    def update(grads: Tree, state: Tree, params: Tree = None, **extra: Any) -> tuple[Tree, Tree]:
        return optimizer.update(grads, jax.device_put(state, jax.memory.Space.Device), params, **extra)

    return Gated(optimizer.init, update)


def in_host_memory(sharding: NamedSharding) -> NamedSharding:
    """The same sharding in the memory of the hosts.

    Raises:
      ConfigError: the devices here cannot use it.
    """
    require_host_memory("optimizer.offload", REMEDY)
    return sharding.with_memory_kind(HOST)
