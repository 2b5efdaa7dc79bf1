"""Moving a host's share of a batch onto the devices."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxpo.config.axes import BATCH_AXES
from jaxpo.errors import ConfigError
from jaxpo.sharding.rules import axis_size, batch_sharding

Tree = Any
T = TypeVar("T")


def own_share(mesh: Mesh) -> tuple[int, int]:
    """`(i, n)`: of a step's rows this process passes `put_batch` the i-th of n equal parts.

    Processes that differ along other axes only pass the same rows.

    Raises:
      ConfigError: the rows of this process's devices are no such part.
    """
    shards = axis_size(mesh, BATCH_AXES)
    places = batch_sharding(mesh).addressable_devices_indices_map((shards,))
    own = sorted({place[0].indices(shards)[0] for place in places.values() if place is not None})
    first, size = own[0], len(own)
    if shards % size or first % size or own != list(range(first, first + size)):
        raise ConfigError(
            f"mesh: a process has the shards {own} of the {shards} that a batch is cut into, not one part of several "
            "equal ones; give axes within a process the sizes of its devices."
        )
    return first // size, shards // size


def put_batch(batch: Tree, mesh: Mesh) -> Tree:
    """Host arrays with a leading row or example axis -> global arrays spread over the batch axes.

    Each process passes the rows that are its own; together they are the global batch.
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def to_host(tree: Tree) -> Tree:
    """The whole of every array as numpy, on every process: what lies with other processes alone is gathered first.

    All processes call it, in the same order.
    """
    return jax.device_get(jax.tree.map(_gathered, tree))


def _gathered(x: Any) -> Any:
    readable = not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated
    return x if readable else multihost_utils.process_allgather(x, tiled=True)


@functools.cache
def _simulated() -> bool:
    return jax.default_backend() == "cpu" and jax.local_device_count() > 1


def settle(x: T) -> T:
    """Wait for `x` where devices are simulated on one CPU, else return at once.

    The shards of a program then share a small pool of threads: two programs in flight, each waiting in a collective for
    shards that have no thread, would wait for ever (XLA ends the process after 40 seconds).
    """
    return jax.block_until_ready(x) if _simulated() else x
