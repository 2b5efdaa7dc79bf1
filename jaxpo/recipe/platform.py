"""What a run leaves to the platform that it begins on, and which that is. Imports no jax."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from glob import glob
from importlib.util import find_spec
from typing import Any

from jaxpo.config import Compute, Run
from jaxpo.config.precision import Dtype, compute_dtype

PLATFORMS = ("cpu", "gpu", "tpu")
"""As `jax.default_backend` names them."""
BEST = {
    "attention": {"cpu": "xla", "gpu": "pallas", "tpu": "splash"},
    "experts": {"cpu": "blocks", "gpu": "triton", "tpu": "megablox"},
    "conv": {"cpu": "xla", "gpu": "xla", "tpu": "pallas"},
}
"""What an implementation that is left open becomes where the devices can run it: `jaxpo.ops` chooses at each call."""
UNROLLED_UP_TO = 24
"""Layers of the deepest model whose layers are not run in loops on an accelerator, where that is left open."""
_ALIASES = {"cuda": "gpu", "rocm": "gpu"}
# What JAX needs of a platform: one of these packages, and one of these devices.
_PLUGINS = {
    "tpu": (("libtpu",), ("/dev/accel*", "/dev/vfio/[0-9]*")),
    "gpu": (("jax_cuda13_plugin", "jax_cuda12_plugin"), ("/dev/nvidiactl", "/dev/dxg")),
}


def dtype_of(compute: Compute, platform: str) -> Dtype:
    """The type of a run's products, see `jaxpo.config.precision.compute_dtype`."""
    return compute_dtype(compute.dtype, platform)


def resolved(compute: Compute, platform: str) -> Compute:
    """With what is left open as on a platform, as a run that begins there stores it."""
    return dataclasses.replace(compute, dtype=dtype_of(compute, platform))


def shown(compute: Compute, platform: str, layers: int | None) -> dict[str, Any]:
    """Every field with what it becomes on a platform; those that a run stores, and those that each call chooses.

    Args:
      layers: of the model; None = not known before it is read.
    """
    fields = vars(resolved(compute, platform)) | {
        name: getattr(compute, name) or BEST[name].get(platform) for name in BEST
    }
    if compute.scan is None:
        fields["scan"] = loops(compute.remat, platform, layers)
    return fields


def loops(remat: str, platform: str, layers: int | None) -> bool | None:
    """As `jaxpo.models.lfm2.layers.in_loops`; None where that is not known before the run."""
    if platform == "cpu":
        return None if remat == "auto" else remat != "none"
    return None if layers is None else layers > UNROLLED_UP_TO


def begun(run: Run, stored: Mapping[str, Any] | None, platform: str) -> Run:
    """A run with what it leaves open as it began, and by the platform when it begins: a resume changes nothing.

    Args:
      stored: its configuration as JSON, when it has begun.
    """
    before = ((stored or {}).get("compute") or {}).get("dtype")
    open_as_before = dataclasses.replace(run.compute, dtype=run.compute.dtype or before)
    return dataclasses.replace(run, compute=resolved(open_as_before, platform))


def expected_platform(environ: Mapping[str, str] = os.environ) -> str:
    """The platform that JAX would take here, told from what is installed and plugged in; starts no device."""
    named = environ.get("JAX_PLATFORMS", "").split(",")[0].strip().lower()
    if named:
        return _ALIASES.get(named, named)
    for platform, (packages, devices) in _PLUGINS.items():
        if any(map(find_spec, packages)) and any(map(glob, devices)):
            return platform
    return "cpu"
