"""What the matrices of a model are multiplied with on a text: `X^T X` of each, which is all that calibration asks."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpo.models.family import TextConfig, family, output_matrix, param_table
from jaxpo.models.language import Inputs
from jaxpo.models.spec import Param, leaves, map_table
from jaxpo.ops.grouped import Groups
from jaxpo.ops.linear import Standing, einsum, linear, rows

Tree = Any
Grams = Mapping[str, np.ndarray]
BUDGET = 1 << 30
"""Bytes of such products that one pass over the text gathers."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=("weight", "gram"), meta_fields=())
@dataclass(frozen=True)
class Recorded(Standing):
    """A weight whose products are seen: the gradient with respect to `gram`, of whatever follows, is `X^T X`.

    Attributes:
      weight: `[i, *o]`, or a stack of them `[E, i, o]`.
      gram: `[i, i]`, or `[E, i, i]`; its values do not matter.
    """

    weight: Float[Array, "..."]
    gram: Float[Array, "..."]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.weight.shape

    def linear(self, x: Float[Array, "... i"]) -> Float[Array, "... *o"]:
        """`x W`."""
        return linear(_seen(x, self.gram), self.weight)

    def einsum(self, spec: str, x: Array, out_dtype: Any) -> Array:
        """Over the last axis of `x`."""
        return einsum(spec, _seen(x, self.gram), self.weight, out_dtype=out_dtype)

    def rows(self, index: Int[Array, "..."], dtype: Any) -> Float[Array, "... *o"]:
        """`W[index]`, which multiplies nothing."""
        return rows(self.weight, index, dtype)

    def grouped(self, x: Float[Array, "P i"], groups: Groups, product: Callable[..., Array]) -> Float[Array, "P o"]:
        """Each group's own rows; empty slots are 0 and add nothing."""
        ends = jnp.cumsum(groups.sizes)
        group = jnp.searchsorted(ends, jnp.arange(x.shape[0]), side="right")
        return product(_seen_in_groups(x, self.gram, group), self.weight)


@jax.custom_vjp
def _seen(x: Array, gram: Array) -> Array:
    return x


def _gram(x: Array, dy: Array) -> tuple[Array, Array]:
    flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    return dy, flat.T @ flat


_seen.defvjp(lambda x, gram: (x, x), _gram)


@jax.custom_vjp
def _seen_in_groups(x: Array, gram: Array, group: Array) -> Array:
    return x


def _grams(saved: tuple[Array, Array, int], dy: Array) -> tuple[Array, Array, None]:
    x, group, count = saved

    def one(e: Array) -> Array:
        own = jnp.where((group == e)[:, None], x, 0).astype(jnp.float32)
        return own.T @ own

    return dy, jax.lax.map(one, jnp.arange(count)), None


_seen_in_groups.defvjp(lambda x, gram, group: (x, (x, group, gram.shape[0])), _grams)


def input_grams(
    params: Tree, config: TextConfig, windows: Int[np.ndarray, "n S"], axes: Mapping[str, int], budget: int = BUDGET
) -> Grams:
    """`sum x x^T` over all positions of a text, of every matrix by its path, in float64.

    A pass gathers as many as fit `budget`, so that large models take several over the same text; the inputs are those
    of the float model.

    Args:
      windows: token ids, whole windows.
      axes: path -> the axis that is contracted: 0 of `[i, *o]`, 1 of `[E, i, o]`, -1 of the output matrix.
    """
    table = param_table(config)
    named = {path: param for path, param in leaves(table) if path in axes}
    head = output_matrix(table, config)
    found: dict[str, np.ndarray] = {}
    for paths in _passes(named, axes, budget):
        shapes = {path: _shape(named[path], axes[path]) for path in paths if named[path] is not head}
        of_head = [path for path in paths if named[path] is head]
        for window in windows:
            seen, hidden = _pass(params, shapes, jnp.asarray(window), config=config)
            seen = {**seen, **dict.fromkeys(of_head, hidden.T @ hidden)}
            for path, gram in seen.items():
                found[path] = found.get(path, 0.0) + np.asarray(gram, np.float64)
    return found


def _passes(named: Mapping[str, Param], axes: Mapping[str, int], budget: int) -> Iterator[Sequence[str]]:
    paths: list[str] = []
    used = 0
    for path, param in named.items():
        size = 4 * math.prod(_shape(param, axes[path]))
        if paths and used + size > budget:
            yield paths
            paths, used = [], 0
        paths, used = [*paths, path], used + size
    if paths:
        yield paths


def _shape(param: Param, axis: int) -> tuple[int, ...]:
    """Of the products of one matrix; a stack has one of each."""
    length = param.shape[axis]
    return (param.shape[0], length, length) if axis == 1 else (length, length)


def _pass(params: Tree, shapes: Mapping[str, tuple[int, ...]], tokens: Array, *, config: TextConfig) -> Any:
    return _recorded(params, {path: jnp.zeros(shape) for path, shape in shapes.items()}, tokens, config)


@functools.partial(jax.jit, static_argnums=3)
def _recorded(params: Tree, grams: Mapping[str, Array], tokens: Array, config: TextConfig) -> Any:
    """What is seen, and the hidden states `[S, D]`; XLA computes nothing of the backward pass besides."""
    table = param_table(config)
    names = {id(param): path for path, param in leaves(table)}

    def run(grams: Mapping[str, Array]) -> tuple[Array, Array]:
        def build(param: Param, w: Array) -> Any:
            path = names[id(param)]
            return Recorded(w, grams[path]) if path in grams else w

        inputs = Inputs(tokens[None], jnp.ones((1, tokens.shape[0]), jnp.int32), jnp.arange(tokens.shape[0])[None])
        model = map_table(build, table, params)
        hidden, _ = family(config).forward(model, inputs, config=config, dtype=jnp.float32, scan=False)
        return jnp.sum(hidden), hidden[0]

    return jax.grad(run, has_aux=True)(grams)
