"""The contract between what a stage minimises and the step that minimises it.

An objective is a value that holds pure functions. Denominators come first (`counts`, from the whole step's masks), so
that the terms of microbatches and devices simply add; networks run in `encode`; `loss` sees small arrays only; carried
method state changes once per optimiser step in `after`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jaxpo.data.rows.needs import Needs

Tree = Any
Counts = Mapping[str, Float[Array, ""]]


@struct.dataclass
class Mean:
    """A metric reported as `total / count`; totals and counts of microbatches add."""

    total: Array
    count: Array

    def merge(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    def empty(self) -> Mean:
        return Mean(jnp.zeros_like(self.total), jnp.zeros_like(self.count))

    def value(self) -> Array:
        return self.total / jnp.maximum(self.count, 1e-30)


@struct.dataclass
class Max:
    """A metric that keeps the largest value seen in a step."""

    x: Array

    def merge(self, other: Max) -> Max:
        return Max(jnp.maximum(self.x, other.x))

    def empty(self) -> Max:
        return Max(jnp.full_like(self.x, -jnp.inf))

    def value(self) -> Array:
        return self.x


@struct.dataclass
class Min:
    """A metric that keeps the smallest value seen in a step."""

    x: Array

    def merge(self, other: Min) -> Min:
        return Min(jnp.minimum(self.x, other.x))

    def empty(self) -> Min:
        return Min(jnp.full_like(self.x, jnp.inf))

    def value(self) -> Array:
        return self.x


@struct.dataclass
class Difference:
    """A metric reported as the difference of two means, which may be over different examples; 0 when one has none."""

    plus: Mean
    minus: Mean

    def merge(self, other: Difference) -> Difference:
        return Difference(self.plus.merge(other.plus), self.minus.merge(other.minus))

    def empty(self) -> Difference:
        return Difference(self.plus.empty(), self.minus.empty())

    def value(self) -> Array:
        both = (self.plus.count > 0) & (self.minus.count > 0)
        return jnp.where(both, self.plus.value() - self.minus.value(), 0.0)


@struct.dataclass
class OfSums:
    """A metric that is some function of sums over all tokens or examples of a step (or of an evaluation set).

    Attributes:
      sums: pytree of arrays; those of microbatches add.
      measure: `sums -> scalar`; static.
    """

    sums: Any
    measure: Callable[[Any], Array] = struct.field(pytree_node=False)

    def merge(self, other: OfSums) -> OfSums:
        return OfSums(jax.tree.map(jnp.add, self.sums, other.sums), self.measure)

    def empty(self) -> OfSums:
        return OfSums(jax.tree.map(jnp.zeros_like, self.sums), self.measure)

    def value(self) -> Array:
        return self.measure(self.sums)


Metric = Mean | Max | Min | Difference


def masked_mean(x: Array, where: Array) -> Mean:
    """Mean over the entries where the condition holds; empty gives 0 / 0, reported as 0 with count 0."""
    keep = where.astype(jnp.float32)
    return Mean(jnp.sum(jnp.where(where, x, 0.0).astype(jnp.float32)), jnp.sum(keep))


def merge_metrics(a: dict[str, Metric], b: dict[str, Metric]) -> dict[str, Metric]:
    """Combine the metrics of two microbatches, name by name."""
    return {name: a[name].merge(b[name]) for name in a}  # type: ignore[arg-type]


@struct.dataclass
class Out:
    """What `Objective.loss` returns.

    Attributes:
      loss: scalar, already divided by the step's counts: the terms of microbatches add up to the step's loss.
      metrics: name -> Mean, Max or Min, under TRL's names.
      stats: pytree of arrays that add over microbatches; handed to `after`.
    """

    loss: Float[Array, ""]
    metrics: dict[str, Any]
    stats: Tree

    def merge(self, other: Out) -> Out:
        """Add the terms of another microbatch."""
        stats = jax.tree.map(jnp.add, self.stats, other.stats)
        return Out(self.loss + other.loss, merge_metrics(self.metrics, other.metrics), stats)

    def empty(self) -> Out:
        """The neutral element of `merge`, shaped like this one."""
        metrics = {name: metric.empty() for name, metric in self.metrics.items()}
        return Out(jnp.zeros_like(self.loss), metrics, jax.tree.map(jnp.zeros_like, self.stats))


def no_carry() -> Tree:
    return {}


def keep_carry(carry: Tree, stats: Tree) -> Tree:
    return carry


def only_carry(carry: Tree, params: Tree) -> Tree:
    return carry


def only_frozen(frozen: Tree, carry: Tree) -> Tree:
    return frozen


def only_params(params: Tree, stats: Tree) -> Tree:
    return params


def keep_still(carry: Tree, params: Tree, step: Array) -> Tree:
    return carry


@dataclass(frozen=True)
class Objective:
    """What a stage minimises, of batches of whatever type its source makes.

    Attributes:
      name: for messages and metrics.
      counts: `batch -> {name: scalar}` denominators from the masks of the WHOLE step (or evaluation set, where those
        of its batches are added).
      encode: `(params, frozen, batch, rng) -> (features, aux)`: runs the networks on one microbatch; every leaf of
        both has the example axis N (or the row axis R) first, so that microbatches can be joined again. `aux` is what
        the trained model's forward pass left beside its hidden states (`"router"`): `loss` does not see it, a wrapper
        may take it into the features. rng is None in evaluation. It is not run where a microbatch holds no example:
        the features are zeros there.
      loss: `(features, batch, carry, counts) -> Out`: arrays only.
      after: `(carry, stats) -> carry`, once per optimiser step.
      init_carry: `() -> carry`.
      start: `(carry, params) -> carry` around the first parameters. It only rearranges trees: applied to shardings it
        says where the carry lives.
      networks: `(frozen, carry) -> frozen` that `encode` sees: a moving reference comes from the carry.
      follow: `(carry, params, step) -> carry`, once per optimiser step after `after`, with the new parameters and the
        number of steps taken.
      adjust: `(params, stats) -> params`, once per optimiser step after the optimiser: what steers a model's buffers,
        which no gradient moves.
      needs: what data and run must offer.
      coupled: the loss couples examples; the step then evaluates it once on the features of the whole step.
    """

    name: str
    counts: Callable[[Any], dict[str, Array]]
    encode: Callable[[Tree, Tree, Any, jax.Array | None], tuple[Tree, dict[str, Any]]]
    loss: Callable[[Tree, Any, Tree, Counts], Out]
    after: Callable[[Tree, Tree], Tree] = keep_carry
    init_carry: Callable[[], Tree] = no_carry
    needs: Needs = field(default_factory=Needs)
    coupled: bool = False
    start: Callable[[Tree, Tree], Tree] = only_carry
    networks: Callable[[Tree, Tree], Tree] = only_frozen
    follow: Callable[[Tree, Tree, Array], Tree] = keep_still
    adjust: Callable[[Tree, Tree], Tree] = only_params
