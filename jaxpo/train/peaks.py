"""High-water marks of memory, and what is left of the disk."""

from __future__ import annotations

import resource
import shutil
import sys
from pathlib import Path

import jax

GIB = 2**30
_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes of one `ru_maxrss`."""


def memory_peaks() -> dict[str, float]:
    """`memory_peak_gib` of the fullest device here, where the platform says so, and `host_memory_peak_gib`: the most
    that this process has had in memory at once."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    device = [s["peak_bytes_in_use"] / GIB for s in stats if "peak_bytes_in_use" in s]
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT / GIB
    return ({"memory_peak_gib": max(device)} if device else {}) | {"host_memory_peak_gib": host}


def disk_free(path: Path) -> dict[str, float]:
    """`disk_free_gib` where a run writes."""
    return {"disk_free_gib": shutil.disk_usage(path).free / GIB}
