"""What a run was measured on."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from jaxpo.cli.allocator import reason_against

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "torch",
    "transformers",
    "trl",
    "peft",
    "diffusers",
    "liger-kernel",
)


def facts() -> dict[str, object]:
    """Processor, cores, memory, allocator, load and versions, for the reader of a table."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "allocator": reason_against(os.environ) or "a step's memory in huge pages",
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def processor() -> str:
    """Its own name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def described(found: dict[str, object]) -> str:
    """One line of `facts`."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())  # type: ignore[attr-defined]
    memory = float(found["memory_bytes"]) / 2**30  # type: ignore[arg-type]
    return (
        f"{found['processor']}, {found['cores']} cores, {memory:.0f} GiB, {found['system']}, Python {found['python']}, "
        f"load {found['load_before']} before the start, allocator: {found['allocator']}; {versions}; {found['date']}"
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
