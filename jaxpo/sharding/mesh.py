"""The device mesh: five named axes, each of size 1 or more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import AxisType, Mesh

from jaxpo.config.axes import AXES
from jaxpo.errors import ConfigError


def resolve_sizes(sizes: Mapping[str, int], device_count: int) -> dict[str, int]:
    """Replace the one -1 by whatever is left of `device_count`; ConfigError when the product does not fit."""
    asked = {axis: sizes.get(axis, 1) for axis in AXES}
    free = [axis for axis, n in asked.items() if n == -1]
    fixed = math.prod(n for n in asked.values() if n != -1)
    if len(free) > 1 or any(n < 1 and n != -1 for n in asked.values()):
        raise ConfigError(f"mesh {asked}: sizes are positive, and at most one may be -1 (all remaining devices)")
    if device_count % fixed or (not free and fixed != device_count):
        raise ConfigError(
            f"mesh {asked} needs a multiple of {fixed} devices and there are {device_count}; "
            "change the mesh sizes, or set one to -1"
        )
    return {axis: device_count // fixed if n == -1 else n for axis, n in asked.items()}


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Build a mesh with all five axes over `devices` (default: all), Auto axis types.

    Auto is named because `jax.make_mesh` defaults to Explicit, which `require_auto` refuses.
    """
    devices = list(jax.devices() if devices is None else devices)
    resolved = resolve_sizes(sizes, len(devices))
    return jax.make_mesh(tuple(resolved.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def require_auto(mesh: Mesh) -> None:
    """The compiler decides where a value lies between the places that are named: ConfigError for other types of axes.

    Under Explicit axes JAX raises wherever it would have to guess: first at the lookup of the embedding, whose columns
    lie on the axes that spread the rows; `with_sharding_constraint`, which `constrain` is made of, moves nothing there.
    """
    other = [axis for axis, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind is not AxisType.Auto]
    if other:
        raise ConfigError(
            f"mesh axes {', '.join(other)} are not of the type Auto, under which JAX decides where a value lies; build "
            "the mesh with jaxpo.sharding.make_mesh, or give jax.make_mesh axis_types=(AxisType.Auto,) * 5."
        )
