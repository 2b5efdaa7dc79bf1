"""Large leaves in blocks that fit the processor's caches, on all its cores: no temporary is as large as a leaf."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

Leaf = Any
"""An array of floats: numpy or jax, any width."""

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
BLOCK = 1 << 16
"""Entries of a block; the sums of a leaf are those of its blocks, so they do not depend on the number of cores."""


def blockwise(function: Callable[..., np.ndarray], *leaves: Leaf, dtype: Any = np.float32) -> np.ndarray:
    """`function` of the same entries of all leaves.

    Args:
      function: of flat blocks, float32 or masks, one per leaf, to one of the same size; called on several threads.
      leaves: arrays of one shape.
      dtype: of the result.
    """
    flat = _flat(leaves)
    result = np.empty(np.shape(leaves[0]), dtype)
    out = result.reshape(-1)

    def fill(start: int) -> None:
        out[start : start + BLOCK] = function(*_blocks(flat, start))

    _on_threads(fill, out.size)
    return result


def summed(function: Callable[..., Sequence[float]], *leaves: Leaf) -> tuple[float, ...]:
    """The sums over all blocks of the numbers that `function` makes of each, added in order in float64."""
    flat = _flat(leaves)
    found = _on_threads(lambda start: function(*_blocks(flat, start)), flat[0].size)
    return tuple(float(sum(column)) for column in zip(*found, strict=True))


def in_turn(*leaves: Leaf) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Where every block lies in the flat leaves, and the block of each, one after another."""
    flat = _flat(leaves)
    for start in range(0, flat[0].size, BLOCK):
        yield slice(start, min(start + BLOCK, flat[0].size)), _blocks(flat, start)


def widened(block: np.ndarray) -> np.ndarray:
    """In float32; not copied when it is that already. A mask stays one."""
    if block.dtype == bool:
        return block
    if block.dtype.name != "bfloat16":
        return block.astype(np.float32, copy=False)
    # The upper half of a float32. The type's own conversion keeps other threads waiting.
    bits = np.empty(block.shape, np.uint32)
    np.left_shift(block.view(np.uint16), 16, out=bits, dtype=np.uint32)
    return bits.view(np.float32)


def where(mask: np.ndarray, block: np.ndarray) -> np.ndarray:
    """A float32 block with zeros where the mask is False: `np.where` by its bits, several times as fast."""
    bits = mask.astype(np.uint32)
    np.negative(bits, out=bits)
    bits &= block.view(np.uint32)
    return bits.view(np.float32)


def _flat(leaves: Sequence[Leaf]) -> list[np.ndarray]:
    return [np.asarray(leaf).reshape(-1) for leaf in leaves]


def _blocks(flat: Sequence[np.ndarray], start: int) -> list[np.ndarray]:
    return [widened(leaf[start : start + BLOCK]) for leaf in flat]


def _on_threads(work: Callable[[int], Any], size: int) -> list[Any]:
    """What `work` returns for the start of every block, in order."""
    starts = range(0, max(size, 1), BLOCK)
    cores = min(CORES, len(starts))
    if cores < 2:
        return [work(start) for start in starts]
    with ThreadPoolExecutor(cores) as pool:
        shares = pool.map(lambda i: [work(start) for start in starts[i::cores]], range(cores))
        found: list[Any] = [None] * len(starts)
        for i, share in enumerate(shares):
            found[i::cores] = share
    return found
