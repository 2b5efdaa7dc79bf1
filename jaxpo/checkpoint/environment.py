"""Where a checkpoint was written: versions and device topology, on which bitwise equality of a resume depends."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import jax

from jaxpo import __version__


def environment() -> dict[str, Any]:
    """Versions, platform, devices, processes and CPU threads of this process, as JSON."""
    device = jax.devices()[0]
    return {
        "jaxpo": __version__,
        "jax": version("jax"),
        "jaxlib": version("jaxlib"),
        "python": platform.python_version(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "cpu_threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One "field old -> new" per difference; empty means that a resume is bitwise equal."""
    return [f"{k} {old.get(k)} -> {new.get(k)}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
