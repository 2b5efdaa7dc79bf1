"""The merges that a search tries: methods times weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxpo.merge.base import Method
from jaxpo.merge.methods import (
    SCE,
    Breadcrumbs,
    DareTies,
    Della,
    Karcher,
    ModelStock,
    Slerp,
    Soup,
    TaskArithmetic,
    Ties,
)

EMPHASIS = 0.75
"""Share of the model that is emphasised among two; among more its weight relative to all others together."""


@dataclass(frozen=True)
class Candidate:
    """One merge to try."""

    method: Method
    weights: tuple[float, ...] | None

    @property
    def label(self) -> str:
        """`ties(density=0.5) 0.25 0.75`: what differs from the defaults, and the weights."""
        settings = [
            f"{f.name}={shown(getattr(self.method, f.name))}"
            for f in dataclasses.fields(self.method)
            if getattr(self.method, f.name) != f.default
        ]
        inside = f"({', '.join(settings)})" if settings else ""
        weights = "" if self.weights is None else " " + " ".join(f"{w:.4g}" for w in self.weights)
        return f"{self.method.NAME}{inside}{weights}"


def shown(value: object) -> str:
    """A setting in a label."""
    if isinstance(value, tuple):
        return "/".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def candidates(
    count: int,
    base: bool,
    methods: Sequence[Method] = (),
    weights: Sequence[tuple[float, ...]] = (),
) -> list[Candidate]:
    """Every method with every set of weights it can use, each once.

    Args:
      count: models besides the base.
      base: whether there is one.
      methods: empty = `default_methods`.
      weights: empty = `default_weights`.
    """
    sets = tuple(weights) or default_weights(count)
    found = [
        Candidate(method, tried)
        for method in methods or default_methods(count, base)
        for tried in (sets if method.WEIGHTED else (None,))
    ]
    return list(dict.fromkeys(found))


def default_methods(count: int, base: bool) -> list[Method]:
    """All kinds of methods that fit the number of models, at two or three settings where one is not obvious."""
    found: list[Method] = [Soup(), Karcher()]
    if count == 2:
        found += [Slerp(t) for t in (0.25, 0.5, 0.75)]
    if base:
        found += [TaskArithmetic(), TaskArithmetic(scale=0.6)]
        found += [Ties(density=density) for density in (0.2, 0.5)]
        found += [DareTies(density=0.5), Della(density=0.5), Breadcrumbs(density=0.5), SCE()]
        found += [ModelStock()] if count >= 2 else []
    return found


def default_weights(count: int) -> tuple[tuple[float, ...], ...]:
    """Equal weights, and each model emphasised in turn."""
    if count == 1:
        return ((1.0,),)
    rest = (1 - EMPHASIS) / (count - 1)
    equal = (1.0 / count,) * count
    return (equal, *(tuple(EMPHASIS if i == j else rest for j in range(count)) for i in range(count)))


def problems(count: int, base: bool, methods: Sequence[object], weights: Sequence[tuple[float, ...]]) -> Iterator[str]:
    """What is wrong with a grid that someone wrote, each sentence naming the entry."""
    for i, method in enumerate(methods):
        if not isinstance(method, Method):
            yield f"methods[{i}]: {method!r} is not a method; use a dataclass of jaxpo.merge.methods."
        else:
            yield from (f"methods[{i}]: {p}" for p in method.problems(count, base and method.BASE != "none"))
    for i, tried in enumerate(weights):
        if len(tried) != count:
            yield f"weights[{i}]: {len(tried)} weights for {count} models."
        elif abs(sum(tried)) <= 1e-12:
            yield f"weights[{i}]: {tried} sum to 0 and cannot be normalised."
