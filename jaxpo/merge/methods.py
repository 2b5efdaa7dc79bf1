"""The merge methods as values: a dataclass each, chosen by value in a configuration and by name on the command line.

    Ties(density=0.2)        --merge.method ties --merge.method.density 0.2

Imports no jax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jaxpo.errors import ConfigError, near_misses
from jaxpo.merge.base import BaseUse, Inputs, Method
from jaxpo.merge.karcher import karcher
from jaxpo.merge.linear import linear
from jaxpo.merge.model_stock import model_stock
from jaxpo.merge.nuslerp import nuslerp
from jaxpo.merge.on_base import (
    Breadcrumbs,
    BreadcrumbsTies,
    DareLinear,
    DareTies,
    Della,
    DellaLinear,
    TaskArithmetic,
    Ties,
    UpdateSelective,
)
from jaxpo.merge.passthrough import passthrough
from jaxpo.merge.sce import sce
from jaxpo.merge.slerp import slerp
from jaxpo.merge.weights import effective_weights


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

    @property
    def has_shares(self) -> bool:
        return True  # t is one, though no weights are given

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
        BreadcrumbsTies, UpdateSelective, ModelStock, Karcher, SCE, Passthrough,
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
        near = near_misses(plain, METHODS, n=3, cutoff=0.6)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"there is no merge method {name!r}.{hint} Known: {', '.join(METHODS)}.")
    return found
