"""Logical axis names to mesh axes, as data: a model names what a dimension is, a rule says where it lives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxpo.config.axes import BATCH_AXES, RULES, SEQUENCE, Rules
from jaxpo.errors import ConfigError
from jaxpo.sharding.mesh import require_auto

_active: ContextVar[tuple[Mesh, Rules] | None] = ContextVar("jaxpo_mesh", default=None)


@contextmanager
def use_mesh(mesh: Mesh | None, rules: Rules | None = None) -> Iterator[None]:
    """Trace and run under `mesh`; without one, `constrain` is the identity. ConfigError unless its axes are Auto."""
    if mesh is None:
        yield
        return
    require_auto(mesh)
    token = _active.set((mesh, {**RULES, **(rules or {})}))
    try:
        with jax.set_mesh(mesh):
            yield
    finally:
        _active.reset(token)


def current_mesh() -> Mesh | None:
    """The mesh of the enclosing `use_mesh`, if any."""
    active = _active.get()
    return None if active is None else active[0]


def current_rules() -> tuple[Mesh, Rules] | None:
    """The mesh of the enclosing `use_mesh` with its rules, if any."""
    return _active.get()


def axis_size(mesh: Mesh, axis: str | tuple[str, ...] | None) -> int:
    """Devices along one mesh axis, several, or none (1)."""
    names = () if axis is None else (axis,) if isinstance(axis, str) else axis
    size = 1
    for name in names:
        size *= mesh.shape[name]
    return size


def spec_for(axes: tuple[str | None, ...], rules: Rules) -> PartitionSpec:
    """The partition of an array whose dimensions carry these logical names; ConfigError for a name without a rule."""
    unknown = [a for a in axes if a is not None and a not in rules]
    if unknown:
        raise ConfigError(f"no sharding rule for logical axes {unknown}; known: {sorted(rules)}")
    return PartitionSpec(*(None if a is None else rules[a] for a in axes))


def constrain(x: Array, *axes: str | None) -> Array:
    """Say where an activation lives: `x` with one logical axis name (or None) per dimension.

    A dimension that the mesh axes do not divide is left to the compiler, which is a matter of speed only.
    """
    mesh = current_mesh()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, fitting_spec(x.shape, axes)))


def fitting_spec(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> PartitionSpec:
    """The partition under the enclosing `use_mesh`, None for each dimension that its mesh axes do not divide."""
    active = _active.get()
    if active is None:
        raise ValueError("fitting_spec needs an enclosing use_mesh")
    mesh, rules = active
    spec = spec_for(axes, rules)
    return PartitionSpec(*(a if n % axis_size(mesh, a) == 0 else None for a, n in zip(spec, shape, strict=True)))


def batch_sharding(mesh: Mesh, *, positions: bool = False) -> NamedSharding:
    """Leading axis (rows or examples) spread over the batch axes, the second over `sequence` if it is of positions."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES, SEQUENCE) if positions else PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())
