"""Which matrices of a model lie on a grid of few bits, and the model with them rounded: for good, or while it trains.

The matrices are those of `jaxpo.models.quantize`. The output matrix, which with tied embeddings is the embedding, lies
on `head_grid`. Rows that are no whole number of groups stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxpo.errors import ConfigError
from jaxpo.models.family import TextConfig, family, output_matrix
from jaxpo.models.quantize import contracted_axes
from jaxpo.models.spec import Param, Table, leaves, map_table
from jaxpo.ops.fake_quant import FakeQuant
from jaxpo.ops.grids import Grid, absmax_scales, head_grid, rounded

Tree = Any


@dataclass(frozen=True)
class Placed:
    """A matrix on a grid, its groups along an axis."""

    grid: Grid
    axis: int


def placements(table: Table, config: TextConfig, to: Grid) -> dict[int, Placed]:
    """`id(param) -> where it lies`, of every matrix that lies on a grid."""
    head = None if family(config).unembedding is None else output_matrix(table, config)
    axes = contracted_axes(table, config)
    found = {}
    for _, param in leaves(table):
        axis, own = axes[id(param)], head_grid(to) if param is head else to
        if axis is not None and own.fits(param.shape[axis]):
            found[id(param)] = Placed(own, axis)
    return found


def unfitting(table: Table, config: TextConfig, to: Grid) -> list[str]:
    """Matrices that stay as they are because their rows are no whole number of groups."""
    axes, found = contracted_axes(table, config), placements(table, config, to)
    return [path for path, param in leaves(table) if axes[id(param)] is not None and id(param) not in found]


def check_some(table: Table, config: TextConfig, to: Grid) -> None:
    """ConfigError when no matrix of a model fits a grid."""
    if not placements(table, config, to):
        raise ConfigError(f"groups of {to.group} divide no matrix of the model; choose a smaller group")


def fake_quantized(params: Tree, config: TextConfig, to: Grid) -> Tree:
    """The model with `FakeQuant` leaves in the place of its matrices."""
    return _mapped(params, config, to, lambda w, at: FakeQuant(w, at.grid, at.axis))


def rounded_model(
    params: Tree, config: TextConfig, to: Grid, scales: Callable[[jax.Array, Grid], jax.Array] = absmax_scales
) -> Tree:
    """The plain model whose matrices lie on the grid: with absmax scales, what `fake_quantized` computes with.

    Args:
      scales: `(weight with the groups along the last axis, grid) -> scales`.
    """

    def build(w: jax.Array, at: Placed) -> jax.Array:
        last = jnp.moveaxis(w, at.axis, -1)
        return jnp.moveaxis(rounded(last, at.grid, scales(last, at.grid)), -1, at.axis)

    return _mapped(params, config, to, build)


def _mapped(params: Tree, config: TextConfig, to: Grid, build: Callable[[Any, Placed], Any]) -> Tree:
    table = family(config).table(config)
    found = placements(table, config, to)

    def one(param: Param, w: Any) -> Any:
        return build(w, found[id(param)]) if id(param) in found else w

    return map_table(one, table, params)
