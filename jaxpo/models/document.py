"""Typed reading of a `config.json`: wrong types and absurd sizes become problems, which are shown together.

Every reader returns a usable value even after a problem, so that one reading finds all of them; `check` then raises.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jaxpo.errors import CheckpointError

SHOWN = 60
"""Characters of a wrong value that a message repeats."""


class Document:
    """One object of a JSON file.

    Args:
      values: what the file holds.
      inside: where an inner object stands, for messages ("rope_parameters.").
      problems: of the object around it; inner objects share one list.
    """

    def __init__(self, values: Mapping[str, Any], inside: str = "", problems: list[str] | None = None):
        self.values, self.inside = values, inside
        self.problems: list[str] = [] if problems is None else problems

    def integer(self, keys: str | Sequence[str], default: int, *, least: int = 1, most: int = 2**31 - 1) -> int:
        """A whole number under the first of `keys` that is there."""
        key, value = self.first(keys, default)
        if type(value) is not int:
            return self.wrong(key, value, "a whole number", default)
        if not least <= value <= most:
            return self.wrong(key, value, f"between {least:,} and {most:,}", default)
        return value

    def number(self, keys: str | Sequence[str], default: float, *, signed: bool = False) -> float:
        """A number above 0 that float32 holds; `signed`: or 0, or one below."""
        key, value = self.first(keys, default)
        if type(value) not in (int, float):
            return self.wrong(key, value, "a number", default)
        # JSON knows whole numbers of any length, NaN and Infinity.
        if not (1e-30 <= value <= 1e30 or (signed and -1e30 <= value <= 1e30)):
            return self.wrong(key, value, f"between {'-1e30' if signed else '1e-30'} and 1e30", default)
        return float(value)

    def flag(self, keys: str | Sequence[str], default: bool) -> bool:
        """True or false."""
        key, value = self.first(keys, default)
        return value if type(value) is bool else self.wrong(key, value, "true or false", default)

    def words(self, key: str, default: Sequence[str], *, most: int) -> tuple[str, ...]:
        """A list of strings."""
        found = self._list(key, default, most)
        if odd := [x for x in found if type(x) is not str]:
            return tuple(self.wrong(key, odd[0], "a list of strings", default))
        return tuple(found)

    def integers(self, key: str, default: Sequence[int], *, most: int) -> tuple[int, ...]:
        """A list of whole numbers that are not negative."""
        found = self._list(key, default, most)
        if odd := [x for x in found if type(x) is not int or x < 0]:
            return tuple(self.wrong(key, odd[0], "a list of whole numbers that are not negative", default))
        return tuple(found)

    def end_ids(self, key: str, default: int) -> tuple[int, ...]:
        """One id or a list of them, as files give the ends of a text; the first is the model's own."""
        if not isinstance(self.values.get(key), list):
            return (self.integer(key, default, least=0),)
        return self.integers(key, (default,), most=1024) or (default,)

    def part(self, key: str, default: Mapping[str, Any] | None = None) -> Document:
        """An object inside this one; empty (or the default) where it is missing or null."""
        value = self.values.get(key)
        if value is None:
            value = default or {}
        elif not isinstance(value, Mapping):
            value = self.wrong(key, value, "an object", default or {})
        return Document(value, f"{self.inside}{key}.", self.problems)

    def agree(self, *keys: str) -> None:
        """A problem where several names of one thing hold different values."""
        found = {key: self.values[key] for key in keys if self.values.get(key) is not None}
        first, *others = found.values() or [None]
        if any(value != first for value in others):
            said = " and ".join(f"{key} is {shown(value)}" for key, value in found.items())
            self.problems.append(f"{self.inside}{said}, which mean the same; make them equal")

    def only(self, key: str, good: Any, why: str) -> None:
        """A problem where a value is another than the one that the family has; nothing where it is missing or null."""
        value = self.values.get(key)
        # 0 equals False and 1 equals True, which no file means.
        if value is not None and (value != good or isinstance(value, bool) != isinstance(good, bool)):
            self.problems.append(f"{self.inside}{key} is {shown(value)}, but {why}")

    def first(self, keys: str | Sequence[str], default: Any) -> tuple[str, Any]:
        """The first of several names that has a value, and the value; the first name and the default without one."""
        names = (keys,) if isinstance(keys, str) else tuple(keys)
        for name in names:
            if self.values.get(name) is not None:
                return name, self.values[name]
        return names[0], default

    def wrong(self, key: str, value: Any, expected: str, default: Any) -> Any:
        """Note a problem; returns the default, with which the reading goes on."""
        self.problems.append(f"{self.inside}{key} is {shown(value)}; it must be {expected}")
        return default

    def check(self, source: object) -> None:
        """CheckpointError that names the file and every problem."""
        if self.problems:
            raise CheckpointError(f"{source}: {'; '.join(dict.fromkeys(self.problems))}.")

    def _list(self, key: str, default: Sequence[Any], most: int) -> Sequence[Any]:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, list):
            return self.wrong(key, value, "a list", default)
        if len(value) > most:
            self.problems.append(f"{self.inside}{key} has {len(value):,} entries; it may have {most:,}")
            return default
        return value


def refuse_unknown(read: Document, known: Collection[str]) -> None:
    """A problem for every key of another name that is set; those that begin with "_" say who wrote the file."""
    for key, value in read.values.items():
        if key not in known and not key.startswith("_") and value is not None and value is not False:
            read.problems.append(f"{read.inside}{key} is {shown(value)}, and nothing is known here of what that means")


def shown(value: Any) -> str:
    """A value as a message repeats it: nothing of any length is spelt out."""
    if isinstance(value, (list, Mapping)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value):,}"
    if type(value) is int and abs(value) > 10**18:
        return f"a number of {int(math.log10(abs(value))) + 1} digits"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
