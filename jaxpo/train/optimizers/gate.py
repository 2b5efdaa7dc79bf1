"""Optimisers that leave their state as it is in a step that is skipped."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

Tree = Any


class Gated(optax.GradientTransformationExtraArgs):
    """`update(grads, state, params, ok=...)` returns `state` itself where `ok` is false."""


def kept(ok: Any, new: Tree, old: Tree) -> Tree:
    """`new` where a step counts, else `old`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)


def gated(transformation: optax.GradientTransformation) -> Gated:
    """Any transformation as one whose state stays where `ok` is false; a gated one as it is.

    A transformation that computes its update from its new state gates that state by itself, before it uses it: the
    compiler then reads what was written, in place. Selecting once more afterwards would make the new state a second
    value, which is computed again for each use and keeps the old one alive, in a copy of every moment.
    """
    if isinstance(transformation, Gated):
        return transformation
    inner = optax.with_extra_args_support(transformation)

    def update(updates: Tree, state: Tree, params: Tree = None, *, ok: Any = True, **extra: Any) -> tuple[Tree, Tree]:
        updates, new = inner.update(updates, state, params, ok=ok, **extra)
        return updates, kept(ok, new, state)

    return Gated(inner.init, update)


def chained(*parts: optax.GradientTransformation) -> Gated:
    """`optax.chain`, gated part by part."""
    return Gated(*optax.chain(*map(gated, parts)))
