"""A state as a flat table of named arrays, and the comparison of two such tables before any array is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxpo.errors import CheckpointError

Tree = Any
Signature = dict[str, dict[str, Any]]
"""Leaf name -> {"shape", "dtype"}; the dtype of a typed PRNG key names its generator ("key<fry>")."""


def leaf_name(path: tuple[Any, ...]) -> str:
    """`("params", "model", 0)` as "params/model/0"."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def named_leaves(tree: Tree) -> dict[str, Any]:
    """Leaf name -> leaf, in tree order. None and empty subtrees have no leaves: the abstract tree restores them."""
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = leaf_name(path)
        if name in named:
            raise ValueError(f"two leaves are called {name!r}")
        named[name] = leaf
    return named


def is_key(leaf: Any) -> bool:
    """True for a typed PRNG key, concrete or abstract."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def signature(named: Mapping[str, Any]) -> Signature:
    """What a leaf must look like, as JSON."""
    return {name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype)} for name, leaf in named.items()}


def key_impl(leaf: Any) -> str:
    """Name of a key's generator ("threefry2x32"), also of an abstract key: only a trace can tell."""
    names: list[str] = []

    def look(key: jax.Array) -> jax.Array:
        names.append(str(jax.random.key_impl(key)))
        return key

    jax.eval_shape(look, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return names[0]


def require_shardings(named: Mapping[str, Any], what: str) -> None:
    """ValueError for a leaf without a sharding: it could not be placed on another topology."""
    bare = [name for name, leaf in named.items() if getattr(leaf, "sharding", None) is None]
    if bare:
        raise ValueError(f"{what}: every leaf needs a sharding, scalars too; without one: {', '.join(bare[:5])}")


def to_arrays(named: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Typed keys become their uint32 words; everything else stays."""
    return {name: jax.random.key_data(x) if is_key(x) else x for name, x in named.items()}


def to_abstract_arrays(named: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """`to_arrays` for an abstract tree."""

    def one(leaf: Any) -> jax.ShapeDtypeStruct:
        if not is_key(leaf):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        words = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
        return jax.ShapeDtypeStruct(words.shape, words.dtype, sharding=leaf.sharding)

    return {name: one(leaf) for name, leaf in named.items()}


def from_arrays(arrays: Mapping[str, jax.Array], abstract: Tree) -> Tree:
    """Inverse of `to_arrays`, in the shape of the abstract tree."""
    named = named_leaves(abstract)
    leaves = [
        jax.random.wrap_key_data(arrays[name], impl=key_impl(leaf)) if is_key(leaf) else arrays[name]
        for name, leaf in named.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def check_signature(stored: Signature, wanted: Signature, where: str) -> None:
    """CheckpointError naming the leaves that are missing, left over, or of another shape or dtype."""
    problems = [f"{name} {_text(wanted[name])} is not in it" for name in wanted if name not in stored]
    problems += [
        f"{name} {_text(stored[name])} is in it and has no place in the model" for name in stored if name not in wanted
    ]
    problems += [
        f"{name} is {_text(stored[name])} in it and {_text(wanted[name])} here"
        for name in wanted
        if name in stored and stored[name] != wanted[name]
    ]
    if problems:
        shown = "".join(f"\n  - {p}" for p in problems[:8])
        more = f"\n  ... and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise CheckpointError(
            f"{where} does not fit this configuration:{shown}{more}\n"
            "Use the configuration that wrote it (stored inside it), or another run directory."
        )


def _text(entry: Mapping[str, Any]) -> str:
    return f"{entry['dtype']}{entry['shape']}"
