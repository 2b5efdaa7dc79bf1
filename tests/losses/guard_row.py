"""One line of the tables of `test_guards.py`: a function, and arguments that hit its guards and ties exactly."""

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from jaxpo import losses


class Row(NamedTuple):
    """A function on named cases. Arrays without their batch axis; the `free` ones are differentiated.

    `kinks` names the cases at which the function is documented to have one. `steps` are those of the finite differences
    of single cases. `whole` is what the gradient belongs to, of a loss that stops a part of its gradient.
    """

    function: Callable
    loss: Callable
    cases: dict[str, tuple]
    free: tuple[int, ...]
    kinks: tuple[str, ...]
    steps: dict[str, float]
    whole: Callable | None


def row(name, cases, *, free, kinks=(), steps=None, whole=None, loss=None, **settings):
    """`free` of the first arrays, or those at the places listed; `name` is that of a function or of `room.function`."""
    room, _, short = name.rpartition(".")
    function = getattr(import_module(f"jaxpo.losses.{room}") if room else losses, short)
    loss = loss or (lambda *a: function(*a, **settings))
    free = tuple(range(free)) if isinstance(free, int) else free
    return Row(function, loss, cases, free, tuple(kinks), steps or {}, whole)
