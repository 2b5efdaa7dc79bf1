"""Moving a host's share of a batch onto the devices."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxpo.sharding.rules import batch_sharding

Tree = Any
T = TypeVar("T")


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
