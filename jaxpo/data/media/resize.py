"""Bilinear resizing with antialiasing in whole numbers: byte for byte what torchvision makes of a uint8 tensor."""

from __future__ import annotations

import functools

import numpy as np
from scipy.sparse import csr_array

BITS = 22
"""Most bits behind the point that a weight may have."""
WEIGHT = 2**15
"""A weight stays below it."""
BLOCK = 256
"""Lines at a time: sums take four bytes where pixels take one."""


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 `[h, w, C]` -> uint8 `[height, width, C]`: along the width first, then along the height."""
    if image.shape[1] != width:
        image = _of_rows(image.swapaxes(0, 1), width).swapaxes(0, 1)
    if image.shape[0] != height:
        image = _of_rows(image, height)
    return image


def _of_rows(image: np.ndarray, size: int) -> np.ndarray:
    """out = clip((2^(p-1) + sum_j q_j x_(first + j)) >> p, 0, 255), in int32: a sum's weights add up to 2^p."""
    weights, bits = matrix(image.shape[0], size)
    out = np.empty((size, *image.shape[1:]), np.uint8)
    for at in range(0, image.shape[1], BLOCK):
        lines = image[:, at : at + BLOCK]
        total = weights @ lines.reshape(len(lines), -1).astype(np.int32) + np.int32(1 << (bits - 1))
        out[:, at : at + BLOCK] = np.clip(total >> bits, 0, 255).reshape(size, *lines.shape[1:])
    return out


@functools.lru_cache(maxsize=256)
def matrix(n_in: int, n_out: int) -> tuple[csr_array, int]:
    """The weights with which `n_out` values are made of `n_in`, and the bits behind their point.

    With scale = n_in / n_out, support = max(scale, 1) and c_i = scale (i + 1/2):

        first_i = max(floor(c_i - support + 1/2), 0)        n_i = min(floor(c_i + support + 1/2), n_in) - first_i
        w_ij ~ max(0, 1 - |first_i + j - c_i + 1/2| / support),   sum_j w_ij = 1
        q_ij = floor(w_ij 2^p + 1/2),   p the least number of bits at which the largest weight fills 15, at most 22

    Returns:
      int32 `[n_out, n_in]`, p.
    """
    scale = n_in / n_out
    support = max(scale, 1.0)
    centre = scale * (np.arange(n_out) + 0.5)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    count = np.minimum((centre + support + 0.5).astype(np.int64), n_in) - first
    j = np.arange(int(count.max()))
    weights = np.maximum(1 - np.abs(first[:, None] + j - centre[:, None] + 0.5) / support, 0.0)
    inside = j < count[:, None]
    weights[~inside] = 0.0
    weights /= weights.sum(1, keepdims=True)
    largest, bits = weights.max(), 1
    while bits < BITS and int(0.5 + largest * 2 ** (bits + 1)) < WEIGHT:
        bits += 1
    quantised = np.floor(weights * 2**bits + 0.5).astype(np.int32)
    rows = np.concatenate([[0], np.cumsum(count)])
    return csr_array((quantised[inside], (first[:, None] + j)[inside], rows), shape=(n_out, n_in)), bits
