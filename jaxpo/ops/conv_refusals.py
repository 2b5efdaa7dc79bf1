"""What the kernel of the short convolution cannot do, and the remedy. Apart from it, as its import takes time."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax.typing import DTypeLike

LANES = 128
BESIDE = 8
# Positions of a program, most first, and what its blocks may take of the 16 MiB that it has, each twice: one is
# computed while the next is read.
_POSITIONS = (512, 256, 128, 64, 32)
_ROOM = 8 << 20
_ARRAYS = 7  # of [positions, D] in backward: three gates and dy in, three gradients out


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a backend may be unable to do.

    Attributes:
      platform: "cpu", "gpu" or "tpu".
      dtype: of the gates.
      width: channels of one device.
      taps: k.
    """

    platform: str
    dtype: DTypeLike
    width: int
    taps: int


def positions(width: int, itemsize: int) -> int:
    """The positions of a program that fit its memory at this width; 0: not even the fewest do."""
    each = 2 * _ARRAYS * width * itemsize
    return next((n for n in _POSITIONS if n * each <= _ROOM), 0)


def none(asked: Asked) -> str | None:
    """It does everything."""
    del asked
    return None


def pallas(asked: Asked) -> str | None:
    """The kernel for TPU."""
    dtype = jnp.dtype(asked.dtype)
    if dtype.name not in ("float32", "bfloat16"):
        return f'the kernel has float32 and bfloat16, not {dtype.name}; take "xla"'
    if asked.width % LANES:
        return f'{asked.width} channels of a device are no multiple of {LANES}; take "xla"'
    if not positions(asked.width, dtype.itemsize):
        return f'{asked.width} channels in {dtype.name} do not fit the memory of a program; take "xla"'
    if asked.taps > BESIDE + 1:
        return f'{asked.taps} taps are more than {BESIDE + 1}; take "xla"'
    return None
