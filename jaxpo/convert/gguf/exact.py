"""Blocks of weights that lie on their type's grid already, stored without any loss.

ggml's quantisers take a block's scale from its largest value, which gives back what they made themselves. Weights that
were rounded with another scale, one of least error or one that a stage was trained with, lie on a grid as good; here
that scale is found again, as a float16 number of which all values of the block are whole multiples in range.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SIZE = 32
CODES = {"Q4_0": (*range(-8, 0), *range(7, 0, -1)), "Q8_0": tuple(range(127, 0, -1))}
"""What the value of the largest magnitude may stand for, by type."""


def keep_exact(rows: np.ndarray, packed: np.ndarray, kind: str, library: Any) -> np.ndarray:
    """The packed rows with the blocks that they do not give back replaced, where another scale does.

    Args:
      rows: `[n, i]` float32.
      packed: what the `gguf` package made of them.
      kind: ggml's type; one that is not in `CODES` comes back as it is.
    """
    if kind not in CODES:
        return packed
    blocks, out = rows.reshape(-1, SIZE), packed.reshape(rows.size // SIZE, -1).copy()
    given = library.quants.dequantize(packed, library.GGMLQuantizationType[kind]).reshape(-1, SIZE)
    open_ = np.flatnonzero((given != blocks).any(axis=1))
    low, high = min(CODES[kind]), max(CODES[kind])
    low = -high if low > 0 else low
    for code in CODES[kind]:
        if not open_.size:
            break
        here = blocks[open_]
        largest = np.take_along_axis(here, np.abs(here).argmax(axis=1)[:, None], axis=1)
        with np.errstate(over="ignore"):
            scale = (largest / np.float32(code)).astype(np.float16)
        wide = scale.astype(np.float32)
        whole = np.clip(np.round(here / np.where(wide == 0, 1, wide)), low, high)
        found = (whole * wide == here).all(axis=1)
        out[open_[found]] = np.concatenate([scale[found].view(np.uint8), _bytes(whole[found], kind)], axis=1)
        open_ = open_[~found]
    return out.reshape(packed.shape)


def _bytes(codes: np.ndarray, kind: str) -> np.ndarray:
    """ggml's order: int8 in turn, or half of a block in the low and the other half in the high bits of bytes."""
    if kind == "Q8_0":
        return codes.astype(np.int8).view(np.uint8)
    halves = (codes + 8).astype(np.uint8)
    return halves[:, : SIZE // 2] | (halves[:, SIZE // 2 :] << 4)
