"""`jaxpo env`: what a bug report needs, and what this machine's runs get: versions, devices, backends, caches."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jaxpo import __version__
from jaxpo.cli import allocator, compile_cache
from jaxpo.cli.args import Parser

CORE = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "array_record", "numpy", "tokenizers")
PLUGINS = ("jax-cuda13-plugin", "jax-cuda12-plugin", "libtpu")
EXTRAS = (*PLUGINS, "tensorboard", "wandb", "torch", "transformers", "trl", "peft")
SETTINGS = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64")


def main(argv: Sequence[str]) -> int:
    parser = Parser("env", "Versions, devices, backends, caches, cores and memory, for bug reports.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-devices", action="store_true", help="do not start jax to list the devices")
    parser.add_argument("--measure", action="store_true", help="measure what a device reaches in plain products")
    args = parser.parse(argv)
    facts = gather(devices=not args.no_devices, measure=args.measure)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        width = max(map(len, facts))
        for name, value in facts.items():
            print(f"{name:<{width}}  {value}")
    return 0


def gather(*, devices: bool, measure: bool = False) -> dict[str, Any]:
    """Name -> value, in the order to print."""
    facts: dict[str, Any] = {
        "jaxpo": __version__,
        "python": f"{platform.python_version()} ({sys.implementation.name})",
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": memory(),
        "allocator": step_memory(),
        "compile cache": programs(os.environ),
    }
    facts |= {name: installed(name) for name in CORE}
    facts["extras"] = ", ".join(f"{n} {installed(n)}" for n in EXTRAS if installed(n) != "missing") or "none"
    facts |= {k: v for k, v in sorted(os.environ.items()) if k in SETTINGS}
    if devices:
        from jaxpo.cli.env_devices import device_facts

        facts |= device_facts(measure=measure)
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


def step_memory() -> str:
    """Whether `jaxpo run` takes a step's memory in huge pages; or why it does not."""
    against = allocator.reason_against(os.environ)
    if against is not None:
        return f"the system's: {against}"
    return f"jaxpo {', '.join(allocator.COMMANDS)} takes a step's memory in huge pages"


def programs(environ: Mapping[str, str]) -> str:
    """Where compiled programs are kept, how many and how large; or why this command does not keep any."""
    named, against = environ.get(compile_cache.DIRECTORY), compile_cache.reason_against(environ)
    if named:
        return f"{named} ({compile_cache.DIRECTORY})"
    if against is not None:
        return against
    own = compile_cache.folder(environ)
    sizes = [size for _, size, path in compile_cache.entries(own.parent) if path.parent == own]
    most = f"all hosts' at most {compile_cache.MOST_BYTES >> 30} GiB"
    return f"{own} ({len(sizes)} programs, {sum(sizes) / 2**20:.1f} MiB; {most})"
