"""A run's fields as a flat table of dotted paths: what the command line can set and what `explain` prints."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

from jaxpo.config import Run

BUDGETS = ("max_steps", "max_tokens", "num_train_epochs")
OBJECTS = ("probes", "alerts", "on_alert")
"""Fields of a run that hold dataclasses of any type, which the command line does not change."""


@dataclass(frozen=True)
class Leaf:
    """One field that holds a value rather than further fields.

    Attributes:
      path: ("sft", "optimizer", "learning_rate"); a stage's fields start with the stage's name.
      hint: the annotation that the value obeys.
      default: of the dataclass; `dataclasses.MISSING` when it has none.
      settable: whether the command line may change it.
    """

    path: tuple[str, ...]
    hint: Any
    value: Any
    default: Any
    settable: bool = True

    @property
    def dotted(self) -> str:
        return ".".join(self.path)


@lru_cache(maxsize=256)
def hints_of(cls: Any) -> dict[str, Any]:
    """The resolved annotations of a dataclass."""
    return typing.get_type_hints(cls)


def is_config(value: Any) -> bool:
    """Whether a value is a dataclass instance, and so has fields of its own."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def optional_config(cls: Any, name: str) -> Any:
    """The dataclass of a field annotated `X | None`, whose fields exist only once it is switched on; else None."""
    arguments = get_args(hints_of(cls).get(name))
    found = [a for a in arguments if dataclasses.is_dataclass(a)]
    return found[0] if type(None) in arguments and len(found) == 1 else None


def named_config(cls: Any, name: str) -> Any:
    """The dataclass of a field annotated `tuple[tuple[str, X], ...]`, whose entries are fields of their own; else None.

    Such entries stand below the field by their names: `beside.reference.source`.
    """
    inner = get_args(hints_of(cls).get(name))
    pair = get_args(inner[0]) if len(inner) == 2 and inner[1] is ... else ()
    return pair[1] if len(pair) == 2 and pair[0] is str and dataclasses.is_dataclass(pair[1]) else None


def entries(value: Any, name: str) -> dict[str, Any] | None:
    """The named entries of such a field; None where a field is no such one, or holds something else."""
    cls, found = named_config(type(value), name), getattr(value, name)
    try:
        named = dict(found) if cls is not None else {}
    except (TypeError, ValueError):
        return None
    return named if named and all(isinstance(entry, cls) for entry in named.values()) else None


def default_of(field: dataclasses.Field[Any]) -> Any:
    """A field's default value, or `dataclasses.MISSING`."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def leaves(value: Any, prefix: tuple[str, ...] = (), default: Any = dataclasses.MISSING) -> Iterator[Leaf]:
    """All leaf fields of a configuration in declaration order; a run's stages come last, under their names."""
    hints = hints_of(type(value))  # type: ignore[arg-type]
    for f in dataclasses.fields(value):
        if not f.init or (isinstance(value, Run) and f.name in ("stages", *OBJECTS)):
            continue
        current = getattr(value, f.name)
        fallback = default_of(f)
        if type(default) is type(value):
            fallback = getattr(default, f.name)
        path = (*prefix, f.name)
        if named := entries(value, f.name):
            for name, entry in named.items():
                yield from leaves(entry, (*path, key(name)), type(entry)())
        elif is_config(current):
            yield from leaves(current, path, fallback)
        else:
            settable = not (len(prefix) == 1 and f.name == "name")
            yield Leaf(path, effective_hint(hints[f.name], current), current, fallback, settable)
    if isinstance(value, Run):
        defaults = {f.name: default_of(f) for f in dataclasses.fields(value)}
        for name in OBJECTS:
            if found := getattr(value, name):
                yield Leaf((*prefix, name), Any, found, defaults[name], settable=False)
        for stage in value.stages:
            yield from leaves(stage, (key(stage.name),))


def effective_hint(hint: Any, value: Any) -> Any:
    """`Any` narrows to the type of the present value; a missing value is read as text."""
    if hint is Any:
        return str | None if value is None else type(value)
    return hint


def key(name: str) -> str:
    """A stage's name as it stands in a path: `dpo-1` and `dpo_1` are the same to the command line."""
    return str(name).replace("-", "_")


def flag(path: tuple[str, ...]) -> str:
    """('sft', 'max_steps') -> '--sft.max-steps'."""
    return "--" + ".".join(path).replace("_", "-")


def put(value: Any, path: tuple[str, ...], new: Any) -> Any:
    """A copy of a configuration with one field replaced."""
    head, rest = path[0], path[1:]
    if isinstance(value, Run) and head not in hints_of(Run):
        stages = tuple(put(s, rest, new) if key(s.name) == head else s for s in value.stages)
        return dataclasses.replace(value, stages=stages)
    if rest and (named := entries(value, head)):
        child: Any = tuple(
            (name, put(entry, rest[1:], new) if key(name) == rest[0] else entry) for name, entry in named.items()
        )
    else:
        child = put(getattr(value, head), rest, new) if rest else new
    return dataclasses.replace(value, **{head: child})


def describe(hint: Any) -> str:
    """A type annotation in words."""
    arguments = get_args(hint)
    origin = getattr(hint, "__origin__", None)
    if origin is tuple:
        return f"any number of values, each {describe(arguments[0])}" if arguments[-1] is ... else str(hint)
    if arguments and all(isinstance(a, (str, int)) for a in arguments):
        return "one of " + ", ".join(map(str, arguments))
    if arguments:
        return " or ".join(describe(a) for a in arguments)
    names = {int: "an integer", float: "a number", str: "text", bool: "True or False", type(None): "None"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
