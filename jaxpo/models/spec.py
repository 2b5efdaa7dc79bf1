"""The parameter table: every parameter of a model declared once.

Initialisation, sharding, optimiser masks, conversion, parameter counts and the abstract tree for a restore are all
derived from a nested dict of `Param`, so that none of them can disagree with another.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxpo.errors import ConfigError
from jaxpo.sharding import RULES, Rules, axis_size, spec_for

Tree = Any
Init = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]


@dataclass(frozen=True)
class Layout:
    """How an array is laid out on disk, as a pair of inverse numpy functions that only move data (bit-exact)."""

    to_disk: Callable[[np.ndarray], np.ndarray]
    from_disk: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


def _same(x: np.ndarray, shape: tuple[int, ...] = ()) -> np.ndarray:
    return x


def _transpose(x: np.ndarray, shape: tuple[int, ...] = ()) -> np.ndarray:
    return x.T


IDENTITY = Layout(_same, _same)
# PyTorch's nn.Linear keeps [out, in]; jaxpo keeps [in, out] so that a forward is x @ w.
TRANSPOSE = Layout(_transpose, _transpose)


@dataclass(frozen=True)
class Param:
    """One parameter.

    Attributes:
      shape: in memory.
      axes: a logical axis name (or None) per dimension; `jaxpo.sharding` maps them to mesh axes.
      init: `(key, shape, dtype) -> array`.
      hf: tensor name in a Hugging Face checkpoint; a tuple names one tensor per entry of the first axis (the experts of
        a mixture); None if it has no counterpart there.
      hf_module: name of the module that holds it in transformers, where that is not the tensor's without ".weight".
      layout: how memory and disk layouts correspond; of one tensor where there are several.
      decay: whether weight decay applies.
      muon: (reduction axes, output axes) for Muon; None keeps it on AdamW.
      buffer: state of the model that no gradient moves: without optimiser state, float32 in every file, not counted as
        a parameter.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: Init
    hf: str | tuple[str, ...] | None = None
    layout: Layout = IDENTITY
    decay: bool = True
    muon: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    hf_module: str | None = None
    buffer: bool = False

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.axes):
            raise ValueError(f"{self.hf}: shape {self.shape} and axes {self.axes} differ in rank")

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def module(self) -> str | None:
        """Name of the module that holds it in transformers (which PEFT adapts), if it has one."""
        if self.hf_module is not None or not isinstance(self.hf, str):
            return self.hf_module
        return self.hf.removesuffix(".weight")

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of its tensors in a file."""
        return () if self.hf is None else (self.hf,) if isinstance(self.hf, str) else self.hf

    def dtype(self, wanted: Any) -> Any:
        """The type it is kept in where the model is kept in `wanted`."""
        return jnp.float32 if self.buffer else wanted


Table = Mapping[str, Any]
"""Nested dict whose leaves are `Param`."""


def is_param(x: object) -> bool:
    """True for a leaf of a table."""
    return isinstance(x, Param)


def map_table(f: Callable[..., Any], table: Table, *trees: Tree) -> Tree:
    """Apply `f` to every `Param` (and the matching leaves of `trees`), keeping the nesting."""
    return jax.tree.map(f, table, *trees, is_leaf=is_param)


def leaves(table: Table) -> Iterator[tuple[str, Param]]:
    """Yield `("a/b/c", Param)` in a fixed order."""
    for path, param in jax.tree_util.tree_flatten_with_path(table, is_leaf=is_param)[0]:
        yield "/".join(str(k.key) for k in path), param


def trained_part(table: Table, tree: Tree) -> Tree:
    """The tree without the buffers of its table: what an optimiser sees."""
    if is_param(table) or not isinstance(tree, Mapping):
        return tree
    kept = {name: below for name, below in table.items() if not (is_param(below) and below.buffer)}
    return {name: trained_part(below, tree[name]) for name, below in kept.items()}


def with_buffers(table: Table, part: Tree, buffer: Callable[[Param], Any]) -> Tree:
    """The inverse of `trained_part`: `buffer(param)` stands where there is a buffer."""
    if is_param(table):
        return part
    return {
        name: buffer(below) if is_param(below) and below.buffer else with_buffers(below, part[name], buffer)
        for name, below in table.items()
    }


def param_count(table: Table) -> int:
    """Total number of parameters; buffers are none."""
    return sum(p.size for _, p in leaves(table) if not p.buffer)


def abstract_params(table: Table, dtype: Any = jnp.float32, shardings: Tree = None) -> Tree:
    """The tree as `ShapeDtypeStruct`, with shardings when given; allocates nothing."""
    if shardings is None:
        return map_table(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype(dtype)), table)
    return map_table(lambda p, s: jax.ShapeDtypeStruct(p.shape, p.dtype(dtype), sharding=s), table, shardings)


def init_params(table: Table, key: jax.Array, dtype: Any = jnp.float32) -> Tree:
    """Draw every parameter from a key of its own, derived from its path: adding a parameter changes no other."""
    named = dict(leaves(table))
    drawn = {
        name: p.init(jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF), p.shape, p.dtype(dtype))
        for name, p in named.items()
    }
    treedef = jax.tree.structure(table, is_leaf=is_param)
    return jax.tree.unflatten(treedef, list(drawn.values()))


def normal(std: float) -> Init:
    """Gaussian of mean 0 and the given standard deviation."""
    return lambda key, shape, dtype: _gaussian(key, std, shape, jnp.dtype(dtype))


# One program for each shape, whose product folds into it as it does where the whole model is drawn by one program.
@functools.partial(jax.jit, static_argnames=("std", "shape", "dtype"))
def _gaussian(key: jax.Array, std: float, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return (std * jax.random.normal(key, shape, jnp.float32)).astype(dtype)


def ones(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """All ones (norm weights)."""
    return jnp.ones(shape, dtype)


def zeros(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """All zeros (value heads)."""
    return jnp.zeros(shape, dtype)


def param_shardings(table: Table, mesh: Mesh, rules: Rules | None = None) -> Any:
    """`NamedSharding` of every parameter; ConfigError lists the dimensions that the mesh does not divide."""
    rules = {**RULES, **(rules or {})}
    problems = []
    for name, param in leaves(table):
        for size, logical, axis in zip(param.shape, param.axes, spec_for(param.axes, rules), strict=True):
            if size % axis_size(mesh, axis):
                problems.append(
                    f"{name}: dimension {logical!r} of size {size} is not divisible by mesh axes {axis} "
                    f"({axis_size(mesh, axis)} devices); change the mesh or set the rule {logical!r} to None"
                )
    if problems:
        raise ConfigError(problems)

    def sharding(param: Param) -> NamedSharding:
        return NamedSharding(mesh, spec_for(param.axes, rules))

    return map_table(sharding, table)
