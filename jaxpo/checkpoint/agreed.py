"""One outcome on all processes: what one of them cannot read, or finds damaged, has failed on every one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from jaxpo.errors import CheckpointError, DamagedError
from jaxpo.sharding.turns import words_of_all

T = TypeVar("T")


def on_all(do: Callable[[], T]) -> T:
    """What `do()` returns, where it fails on no process; `do` waits for none. Every process calls it.

    Raises:
      DamagedError: it did on one process, and nothing worse on another.
      CheckpointError: it did on one process; the others are told which, and what it said.
    """
    found, problem = None, None
    try:
        found = do()
    except CheckpointError as error:
        problem = error
    damaged, other = "", ""
    if isinstance(problem, DamagedError):
        damaged = problem.what
    elif problem is not None:
        other = str(problem)
    words = words_of_all([damaged, other])
    for column, kind in ((1, CheckpointError), (0, DamagedError)):
        said = [f"process {i}: {word[column]}" for i, word in enumerate(words) if word[column]]
        if said and problem is not None and (damaged, other)[column]:
            raise problem
        if said:
            raise kind(said[0])
    return cast(T, found)
