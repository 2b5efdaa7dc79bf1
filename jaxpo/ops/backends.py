"""Several ways to compute one operation: what each can do, and which one is taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from jaxtyping import Array

from jaxpo.errors import BackendError
from jaxpo.sharding import axis_size
from jaxpo.sharding.rules import current_rules


class Asks(Protocol):
    """What a call asks of a backend."""

    @property
    def platform(self) -> str:
        """Of "cpu", "gpu" and "tpu"."""
        ...


Asked = TypeVar("Asked", bound=Asks, contravariant=True)


@dataclasses.dataclass(frozen=True)
class Backend(Generic[Asked]):
    """One way to compute it.

    Attributes:
      platforms: where it runs; the others refuse it.
      compute: the function.
      refusal: why it cannot do what is asked, with the remedy; None = it can.
      about: what it is and how far it is tested, in a few words.
      by_default: whether it is taken unasked, where it can.
      divisible: whether the compiler can divide it over a mesh by itself.
    """

    name: str
    platforms: tuple[str, ...]
    compute: Callable[..., Array]
    refusal: Callable[[Asked], str | None]
    about: str
    by_default: bool = True
    divisible: bool = False


@dataclasses.dataclass(frozen=True)
class Choice:
    """The backend taken, and the reason to show."""

    name: str
    why: str


def names_on(backends: Sequence[Backend[Any]], platform: str) -> tuple[str, ...]:
    """Names that a platform has, best first, those that are only taken by name last."""
    here = [b for b in backends if platform in b.platforms]
    return tuple(b.name for b in sorted(here, key=lambda b: not b.by_default))


def choose(what: str, backends: Sequence[Backend[Asked]], name: str | None, asked: Asked) -> Choice:
    """The named backend, or the best one that can do what is asked.

    Raises:
      BackendError: the named one is not on this platform, or cannot do it.
    """
    if name is not None:
        return _named(what, backends, name, asked)
    refused: list[str] = []
    for backend in backends:
        if asked.platform not in backend.platforms or not backend.by_default:
            continue
        reason = backend.refusal(asked)
        if reason is None:
            return Choice(backend.name, "; ".join([f"the best on {asked.platform}: {backend.about}", *refused]))
        refused.append(f"not {backend.name}: {reason}")
    raise BackendError(f"no {what} implementation can do this on {asked.platform}: {'; '.join(refused)}")


def _named(what: str, backends: Sequence[Backend[Asked]], name: str, asked: Asked) -> Choice:
    known = {b.name: b for b in backends}
    if name not in known or asked.platform not in known[name].platforms:
        where = f" It runs on {' and '.join(known[name].platforms)}." if name in known else ""
        raise BackendError(
            f"{what} implementation {name!r} is not available here; available: "
            f"{', '.join(names_on(backends, asked.platform))}.{where} Leave it unset (None) to take the best one."
        )
    reason = known[name].refusal(asked)
    if reason is not None:
        raise BackendError(f"{what} implementation {name!r} refuses: {reason}")
    return Choice(name, f"asked for: {known[name].about}")


def sequence_devices() -> int:
    """Devices over which the enclosing mesh spreads the positions of a row."""
    active = current_rules()
    return 1 if active is None else axis_size(active[0], active[1]["sequence"])
