"""Accuracy by group of the rows, and of the worst group."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxpo.objectives.base import Mean, OfSums

BY_GROUP, WORST = "rewards/accuracies/", "rewards/worst_group_accuracy"
"""Names of the metrics."""


def accuracies(
    right: Bool[Array, "N ..."], here: Bool[Array, "N ..."], group: Int[Array, "N"], names: tuple[str, ...]
) -> dict[str, Any]:
    """Share of right judgements of each group, by its name, and the smallest of these shares.

    Args:
      right: the rewards judge as the data do: an example, or each two responses of its list, each of its steps.
      here: there is something to be judged.
      group: number of the example's group.
    """
    judged, correct = (jnp.sum(x.reshape(len(group), -1).astype(jnp.float32), axis=1) for x in (here, here & right))
    member = (group[None, :] == jnp.arange(len(names))[:, None]).astype(jnp.float32)
    count, total = member @ judged, member @ correct
    each = {f"{BY_GROUP}{name}": Mean(total[i], count[i]) for i, name in enumerate(names)}
    return {**each, WORST: OfSums({"total": total, "count": count}, worst)}


def worst(sums: dict[str, Array]) -> Array:
    """The smallest share among the groups that there are; 0 where there is none."""
    share = jnp.where(sums["count"] > 0, sums["total"] / jnp.maximum(sums["count"], 1.0), jnp.inf)
    return jnp.where(jnp.any(sums["count"] > 0), jnp.min(share), 0.0)
