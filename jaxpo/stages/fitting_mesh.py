"""The smallest mesh on whose devices a stage fits: its state exactly, the rest as `jaxpo.train.memory` estimates it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jax.sharding import AbstractMesh

from jaxpo.config import Run
from jaxpo.config.axes import AXES
from jaxpo.errors import ConfigError
from jaxpo.models.family import TextConfig, family
from jaxpo.recipe.checks.routing import check_placement
from jaxpo.stages.abstract_beside import architecture
from jaxpo.stages.dry_run import on_accelerator, stage_step
from jaxpo.train.memory import USABLE

MOST = 512
TENSOR = (2, 4, 8)
"""Sizes of the tensor axis that are tried: more than the devices of one host share a layer's products slowly."""


@dataclass(frozen=True)
class Fit:
    """A mesh that is large enough.

    Attributes:
      mesh: axis -> devices, those of one device left out.
      remat: policy of recomputation.
      bytes: estimated for one device.
    """

    mesh: Mapping[str, int]
    devices: int
    remat: str
    bytes: float


def smallest_mesh(run: Run, stage: Any, memory: float, most: int = MOST) -> Fit | None:
    """The first of `meshes` on which a stage fits into `memory` bytes per device; None where none is large enough.

    Raises:
      ConfigError: the family of the model does not say what its layers keep.
    """
    config = architecture(run, stage)
    for sizes in meshes(config, most):
        mesh: Any = AbstractMesh(tuple(sizes.get(axis, 1) for axis in AXES), AXES)
        try:
            check_placement(run, mesh.shape)
            step, load = stage_step(run, stage, config, mesh, memory)
        except ConfigError:
            continue  # a dimension, the rows or the experts do not divide, or no policy fits: not this mesh
        found = on_accelerator(run, config, load, step.remat, mesh)
        if found is not None and found.total <= USABLE * memory:
            return Fit(sizes, mesh.size, step.remat, found.total)
    return None


def meshes(config: TextConfig, most: int) -> Iterator[dict[str, int]]:
    """Powers of two of devices, the fewest first; of as many, those first that send the least."""
    experts = family(config).experts(config)
    devices = 1
    while devices <= most:
        yield {"fsdp": devices}
        if experts is not None:
            for n in (2**i for i in range(1, 10)):
                if n <= devices and experts.count % n == 0:
                    yield {"expert": n, "fsdp": devices // n}
        yield from ({"tensor": n, "fsdp": devices // n} for n in TENSOR if n <= devices)
        devices *= 2
