"""The allocator of a run on the CPU: a step's memory in huge pages.

A step maps its temporary arrays anew every time, and the kernel clears each page before it hands it out: for 2.8 GB a
quarter of the step, and 700,000 faults in pages of 4 KiB. glibc takes a setting when a process starts that asks for
pages of 2 MiB where the kernel has them. Its other settings stay as they are: one heap for all threads
(`arena_max`) would keep the memory from step to step, and make threads that tokenise wait for one another's `malloc`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

TUNABLES, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
OFF = "JAXPO_ALLOCATOR"
DEVICES = ("nvidia0", "accel0", "kfd", "vfio/0")
SINCE = (2, 35)
COMMANDS = ("run",)
"""Those that train; the others end sooner than they would gain by it."""


def restart(argv: list[str], command: list[str]) -> None:
    """Start this process anew with this setting where the command trains and the C library knows it.

    Args:
      argv: the words of the command line behind `jaxpo`.
      command: the whole of it, interpreter included.
    """
    if argv[:1] and argv[0] in COMMANDS and reason_against(os.environ) is None:
        os.execve(sys.executable, command, os.environ | {TUNABLES: tunables(os.environ)})


def tunables(environment: Mapping[str, str]) -> str:
    """What the environment's `GLIBC_TUNABLES` becomes: the setting behind those that are there, which stay."""
    return ":".join([*filter(None, [environment.get(TUNABLES)]), f"{SETTING}=1"])


def reason_against(environment: Mapping[str, str]) -> str | None:
    """Why a process is not started anew with this setting; None where it is."""
    if SETTING in environment.get(TUNABLES, ""):
        return f"{TUNABLES} says {environment[TUNABLES]}"
    if environment.get(OFF) == "0":
        return f"{OFF} is 0"
    device = next((d for d in map(Path("/dev").joinpath, DEVICES) if d.exists()), None)
    if device is not None and environment.get("JAX_PLATFORMS") != "cpu":
        return f"not where an accelerator computes ({device})"
    return f"needs glibc {SINCE[0]}.{SINCE[1]}" if glibc() < SINCE else None


def glibc() -> tuple[int, ...]:
    """Version of the C library; (0,) where it is another one."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (AttributeError, ValueError, OSError):  # not Linux, or musl
        return (0,)
    return tuple(int(part) for part in version.split(".")) if name == "glibc" else (0,)
