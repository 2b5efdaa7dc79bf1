"""What a merge method is: a value with its settings and one function of the same leaf of all models. Imports no jax."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import numpy as np

from jaxpo.merge.numerics import Leaf
from jaxpo.merge.weights import effective_weights

BaseUse = Literal["required", "optional", "none"]
Density = float | tuple[float, ...]
"""One number for all models, or one of each."""


@dataclass(frozen=True)
class Inputs:
    """One leaf of all models, and what belongs to it.

    Attributes:
      leaves: of the models, base not among them.
      weights: as `Method.effective` gives them.
      base: of the base model, where the method has one.
      draw: index of a model -> random numbers of this leaf of it.
    """

    leaves: Sequence[Leaf]
    weights: tuple[float, ...]
    base: Leaf | None
    draw: Callable[[int], np.random.Generator]


@dataclass(frozen=True)
class Method:
    """Base of the methods; the fields of a subclass are its hyper-parameters.

    Attributes:
      NAME: on the command line, in YAML and in tables.
      BASE: whether theta_0 must be given.
      LEAST, MOST: number of models besides the base.
      WEIGHTED: whether weights are used at all.
    """

    NAME: ClassVar[str] = ""
    BASE: ClassVar[BaseUse] = "none"
    LEAST: ClassVar[int] = 1
    MOST: ClassVar[int | None] = None
    WEIGHTED: ClassVar[bool] = True

    @property
    def has_shares(self) -> bool:
        """Whether the effective weights say what each model counts."""
        return self.WEIGHTED

    def merge(self, inputs: Inputs) -> np.ndarray:
        """The merged leaf, float32."""
        raise NotImplementedError

    def effective(self, weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
        """The weights that are used: 1 / count each when none are given."""
        return effective_weights(count, weights, normalize=False)

    def problems(self, count: int, base: bool) -> Iterator[str]:
        """What is wrong with the settings, each sentence naming the field, for `count` models besides the base."""
        if base and self.BASE == "none":
            yield f"base: {self.NAME} has none; leave it out, or list that model among the others."
        if not base and self.BASE == "required":
            yield f"base: {self.NAME} adds to a base what the models learned since; name that model."
        if count < self.LEAST or (self.MOST is not None and count > self.MOST):
            wanted = f"exactly {self.LEAST}" if self.LEAST == self.MOST else f"at least {self.LEAST}"
            yield f"models: {self.NAME} merges {wanted}{' besides the base' * base}, got {count}."
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and len(value) != count:
                yield f"{field.name}: {len(value)} values for {count} models; give one number, or one per model."
            for number in value if isinstance(value, tuple) else (value,):
                yield from out_of_range(field.name, number)


def out_of_range(name: str, value: object) -> Iterator[str]:
    """Ranges that hold whatever the method."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if not math.isfinite(value):
        yield f"{name}: {value} must be finite."
    elif name == "density" and not 0 < value <= 1:
        yield f"density: {value:g} must lie in (0, 1]; it is the share of a task vector's entries that is kept."
    elif name == "select_topk" and not 0 < value <= 1:
        yield f"select_topk: {value:g} must lie in (0, 1]; it is the share of entries that is kept."
    elif name == "gamma" and not 0 <= value < 1:
        yield f"gamma: {value:g} must lie in [0, 1); it is the share of largest entries that is dropped."
    elif name == "t" and not 0 <= value <= 1:
        yield f"t: {value:g} must lie in [0, 1]; 0 is the first model, 1 the second."
    elif name == "epsilon" and value < 0:
        yield f"epsilon: {value:g} must not be negative; it is the width of the window of probabilities."
    elif name == "max_iter" and value < 1:
        yield f"max_iter: {value} must be at least 1."
    elif name == "tol" and value <= 0:
        yield f"tol: {value:g} must be above 0."
