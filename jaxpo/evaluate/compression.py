"""What a general compressor makes of the held-out text: the yardstick that needs no training. Standard library only."""

from __future__ import annotations

import lzma

from jaxpo.errors import DataError

SMALLEST_DICTIONARY = 1 << 16


def xz_size(data: bytes) -> int:
    """Bytes that `xz -9e` makes of the data, its dictionary large enough to see all of it."""
    smallest = max(SMALLEST_DICTIONARY, len(data))
    preset = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": smallest}
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=[preset]))


def xz_bits_per_byte(heldout: bytes) -> float:
    """8 size(xz(heldout)) / len(heldout): the compressor knows nothing but this text."""
    return 8.0 * xz_size(_not_empty(heldout)) / len(heldout)


def xz_primed_bits_per_byte(heldout: bytes, training: bytes) -> float:
    """8 (size(xz(training + heldout)) - size(xz(training))) / len(heldout): it has seen the training text."""
    extra = xz_size(training + _not_empty(heldout)) - xz_size(training)
    return 8.0 * extra / len(heldout)


def _not_empty(text: bytes) -> bytes:
    if not text:
        raise DataError("the held-out text is empty, so it has no bits per byte.")
    return text
