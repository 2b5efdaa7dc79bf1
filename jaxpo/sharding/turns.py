"""Turns of the processes of one run: process 0 first, and work that one process does alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxpo.errors import RunError
from jaxpo.sharding.mesh import make_mesh
from jaxpo.sharding.place import to_host
from jaxpo.sharding.rules import use_mesh

Tree = Any
T = TypeVar("T")
DONE, LONGEST = "done", 7 * 24 * 3600 * 1000
"""What process 0 leaves when its turn went well, and how many milliseconds the others wait for it: a dead one is
noticed by JAX's heartbeat, and tokenising may take long."""
_turns = itertools.count()


def first_process_first(do: Callable[[], T]) -> T:
    """`do()`, by process 0 alone and then by the others at once, which find the files that it wrote.

    Every process calls it, in the same order.

    Raises:
      RunError: on the others, when process 0 failed.
    """
    if jax.process_count() == 1:
        return do()
    # The store of the coordination service, which JAX keeps to itself: a collective would need the devices, and give
    # up on a long turn.
    from jax._src.distributed import global_state

    store, key = global_state.client, f"jaxpo/turn/{next(_turns)}"
    assert store is not None
    if jax.process_index() > 0:
        word = store.blocking_key_value_get(key, LONGEST)
        if word != DONE:
            raise RunError(f"process 0 stopped: {word}")
        return do()
    try:
        result = do()
    except BaseException as error:
        store.key_value_set(key, f"{type(error).__name__}: {error}")
        raise
    store.key_value_set(key, DONE)
    return result


class Processes:
    """All processes of this run, as those that tokenise together (`data.tokens.shards.Team`)."""

    @property
    def index(self) -> int:
        return jax.process_index()

    @property
    def count(self) -> int:
        return jax.process_count()

    def first(self, do: Callable[[], T]) -> T:
        """See `first_process_first`."""
        return first_process_first(do)

    def every(self, do: Callable[[], None]) -> None:
        """See `every_process`."""
        every_process(do)


def every_process(do: Callable[[], None]) -> None:
    """`do()` by all processes at once; none goes on before all are done. Every process calls it, in the same order.

    Raises:
      RunError: on the others, when one failed; names it and what it said.
    """
    if jax.process_count() == 1:
        do()
        return
    from jax._src.distributed import global_state

    store, key = global_state.client, f"jaxpo/all/{next(_turns)}"
    assert store is not None
    try:
        do()
    except BaseException as error:
        store.key_value_set(f"{key}/{jax.process_index()}", f"{type(error).__name__}: {error}")
        raise
    store.key_value_set(f"{key}/{jax.process_index()}", DONE)
    words = {i: store.blocking_key_value_get(f"{key}/{i}", LONGEST) for i in range(jax.process_count())}
    failed = [f"process {i} stopped: {word}" for i, word in words.items() if word != DONE]
    if failed:
        raise RunError("; ".join(failed))


def on_any_process(flags: np.ndarray) -> np.ndarray:
    """Which of some flags are set on at least one process; all have come here when it returns."""
    return flags if jax.process_count() == 1 else multihost_utils.process_allgather(flags).any(axis=0)


@contextmanager
def on_this_process(tree: Tree) -> Iterator[Tree]:
    """Arrays that this process can use without the others, under a mesh of its own; all enter, one may do the work."""
    if jax.process_count() == 1:
        yield tree
        return
    whole = to_host(tree)
    with use_mesh(make_mesh({}, jax.local_devices()[:1])):
        yield whole
