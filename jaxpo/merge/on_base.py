"""The methods on task vectors as values: what models learned since a base, thinned out and added up. No jax here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from jaxpo.merge.base import BaseUse, Density, Inputs, Method
from jaxpo.merge.breadcrumbs import breadcrumbs, breadcrumbs_ties
from jaxpo.merge.dare import dare_linear, dare_ties
from jaxpo.merge.della import della, della_linear
from jaxpo.merge.numerics import per_model
from jaxpo.merge.rescale import Rescale
from jaxpo.merge.task_arithmetic import task_arithmetic
from jaxpo.merge.ties import ties
from jaxpo.merge.update_selective import update_selective

Leafwise = Callable[..., np.ndarray]
"""A method as a function of one leaf's values."""


@dataclass(frozen=True)
class OnBase(Method):
    """What the task-vector methods share.

    Attributes:
      scale: lambda, the factor of the merged task vector.
      normalize: divide by the sum of the weights; with a sign election by that of the agreeing models.
    """

    BASE: ClassVar[BaseUse] = "required"
    scale: float = 1.0
    normalize: bool = False

    @property
    def fusion(self) -> dict[str, Any]:
        """How the task vectors are added up."""
        return {"scale": self.scale, "normalize": self.normalize}


@dataclass(frozen=True)
class TaskArithmetic(OnBase):
    """Sum of task vectors."""

    NAME: ClassVar[str] = "task_arithmetic"

    def merge(self, inputs: Inputs) -> np.ndarray:
        return task_arithmetic(inputs.base, inputs.leaves, inputs.weights, **self.fusion)


@dataclass(frozen=True)
class Ties(OnBase):
    """Trim, elect a sign, average what agrees.

    Attributes:
      density: share of each task vector's entries kept (the paper's k = 20%), one number or one per model.
      rescale: "l1" gives the trimmed vectors their length back; the paper does not.
    """

    NAME: ClassVar[str] = "ties"
    normalize: bool = True
    density: Density = 0.2
    rescale: Literal["none", "l1"] = "none"

    def merge(self, inputs: Inputs) -> np.ndarray:
        densities = per_model(self.density, len(inputs.leaves))
        return ties(inputs.base, inputs.leaves, inputs.weights, densities, rescale=self.rescale, **self.fusion)


@dataclass(frozen=True)
class DareLinear(OnBase):
    """Sum of task vectors of which random entries were dropped.

    Attributes:
      density: share kept, 1 minus the paper's drop rate (0.9 there).
      rescale: "expected" = 1 / density, the paper's; "l1" = mergekit's.
    """

    NAME: ClassVar[str] = "dare_linear"
    FUNCTION: ClassVar[Leafwise] = staticmethod(dare_linear)
    density: Density = 0.1
    rescale: Rescale = "expected"

    def merge(self, inputs: Inputs) -> np.ndarray:
        densities = per_model(self.density, len(inputs.leaves))
        return self.FUNCTION(
            inputs.base, inputs.leaves, inputs.weights, densities, inputs.draw, rescale=self.rescale, **self.fusion
        )


@dataclass(frozen=True)
class DareTies(DareLinear):
    """The same with TIES' sign election."""

    NAME: ClassVar[str] = "dare_ties"
    FUNCTION: ClassVar[Leafwise] = staticmethod(dare_ties)


@dataclass(frozen=True)
class DellaLinear(OnBase):
    """Sum of task vectors of which entries were dropped at random, small ones more often.

    Attributes:
      density: mean probability of being kept.
      epsilon: width of the window of probabilities around it (the paper's; mergekit's epsilon is half of it).
      rescale: "expected" = 1 / p_i, the paper's; "l1" = mergekit's.
    """

    NAME: ClassVar[str] = "della_linear"
    FUNCTION: ClassVar[Leafwise] = staticmethod(della_linear)
    density: Density = 0.5
    epsilon: Density = 0.3
    rescale: Rescale = "expected"

    def problems(self, count: int, base: bool) -> Iterator[str]:
        yield from super().problems(count, base)
        if any(isinstance(v, tuple) and len(v) != count for v in (self.density, self.epsilon)):
            return
        pairs = zip(per_model(self.density, count), per_model(self.epsilon, count), strict=True)
        for p, width in dict.fromkeys(pairs):
            if 0 < p < 1 and width > 0 and not (p - width / 2 > 0 and p + width / 2 < 1):
                yield (
                    f"epsilon: {width:g} around density {p:g} leaves (0, 1): probabilities would run from "
                    f"{p - width / 2:g} to {p + width / 2:g}; choose at most {2 * min(p, 1 - p):g}, exclusive."
                )

    def merge(self, inputs: Inputs) -> np.ndarray:
        count = len(inputs.leaves)
        densities, epsilons = per_model(self.density, count), per_model(self.epsilon, count)
        return self.FUNCTION(
            inputs.base,
            inputs.leaves,
            inputs.weights,
            densities,
            epsilons,
            inputs.draw,
            rescale=self.rescale,
            **self.fusion,
        )


@dataclass(frozen=True)
class Della(DellaLinear):
    """The same with TIES' sign election and mean: drop, elect, fuse."""

    NAME: ClassVar[str] = "della"
    FUNCTION: ClassVar[Leafwise] = staticmethod(della)
    normalize: bool = True


@dataclass(frozen=True)
class Breadcrumbs(OnBase):
    """Sum of task vectors without their outliers and their smallest entries.

    Attributes:
      density: share kept; the paper drops the smallest 85%.
      gamma: share of largest entries dropped.
      rescale: "l1" gives the masked vectors their length back; the paper does not.
    """

    NAME: ClassVar[str] = "breadcrumbs"
    FUNCTION: ClassVar[Leafwise] = staticmethod(breadcrumbs)
    density: Density = 0.14
    gamma: Density = 0.01
    rescale: Literal["none", "l1"] = "none"

    def merge(self, inputs: Inputs) -> np.ndarray:
        count = len(inputs.leaves)
        densities, gammas = per_model(self.density, count), per_model(self.gamma, count)
        return self.FUNCTION(
            inputs.base, inputs.leaves, inputs.weights, densities, gammas, rescale=self.rescale, **self.fusion
        )


@dataclass(frozen=True)
class BreadcrumbsTies(Breadcrumbs):
    """The same with TIES' sign election."""

    NAME: ClassVar[str] = "breadcrumbs_ties"
    FUNCTION: ClassVar[Leafwise] = staticmethod(breadcrumbs_ties)


@dataclass(frozen=True)
class UpdateSelective(Method):
    """The largest changes of one model, weakened, on the base that it was trained from (DLER's merge).

    Attributes:
      density: share of the entries that move.
      scale: lambda, how far they move.
    """

    NAME: ClassVar[str] = "update_selective"
    BASE: ClassVar[BaseUse] = "required"
    MOST: ClassVar[int | None] = 1
    WEIGHTED: ClassVar[bool] = False
    density: float = 0.25
    scale: float = 0.7

    def merge(self, inputs: Inputs) -> np.ndarray:
        (leaf,) = inputs.leaves
        return update_selective(inputs.base, leaf, density=self.density, scale=self.scale)
