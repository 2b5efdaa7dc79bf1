"""Turns of the processes of one run: process 0 first, and work that one process does alone."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxpo.errors import RunError
from jaxpo.sharding.coordination import service
from jaxpo.sharding.mesh import make_mesh
from jaxpo.sharding.place import to_host
from jaxpo.sharding.rules import use_mesh

Tree = Any
T = TypeVar("T")
LONGEST = 7 * 24 * 3600 * 1000
"""How many milliseconds the others wait for process 0's turn: a dead one ends them, and tokenising may take long."""
NOTICE = "RECEIVED_PREEMPTION_NOTICE"
"""Where JAX's preemption service leaves word of a SIGTERM that one of the processes got."""
_turns = itertools.count()
_alone: ContextVar[bool] = ContextVar("alone", default=False)


def first_process_first(do: Callable[[], T]) -> T:
    """`do()`, by process 0 alone and then by the others at once, which find the files that it wrote.

    Every process calls it, in the same order.

    Raises:
      RunError: on the others, when process 0 failed.
    """
    if not _with_others():
        return do()
    if jax.process_index() > 0:
        _result()
        with _without_the_others():
            return do()
    return _turn(do, lambda _: None)


def by_first_process(do: Callable[[], T]) -> T:
    """What `do()` returns on process 0, which alone does it: a value that JSON can hold.

    Every process calls it, in the same order; the others have nothing else to do meanwhile.

    Raises:
      RunError: on the others, when process 0 failed.
    """
    if not _with_others():
        return do()
    if jax.process_index() > 0:
        found: T = _result()
        return found
    return _turn(do, lambda result: result)


def tell_first_process(word: str) -> list[str]:
    """On process 0 what the other processes say, in their order; every process calls it."""
    if not _with_others():
        return []
    key, own = f"jaxpo/told/{next(_turns)}", jax.process_index()
    if own > 0:
        service().key_value_set(f"{key}/{own}", word)
        return []
    return [service().blocking_key_value_get(f"{key}/{i}", LONGEST) for i in range(1, jax.process_count())]


def words_of_all(word: Any) -> list[Any]:
    """What each process says, a value that JSON can hold, in their order; every process calls it."""
    if not _with_others():
        return [word]
    key = f"jaxpo/words/{next(_turns)}"
    _say(key, word)
    return _said(key)


def _say(key: str, word: Any) -> None:
    service().key_value_set(f"{key}/{jax.process_index()}", json.dumps(word))


def _said(key: str) -> list[Any]:
    """By every process, which is waited for."""
    words = (service().blocking_key_value_get(f"{key}/{i}", LONGEST) for i in range(jax.process_count()))
    return [json.loads(word) for word in words]


def _with_others() -> bool:
    """Whether the other processes take part in what this one does now."""
    return jax.process_count() > 1 and not works_alone()


def works_alone() -> bool:
    """Whether this is one of several processes and does something that the others take no part in."""
    return _alone.get()


@contextmanager
def _without_the_others() -> Iterator[None]:
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def _turn(do: Callable[[], T], said: Callable[[T], Any]) -> T:
    """Process 0's part of a turn, of which the others hear."""
    store, key = service(), f"jaxpo/turn/{next(_turns)}"
    try:
        with _without_the_others():
            result = do()
        word = json.dumps({"result": said(result)})
    except BaseException as error:
        store.key_value_set(key, json.dumps({"error": f"{type(error).__name__}: {error}"}))
        raise
    store.key_value_set(key, word)
    return result


def _result() -> Any:
    """What comes of process 0's turn; RunError when it failed."""
    word = json.loads(service().blocking_key_value_get(f"jaxpo/turn/{next(_turns)}", LONGEST))
    if "error" in word:
        raise RunError(f"process 0 stopped: {word['error']}")
    return word["result"]


def preemption_noticed() -> bool:
    """Whether one of several processes got SIGTERM; for the one that works while the others wait for it."""
    if jax.process_count() == 1:
        return False
    try:
        return bool(service().key_value_try_get(NOTICE))
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return False
        raise


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

    def by_first(self, do: Callable[[], T]) -> T:
        """See `by_first_process`."""
        return by_first_process(do)

    def every(self, do: Callable[[], None]) -> None:
        """See `every_process`."""
        every_process(do)


def every_process(do: Callable[[], None]) -> None:
    """`do()` by all processes at once; none goes on before all are done. Every process calls it, in the same order.

    Raises:
      RunError: on the others, when one failed; names it and what it said.
    """
    if not _with_others():
        do()
        return
    key = f"jaxpo/all/{next(_turns)}"
    try:
        do()
    except BaseException as error:
        _say(key, f"{type(error).__name__}: {error}")
        raise
    _say(key, None)
    failed = [f"process {i} stopped: {word}" for i, word in enumerate(_said(key)) if word is not None]
    if failed:
        raise RunError("; ".join(failed))


def least_of_all(value: float) -> float:
    """The smallest of the values that the processes have, on all of them."""
    if not _with_others():
        return value
    return float(multihost_utils.process_allgather(np.float64(value)).min())


@contextmanager
def own_devices() -> Iterator[Mesh]:
    """A mesh of this process's devices, for work that it does without the others."""
    mesh = make_mesh({"fsdp": jax.local_device_count()}, jax.local_devices())
    with use_mesh(mesh):
        yield mesh


@contextmanager
def on_this_process(tree: Tree) -> Iterator[Tree]:
    """Arrays that this process can use without the others, under a mesh of its own; all enter, one may do the work."""
    if jax.process_count() == 1:
        yield tree
        return
    whole = to_host(tree)
    with use_mesh(make_mesh({}, jax.local_devices()[:1])):
        yield whole
