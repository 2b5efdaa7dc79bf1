"""Weighted average of parameter trees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxpo.errors import ConfigError
from jaxpo.merge.weights import effective_weights

__all__ = ["check_same_leaves", "effective_weights", "soup"]

Tree = Any


def soup(trees: Sequence[Tree], weights: Sequence[float] | None = None) -> Tree:
    """Uniform or weighted soup.

        theta = sum_i w_i theta_i,   sum_i w_i = 1

    Accumulated in float32, returned in each leaf's own dtype. One model with weight 1 is returned unchanged.

    Args:
      trees: parameter trees with the same leaves and shapes.
      weights: one per tree, normalised to sum 1; None = uniform.

    Raises:
      ConfigError: naming the leaves that are missing, extra or of another shape.

    Reference: LFM2 Technical Report (arXiv 2511.23404), model merging; Wortsman et al. 2022 (arXiv 2203.05482).
    """
    used = effective_weights(len(trees), weights)
    check_same_leaves(trees)

    def average(*leaves: jax.Array) -> jax.Array:
        total = sum(w * leaf.astype(jnp.float32) for w, leaf in zip(used, leaves, strict=True))
        return jnp.asarray(total).astype(leaves[0].dtype)

    return jax.tree.map(average, *trees)


def check_same_leaves(trees: Sequence[Tree]) -> None:
    """ConfigError that lists every leaf in which the trees differ."""
    first = _shapes(trees[0])
    problems = []
    for i, tree in enumerate(trees[1:], start=2):
        other = _shapes(tree)
        problems += [f"model {i} lacks {name}" for name in first.keys() - other.keys()]
        problems += [f"model {i} has an extra {name}" for name in other.keys() - first.keys()]
        problems += [
            f"{name}: shape {first[name]} in model 1, {other[name]} in model {i}"
            for name in first.keys() & other.keys()
            if first[name] != other[name]
        ]
    if problems:
        raise ConfigError(sorted(problems))


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(getattr(k, "key", k)) for k in path): leaf.shape for path, leaf in flat}
