"""Merging leaf by leaf: no model is ever in memory, only one leaf of each and the result."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from jaxpo.merge.base import Inputs
from jaxpo.merge.numerics import generator
from jaxpo.merge.plan import LeafPlan, Models, Part, Plan, check_leaves


def merged_leaves(plan: Plan, models: Models) -> Iterator[tuple[str, np.ndarray]]:
    """Yield `(name, float32 values)` of the merged model in the plan's order.

    Raises:
      ConfigError: leaves that do not fit, all named, before the first one is read.
    """
    for name, _, values in merged_together([plan], models):
        yield name, values


def merged_together(plans: Sequence[Plan], models: Models) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield `(name, number of the plan, values)`: several merges of the same models in one pass.

    Each leaf of each model is read once, whatever the number of plans. In memory at a time: that leaf of all models,
    and one result.

    Args:
      plans: with the same leaf names in the same order.
    """
    names = [leaf.name for leaf in plans[0].leaves]
    for plan in plans:
        if [leaf.name for leaf in plan.leaves] != names:
            raise ValueError("plans that are merged together must make the same leaves in the same order")
        check_leaves(plan, models)
    for i, name in enumerate(names):
        here = [plan.leaves[i] for plan in plans]
        needed = dict.fromkeys(part for leaf in here for part in leaf.sources)
        values = {(model, part): models[model][part].read() for model, part in needed}
        for number, (leaf, plan) in enumerate(zip(here, plans, strict=True)):
            yield name, number, merge_leaf(leaf, values, plan.seed)
        del values


def merge_leaf(leaf: LeafPlan, values: dict[Part, np.ndarray], seed: int) -> np.ndarray:
    """One leaf of the result from the leaves that it is made of."""
    inputs = Inputs(
        leaves=[values[part] for part in leaf.parts],
        weights=leaf.weights,
        base=None if leaf.base is None else values[leaf.base],
        draw=functools.partial(generator, seed, leaf.name),
    )
    return leaf.method.merge(inputs)
