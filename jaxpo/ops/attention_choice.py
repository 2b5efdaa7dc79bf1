"""What a call of attention asks of a backend."""

from __future__ import annotations

import dataclasses

import jax
from jax.typing import DTypeLike


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a backend may be unable to do.

    Attributes:
      platform: "cpu", "gpu" or "tpu".
      dtype: of queries, keys and values.
      width: of a head.
      causal, window: see `jaxpo.ops.attention.attention`.
      key_ids: whether they differ from the ids of the queries.
      prefix: whether segments continue others.
      sequence: devices over which the positions of a row are spread.
      capability: of the GPU, as (9, 0); None = not known.
    """

    platform: str
    dtype: DTypeLike
    width: int
    causal: bool = True
    window: int | None = None
    key_ids: bool = False
    prefix: bool = False
    sequence: int = 1
    capability: tuple[int, int] | None = None


def capability() -> tuple[int, int] | None:
    """Compute capability of this machine's first device; None where that is not an NVIDIA GPU."""
    said = getattr(jax.devices()[0], "compute_capability", None)
    if not isinstance(said, str) or "." not in said:
        return None
    major, minor = said.split(".")[:2]
    return int(major), int(minor)
