"""The merge methods as values: a dataclass each, chosen by value in a configuration and by name on the command line.

    Ties(density=0.2)        --merge.method ties --merge.method.density 0.2

Imports no jax.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from jaxpo.errors import ConfigError
from jaxpo.merge.base import Density, Inputs, Method
from jaxpo.merge.breadcrumbs import breadcrumbs, breadcrumbs_ties
from jaxpo.merge.dare import dare_linear, dare_ties
from jaxpo.merge.della import della, della_linear
from jaxpo.merge.karcher import karcher
from jaxpo.merge.linear import linear
from jaxpo.merge.model_stock import model_stock
from jaxpo.merge.numerics import per_model
from jaxpo.merge.nuslerp import nuslerp
from jaxpo.merge.passthrough import passthrough
from jaxpo.merge.rescale import Rescale
from jaxpo.merge.sce import sce
from jaxpo.merge.slerp import slerp
from jaxpo.merge.task_arithmetic import task_arithmetic
from jaxpo.merge.ties import ties
from jaxpo.merge.weights import effective_weights

BaseUse = Literal["required", "optional", "none"]


@dataclass(frozen=True)
class Soup(Method):
    """Weighted average of the models.

    Attributes:
      normalize: scale the weights to sum 1.
    """

    NAME: ClassVar[str] = "soup"
    normalize: bool = True

    def effective(self, weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
        return effective_weights(count, weights, normalize=self.normalize)

    def merge(self, inputs: Inputs) -> np.ndarray:
        return linear(inputs.leaves, inputs.weights)


@dataclass(frozen=True)
class Slerp(Method):
    """Spherical interpolation from the first model to the second.

    Attributes:
      t: 0 = the first model, 1 = the second.
    """

    NAME: ClassVar[str] = "slerp"
    LEAST: ClassVar[int] = 2
    MOST: ClassVar[int | None] = 2
    WEIGHTED: ClassVar[bool] = False
    t: float = 0.5

    def effective(self, weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
        return (1 - self.t, self.t)

    def merge(self, inputs: Inputs) -> np.ndarray:
        first, second = inputs.leaves
        return slerp(first, second, self.t)


@dataclass(frozen=True)
class NuSlerp(Method):
    """Spherical interpolation of two models, or of what they learned since a base, by their weights.

    Attributes:
      flatten: one angle per leaf; otherwise one per row (`row_wise`: per column, in mergekit's naming).
    """

    NAME: ClassVar[str] = "nuslerp"
    BASE: ClassVar[BaseUse] = "optional"
    LEAST: ClassVar[int] = 2
    MOST: ClassVar[int | None] = 2
    flatten: bool = True
    row_wise: bool = False

    def merge(self, inputs: Inputs) -> np.ndarray:
        (a, b), (of_a, of_b) = inputs.leaves, inputs.weights
        return nuslerp(a, b, (of_a, of_b), inputs.base, flatten=self.flatten, row_wise=self.row_wise)


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
    density: Density = 0.1
    rescale: Rescale = "expected"

    def merge(self, inputs: Inputs) -> np.ndarray:
        function = dare_ties if isinstance(self, DareTies) else dare_linear
        densities = per_model(self.density, len(inputs.leaves))
        return function(
            inputs.base, inputs.leaves, inputs.weights, densities, inputs.draw, rescale=self.rescale, **self.fusion
        )


@dataclass(frozen=True)
class DareTies(DareLinear):
    """The same with TIES' sign election."""

    NAME: ClassVar[str] = "dare_ties"


@dataclass(frozen=True)
class DellaLinear(OnBase):
    """Sum of task vectors of which entries were dropped at random, small ones more often.

    Attributes:
      density: mean probability of being kept.
      epsilon: width of the window of probabilities around it (the paper's; mergekit's epsilon is half of it).
      rescale: "expected" = 1 / p_i, the paper's; "l1" = mergekit's.
    """

    NAME: ClassVar[str] = "della_linear"
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
        function = della if isinstance(self, Della) else della_linear
        count = len(inputs.leaves)
        densities, epsilons = per_model(self.density, count), per_model(self.epsilon, count)
        return function(
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
    density: Density = 0.14
    gamma: Density = 0.01
    rescale: Literal["none", "l1"] = "none"

    def merge(self, inputs: Inputs) -> np.ndarray:
        function = breadcrumbs_ties if isinstance(self, BreadcrumbsTies) else breadcrumbs
        count = len(inputs.leaves)
        densities, gammas = per_model(self.density, count), per_model(self.gamma, count)
        return function(
            inputs.base, inputs.leaves, inputs.weights, densities, gammas, rescale=self.rescale, **self.fusion
        )


@dataclass(frozen=True)
class BreadcrumbsTies(Breadcrumbs):
    """The same with TIES' sign election."""

    NAME: ClassVar[str] = "breadcrumbs_ties"


@dataclass(frozen=True)
class ModelStock(Method):
    """Between the base and the mean, as far as the models agree; has no weights.

    Attributes:
      filter_wise: one ratio per row instead of one per leaf.
    """

    NAME: ClassVar[str] = "model_stock"
    BASE: ClassVar[BaseUse] = "required"
    LEAST: ClassVar[int] = 2
    WEIGHTED: ClassVar[bool] = False
    filter_wise: bool = False

    def merge(self, inputs: Inputs) -> np.ndarray:
        return model_stock(inputs.base, inputs.leaves, filter_wise=self.filter_wise)


@dataclass(frozen=True)
class Karcher(Method):
    """Centre of the models' directions on the sphere.

    Attributes:
      max_iter: fixed-point steps at most.
      tol: a step shorter than this is the last one.
    """

    NAME: ClassVar[str] = "karcher"
    max_iter: int = 10
    tol: float = 1e-5

    def effective(self, weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
        return effective_weights(count, weights)

    def merge(self, inputs: Inputs) -> np.ndarray:
        return karcher(inputs.leaves, inputs.weights, max_iter=self.max_iter, tol=self.tol)


@dataclass(frozen=True)
class SCE(Method):
    """Select, calculate, erase: weights from the models' own energies.

    Attributes:
      select_topk: share of entries kept, by variance over the models.
    """

    NAME: ClassVar[str] = "sce"
    BASE: ClassVar[BaseUse] = "required"
    WEIGHTED: ClassVar[bool] = False
    select_topk: float = 1.0

    def merge(self, inputs: Inputs) -> np.ndarray:
        return sce(inputs.base, inputs.leaves, select_topk=self.select_topk)


@dataclass(frozen=True)
class Passthrough(Method):
    """One model as it is; with slices, a stack of layers of several.

    Attributes:
      scale: factor of every leaf.
    """

    NAME: ClassVar[str] = "passthrough"
    MOST: ClassVar[int | None] = 1
    WEIGHTED: ClassVar[bool] = False
    scale: float = 1.0

    def merge(self, inputs: Inputs) -> np.ndarray:
        (leaf,) = inputs.leaves
        return passthrough(leaf, self.scale)


METHODS: dict[str, type[Method]] = {
    cls.NAME: cls
    for cls in (
        Soup, Slerp, NuSlerp, TaskArithmetic, Ties, DareLinear, DareTies, DellaLinear, Della, Breadcrumbs,
        BreadcrumbsTies, ModelStock, Karcher, SCE, Passthrough,
    )
}  # fmt: skip
ALIASES = {"linear": "soup"}


def resolve(name: str) -> type[Method]:
    """The method of a name; `linear` is mergekit's name of the soup.

    Raises:
      ConfigError: an unknown name, with the near ones and the list.
    """
    plain = name.strip().lower().replace("-", "_")
    found = METHODS.get(ALIASES.get(plain, plain))
    if found is None:
        near = difflib.get_close_matches(plain, METHODS, n=3, cutoff=0.6)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"there is no merge method {name!r}.{hint} Known: {', '.join(METHODS)}.")
    return found
