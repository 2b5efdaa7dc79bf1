"""A stage that trains on a grid of few bits: what it says beforehand, and the rounded model that it leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax

from jaxpo.config import QAT, Stage
from jaxpo.errors import ConfigError
from jaxpo.models.family import TextConfig, param_table
from jaxpo.models.grids import check_some, placements, rounded_model, unfitting
from jaxpo.models.spec import leaves, param_count, param_shardings
from jaxpo.ops.grids import grid, head_grid

Tree = Any


def on_its_grid(model: Tree, qat: QAT, config: TextConfig, mesh: jax.sharding.Mesh, rules: Any) -> Tree:
    """The very weights that the stage was trained with, as a plain model, placed as any."""
    where = param_shardings(param_table(config), mesh, rules)
    build = partial(rounded_model, config=config, to=grid(qat.grid, qat.group))
    return jax.jit(build, out_shardings=where)(model)


def grid_problems(stage: Stage, config: TextConfig) -> list[str]:
    """A grid that fits no matrix of the model."""
    if stage.qat is None:
        return []
    try:
        check_some(param_table(config), config, grid(stage.qat.grid, stage.qat.group))
    except ConfigError as error:
        return [f"{stage.name}.qat: {problem}." for problem in error.problems]
    return []


def rounded_lines(stage: Stage, config: TextConfig) -> Iterator[str]:
    """How much of the model is rounded, and what stays as it is."""
    if stage.qat is None:
        return
    table, to = param_table(config), grid(stage.qat.grid, stage.qat.group)
    found, left = placements(table, config, to), unfitting(table, config, to)
    size = sum(param.size for _, param in leaves(table) if id(param) in found)
    groups = f"groups of {to.group}" if to.group else "whole rows"
    yield (
        f"trained on the grid {stage.qat.grid}, {groups}: {size:,} of {param_count(table):,} parameters; the output "
        f"matrix in {head_grid(to).bits} bits; norms, taps, routers and biases as they are"
    )
    if left:
        yield f"not rounded, as their rows are no whole number of groups: {len(left)} matrices, {left[0]} and the like"
