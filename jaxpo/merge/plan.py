"""What every leaf of a merged model is made of, checked before any value is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jaxpo.errors import ConfigError
from jaxpo.merge.base import Method


class Stored(Protocol):
    """A leaf that is read when its turn comes."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def read(self) -> Callable[[], np.ndarray]: ...


Models = Mapping[str, Mapping[str, Stored]]
"""Model -> leaf name -> leaf."""
Part = tuple[str, str]
"""(model, name of the leaf in it)."""


@dataclass(frozen=True)
class LeafPlan:
    """One leaf of the result.

    Attributes:
      name: in the result.
      method: with the settings of this leaf.
      parts: the leaves that are merged, base not among them.
      weights: as they are used.
    """

    name: str
    method: Method
    parts: tuple[Part, ...]
    weights: tuple[float, ...]
    base: Part | None = None

    @property
    def sources(self) -> tuple[Part, ...]:
        """Everything that is read for it, the base last."""
        return self.parts if self.base is None else (*self.parts, self.base)


@dataclass(frozen=True)
class Plan:
    """A merged model.

    Attributes:
      layers: (model, layer) from which each layer takes its kind; None = as the models have them.
      dtype: of the result's files; None = the writer's choice.
      lines: the effective weights, for the user.
    """

    leaves: tuple[LeafPlan, ...]
    layers: tuple[tuple[str, int], ...] | None = None
    dtype: str | None = None
    seed: int = 0
    lines: tuple[str, ...] = ()


def plan_models(
    names: Sequence[str],
    method: Method,
    models: Sequence[str],
    weights: Sequence[float] | None = None,
    base: str | None = None,
    seed: int = 0,
) -> Plan:
    """The same method for every leaf of equal models.

    Args:
      names: of the leaves.
      base: a base that is also listed among the models counts as the base alone.

    Raises:
      ConfigError: settings out of range, or another number of models or weights than the method takes; all together.
    """
    others = [m for m in models if m != base]
    problems = list(method.problems(len(others), base is not None))
    if weights is not None and not method.WEIGHTED:
        problems.append(f"weights: {method.NAME} does not use any; leave them out.")
    if problems:
        raise ConfigError(problems)
    used = method.effective(weights, len(others))
    leaves = tuple(
        LeafPlan(name, method, tuple((m, name) for m in others), used, None if base is None else (base, name))
        for name in names
    )
    return Plan(leaves, seed=seed, lines=tuple(describe_plan(Plan(leaves))))


def describe_plan(plan: Plan) -> Iterator[str]:
    """The effective weights, one line per model; a range where they differ between leaves."""
    for base in dict.fromkeys(leaf.base[0] for leaf in plan.leaves if leaf.base is not None):
        yield f"    base   {base}"
    weights: dict[str, list[float]] = {}
    for leaf in plan.leaves:
        for (model, _), weight in zip(leaf.parts, leaf.weights, strict=True):
            weights.setdefault(model, []).extend([weight] if leaf.method.has_shares else [])
    for model, found in weights.items():
        low, high = (min(found), max(found)) if found else (0.0, 0.0)
        shown = f"{low:8.4f}" if high - low < 5e-5 else f"{low:.4f} .. {high:.4f}"
        yield f"{shown} x {model}" if found else f"  merged   {model}"


def check_leaves(plan: Plan, models: Models) -> None:
    """Raise one ConfigError that names every leaf that a model lacks, has besides, or has in another shape."""
    problems: list[str] = []
    read: dict[str, set[str]] = {}
    for leaf in plan.leaves:
        first: Part | None = None
        for model, name in leaf.sources:
            read.setdefault(model, set()).add(name)
            if name not in models[model]:
                problems.append(f"{model} lacks {name}")
            elif first is None:
                first = (model, name)
            elif models[model][name].shape != models[first[0]][first[1]].shape:
                shape, other = models[first[0]][first[1]].shape, models[model][name].shape
                problems.append(f"{name}: shape {shape} in {first[0]}, {other} in {model}")
    if plan.layers is None:
        # A stack of slices leaves layers out on purpose; a merge of whole models must use everything.
        for model, names in read.items():
            problems += [f"{model} has an extra {name}" for name in models[model] if name not in names]
    if problems:
        shown, more = problems[:12], len(problems) - 12
        raise ConfigError([*shown, *([f"... and {more} more"] if more > 0 else [])])
