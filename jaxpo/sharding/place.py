"""Moving a host's share of a batch onto the devices, and results back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpo.config.axes import BATCH_AXES, SEQUENCE
from jaxpo.errors import ConfigError
from jaxpo.sharding.rules import axis_size, batch_sharding

Tree = Any
T = TypeVar("T")


def batch_shardings(batch: Tree, mesh: Mesh) -> Tree:
    """Where each array of a batch lives: rows over the batch axes, positions over `sequence`.

    Which fields have positions the batch says: `POSITIONAL` (see `jaxpo.data.source.StepBatch`).

    Raises:
      ConfigError: the devices do not divide the positions.
    """
    of_rows, of_positions = batch_sharding(mesh), batch_sharding(mesh, positions=True)
    named = getattr(batch, "POSITIONAL", ())

    def place(path: tuple[Any, ...], x: Any) -> NamedSharding:
        if getattr(path[0], "name", None) not in named:
            return of_rows
        if x.shape[1] % mesh.shape[SEQUENCE]:
            raise ConfigError(
                f"mesh.sequence: rows of {x.shape[1]} positions cannot be spread over {mesh.shape[SEQUENCE]} devices; "
                "make data.row_length a multiple of it, or set mesh.sequence to 1."
            )
        return of_positions

    return jax.tree_util.tree_map_with_path(place, batch)


def put_batch(batch: Tree, mesh: Mesh) -> Tree:
    """Host arrays with a leading row or example axis -> global arrays, placed as `batch_shardings` says.

    Each process passes its `row_share`, whole rows; together they are the global batch. Where several processes hold
    parts of the same rows, each takes its positions out of them.
    """
    shares = _shares(mesh)
    return jax.tree.map(
        lambda x, sharding: jax.make_array_from_process_local_data(sharding, x, (x.shape[0] * shares, *x.shape[1:])),
        batch,
        batch_shardings(batch, mesh),
    )


def row_share(mesh: Mesh) -> tuple[int, int]:
    """Which share of a batch's rows this process holds, and how many shares there are.

    As many as processes, unless positions or products of the same rows are spread over several of them.

    Raises:
      ConfigError: two processes have some of their rows in common and others not, or rows that are not consecutive.
    """
    processes = np.vectorize(lambda device: device.process_index)(mesh.devices)
    groups = processes.reshape(axis_size(mesh, BATCH_AXES), -1)
    held = {int(p): tuple(np.flatnonzero((groups == p).any(axis=1)).tolist()) for p in np.unique(groups)}
    shares = sorted(set(held.values()))
    each = max(1, len(groups) // len(shares))
    if shares != [tuple(range(first, first + each)) for first in range(0, len(groups), each)]:
        raise ConfigError(
            "mesh: the devices of a process must hold consecutive rows that no other process holds in part; let the "
            f"product of {', '.join(BATCH_AXES)} be a multiple of the processes, or the processes one of it."
        )
    return shares.index(held[jax.process_index()]), len(shares)


@functools.cache
def _shares(mesh: Mesh) -> int:
    """How many there are; asked at every step, of a mesh that may have thousands of devices."""
    return row_share(mesh)[1]


def whole_rows(x: jax.Array) -> jax.Array:
    """`[R, ...]` with its rows where they are, and all other axes whole on each device that holds a row."""
    if x.sharding.shard_shape(x.shape)[1:] == x.shape[1:]:
        return x
    assert isinstance(x.sharding, NamedSharding), "computed under a mesh"
    gathered: jax.Array = _to(NamedSharding(x.sharding.mesh, PartitionSpec(x.sharding.spec[0])))(x)
    return gathered


@functools.cache
def _to(sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda x: x, out_shardings=sharding)


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
