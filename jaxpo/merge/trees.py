"""A merge as a pure function of parameter trees in memory.

Files are merged by `jaxpo.merge.stream`, which sees leaves as they lie on disk: where a method looks at rows or draws
by leaf name, axes and names there are those of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxpo.errors import ConfigError
from jaxpo.merge.base import Inputs, Method
from jaxpo.merge.numerics import generator
from jaxpo.merge.soup import check_same_leaves

Tree = Any


def merge_trees(
    method: Method,
    trees: Sequence[Tree],
    weights: Sequence[float] | None = None,
    *,
    base: Tree = None,
    seed: int = 0,
) -> Tree:
    """Merge every leaf with one method.

    Args:
      trees: nested dicts of arrays with the same leaves and shapes.
      base: the tree of theta_0, where the method has one.
      seed: of random masks, which are drawn per leaf name and model.

    Returns:
      numpy leaves, each in the dtype of the first tree's.

    Raises:
      ConfigError: naming the leaves that are missing, extra or of another shape, or the settings that are wrong.
    """
    if problems := list(method.problems(len(trees), base is not None)):
        raise ConfigError(problems)
    check_same_leaves([*trees, *([] if base is None else [base])])
    used = method.effective(weights, len(trees))

    def merge(path: Any, *leaves: Any) -> np.ndarray:
        name = "/".join(str(getattr(k, "key", k)) for k in path)
        models, origin = (leaves, None) if base is None else (leaves[:-1], leaves[-1])
        inputs = Inputs(models, used, origin, lambda model: generator(seed, name, model))
        return method.merge(inputs).astype(leaves[0].dtype)

    return jax.tree_util.tree_map_with_path(merge, *trees, *([] if base is None else [base]))
