"""Parts for a model of images that was trained without: attention to users (PPD, arXiv:2501.06655), a text adapter."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import Mesh

from jaxpo.models.family import param_table
from jaxpo.models.paths import joined, split_table
from jaxpo.models.spec import init_params, param_shardings

Tree = Any
PARTS = ("*/to_k_user/*", "*/to_v_user/*", "text_adapter/*")
"""The parameters of what can be added."""


def adds_parts(stage: Any) -> bool:
    """Whether a stage adds something to the model that it starts from, where that has none."""
    return getattr(stage, "add_users", False) or getattr(stage, "add_text_adapter", None) is not None


def with_parts(model: Tree, config: Any, seed: int, mesh: Mesh, rules: Any = None) -> Tree:
    """A model with the parts that its architecture has: those that the model has, and fresh ones for the others.

    What a user adds begins at zero, so that whoever asks gets what the model gave before; a text adapter has more
    for the image to look at from the first step on.

    Args:
      model: of this architecture, or of the one without these parts.
      seed: of the fresh ones.
    """
    table, _ = split_table(param_table(config), PARTS)
    draw = jax.jit(lambda key: init_params(table, key), out_shardings=param_shardings(table, mesh, rules))
    whole: Tree = joined(model, draw(jax.random.key(seed)))
    return whole
