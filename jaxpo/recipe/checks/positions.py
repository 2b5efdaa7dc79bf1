"""The check of rows whose positions are spread over devices. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jaxpo.config import Run
from jaxpo.config.axes import SEQUENCE
from jaxpo.config.fields import flag


def position_problems(run: Run, sizes: Mapping[str, int]) -> Iterator[str]:
    """Rows that the devices of `mesh.sequence` do not divide.

    Args:
      sizes: devices of each mesh axis; one below 1 is not known yet.
    """
    devices = sizes[SEQUENCE]
    for stage in run.stages if devices > 1 else ():
        data = getattr(stage, "data", None)
        length = getattr(data, "row_length", None)
        if isinstance(length, int) and length % devices:
            name = (stage.name, "data", "row_length")
            yield (
                f"{'.'.join(name)}: rows of {length} positions cannot be spread over {devices} devices "
                f"(mesh.sequence); set {flag(name)} {-(-length // devices) * devices}, or mesh.sequence to a divisor."
            )
