"""Optimiser state in the memory of the hosts, brought to the device for each update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from jaxpo.errors import ConfigError
from jaxpo.train.optimizers.gate import Gated

Tree = Any
HOST = "pinned_host"
"""Memory of the host that the device reads and writes by itself."""


def brought_in(optimizer: Gated) -> Gated:
    """The optimiser on a state that may live in the memory of the hosts.

    Where the new state goes is said by the output shardings of the compiled step, as for every other part of a state.
    """

    def update(grads: Tree, state: Tree, params: Tree = None, **extra: Any) -> tuple[Tree, Tree]:
        return optimizer.update(grads, jax.device_put(state, jax.memory.Space.Device), params, **extra)

    return Gated(optimizer.init, update)


def in_host_memory(mesh: Mesh) -> Callable[[NamedSharding], NamedSharding]:
    """The same sharding in the memory of the hosts.

    Raises:
      ConfigError: these devices have no such memory.
    """
    device = mesh.devices.flat[0]
    kinds = sorted(memory.kind for memory in device.addressable_memories())
    if HOST not in kinds:
        raise ConfigError(
            f"optimizer.offload: devices of the platform {device.platform!r} cannot use their host's memory ({HOST}; "
            f"they have {', '.join(kinds)}). Leave it False; optimizer.moments bfloat16 or int8 saves memory as well."
        )
    return lambda sharding: sharding.with_memory_kind(HOST)
