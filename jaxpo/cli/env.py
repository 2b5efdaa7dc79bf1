"""`jaxpo env`: what a bug report needs: versions, devices, cores, memory, extras."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any

from jaxpo import __version__
from jaxpo.cli.args import Parser
from jaxpo.cli.huge_pages import COMMANDS, reason_against

CORE = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "array_record", "numpy", "tokenizers")
PLUGINS = ("jax-cuda13-plugin", "jax-cuda12-plugin", "libtpu")
EXTRAS = (*PLUGINS, "tensorboard", "wandb", "torch", "transformers", "trl", "peft")


def main(argv: Sequence[str]) -> int:
    parser = Parser("env", "Versions, devices, cores and memory, for bug reports.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-devices", action="store_true", help="do not start jax to list the devices")
    args = parser.parse(argv)
    facts = gather(devices=not args.no_devices)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        width = max(map(len, facts))
        for name, value in facts.items():
            print(f"{name:<{width}}  {value}")
    return 0


def gather(*, devices: bool) -> dict[str, Any]:
    """Name -> value, in the order to print."""
    facts: dict[str, Any] = {
        "jaxpo": __version__,
        "python": f"{platform.python_version()} ({sys.implementation.name})",
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": memory(),
        "huge pages": huge_pages(),
    }
    facts |= {name: installed(name) for name in CORE}
    facts["extras"] = ", ".join(f"{n} {installed(n)}" for n in EXTRAS if installed(n) != "missing") or "none"
    facts |= {k: v for k, v in sorted(os.environ.items()) if k in ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64")}
    if devices:
        facts["devices"] = device_list()
    return facts


def installed(name: str) -> str:
    """Version of an installed distribution, or "missing"."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def memory() -> str:
    """Physical memory in GiB; "unknown" where the system does not say."""
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (ValueError, OSError, AttributeError):
        return "unknown"


def huge_pages() -> str:
    """Whether `jaxpo run` gets them."""
    against = reason_against(os.environ)
    return f"asked for by jaxpo {', '.join(COMMANDS)}" if against is None else against


def device_list() -> str:
    """Number and kind of the devices that jax sees, or why it sees none."""
    import jax

    try:
        found = jax.devices()
    except RuntimeError as error:
        return f"none: {error}"
    kinds = [f"{d.platform} {d.device_kind}" for d in found]
    return ", ".join(f"{kinds.count(k)} x {k}" for k in dict.fromkeys(kinds))
