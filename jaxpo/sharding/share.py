"""Which rows of a batch a process brings."""

from __future__ import annotations

from jax.sharding import Mesh

from jaxpo.config.axes import BATCH_AXES
from jaxpo.errors import ConfigError
from jaxpo.sharding.rules import axis_size, batch_sharding


def batch_share(mesh: Mesh) -> tuple[int, int]:
    """(i, n): of a batch in n equal parts this process brings part i, as does every process that computes on its rows.

    Raises:
      ConfigError: its devices hold rows that do not follow one another.
    """
    shards = axis_size(mesh, BATCH_AXES)
    places = batch_sharding(mesh).addressable_devices_indices_map((shards,))
    own = sorted({index[0].start or 0 for index in places.values() if index is not None})
    first, held = own[0], len(own)
    if own != list(range(first, first + held)) or first % held or shards % held:
        raise ConfigError(
            f"mesh {dict(mesh.shape)}: the devices of one process hold the parts {own} of {shards} of a batch, which "
            "are not one share of it; choose sizes that divide the devices of a process."
        )
    return first // held, shards // held
