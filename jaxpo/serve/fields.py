"""Fields of a JSON object, read one by one: of the right kind, or an error that names the field."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from jaxpo.errors import did_you_mean
from jaxpo.serve.errors import wrong

T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """What a field may hold.

    Attributes:
      words: the same for readers: "a string".
      fits: whether a value is one.
    """

    words: str
    fits: Callable[[Any], bool]


def number(low: float, high: float = math.inf, *, above: bool = False) -> Kind:
    """A finite number in [low, high], or in (low, high]."""

    def fits(value: Any) -> bool:
        finite = type(value) in (int, float) and math.isfinite(value)
        return finite and (value > low if above else value >= low) and value <= high

    return Kind(f"a number {_range(low, high, 'above' if above else 'of at least')}", fits)


def whole(low: int, high: float = math.inf) -> Kind:
    """A whole number in [low, high]; true and false are none."""
    return Kind(
        f"a whole number {_range(low, high, 'of at least')}", lambda value: type(value) is int and low <= value <= high
    )


def one_of(*options: Any) -> Kind:
    """One of these values."""
    return Kind(" or ".join(map(repr, options)), lambda value: value in options and type(value) is not int)


def listed(of: Kind, low: int = 0, high: float = math.inf) -> Kind:
    """A list whose items are all of one kind."""
    return Kind(
        f"a list of {_count(low, high)}items, each {of.words}",
        lambda value: isinstance(value, list) and low <= len(value) <= high and all(map(of.fits, value)),
    )


def either(*kinds: Kind) -> Kind:
    """Of one of several kinds."""
    return Kind(", or ".join(kind.words for kind in kinds), lambda value: any(kind.fits(value) for kind in kinds))


TEXT = Kind("a string", lambda value: isinstance(value, str))
SOME_TEXT = Kind("a string that is not empty", lambda value: isinstance(value, str) and value != "")
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))


class Fields:
    """An object's fields; each is taken once, and what nobody took is unknown."""

    def __init__(self, values: Mapping[str, Any], inside: str = ""):
        self._values, self._inside = values, inside
        self._known: set[str] = set()

    def take(self, name: str, kind: Kind, default: T) -> T | Any:
        """A field's value; `default` where it is absent or null.

        Raises:
          ApiError: 400, of another kind.
        """
        self._known.add(name)
        value = self._values.get(name)
        if value is None:
            return default
        if not kind.fits(value):
            raise wrong(self.path(name), f"`{self.path(name)}` is {shown(value)}; it must be {kind.words}.")
        return value

    def need(self, name: str, kind: Kind) -> Any:
        """The value of a field that must be there."""
        value = self.take(name, kind, None)
        if value is None:
            raise wrong(self.path(name), f"`{self.path(name)}` is missing; it must be {kind.words}.")
        return value

    def path(self, name: str) -> str:
        """A field's name with those of the objects around it."""
        return f"{self._inside}.{name}" if self._inside else name

    def done(self, refused: Mapping[str, str] | None = None, others: Collection[str] = ()) -> None:
        """Nothing may be left.

        Args:
          refused: fields that exist elsewhere, and what to do instead.
          others: further names that a misspelt one may mean.

        Raises:
          ApiError: 400, a field that is not known or not supported.
        """
        for name in (name for name, value in self._values.items() if name not in self._known and value is not None):
            if refused and name in refused:
                raise wrong(self.path(name), f"`{self.path(name)}` is not supported: {refused[name]}.", "unsupported")
            hint = did_you_mean(name, (*self._known, *others))
            raise wrong(self.path(name), f"`{shown(self.path(name))}` is no field of this request.{hint}", "unknown")


def shown(value: Any) -> str:
    """A value in an error, cut where it is long."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _range(low: float, high: float, least: str) -> str:
    if math.isinf(low):
        return "that is finite"
    return f"{least} {low:g}" if math.isinf(high) else f"{least} {low:g} and at most {high:g}"


def _count(low: int, high: float) -> str:
    if low == 0 and math.isinf(high):
        return ""
    return f"at least {low} " if math.isinf(high) else f"{low} to {high:g} "
