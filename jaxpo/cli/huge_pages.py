"""Huge pages for the arrays of a training step, which glibc asks the kernel for when a process starts with a setting.

A step on the CPU maps its temporary arrays anew every time. In pages of 4 KiB that is a fault for each of them, some
700,000 for 2.8 GB; in pages of 2 MiB it is 2,000.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

TUNABLES, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
OFF = "JAXPO_HUGE_PAGES"
ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SINCE = (2, 35)
COMMANDS = ("run",)
"""Those that train; the others end sooner than they would gain by it."""


def restart(argv: list[str], command: list[str]) -> None:
    """Start this process anew with huge pages where the command trains and the machine has them to give.

    Args:
      argv: the words of the command line behind `jaxpo`.
      command: the whole of it, interpreter included.
    """
    if argv[:1] and argv[0] in COMMANDS and reason_against(os.environ) is None:
        kept = os.environ.get(TUNABLES)
        asked = f"{SETTING}=1"
        os.execve(sys.executable, command, os.environ | {TUNABLES: f"{kept}:{asked}" if kept else asked})


def reason_against(environment: Mapping[str, str]) -> str | None:
    """Why a process is not started anew with huge pages; None where it is."""
    if SETTING in environment.get(TUNABLES, ""):
        return f"{TUNABLES} says {environment[TUNABLES]}"
    if environment.get(OFF) == "0":
        return f"{OFF} is 0"
    if glibc() < SINCE:
        return f"needs glibc {SINCE[0]}.{SINCE[1]}"
    try:
        state = ENABLED.read_text()
    except OSError as error:
        return f"{ENABLED}: {error.strerror}"
    return "switched off in the kernel" if "[never]" in state else None


def glibc() -> tuple[int, ...]:
    """Version of the C library; (0,) where it is another one."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (AttributeError, ValueError, OSError):  # not Linux, or musl
        return (0,)
    return tuple(int(part) for part in version.split(".")) if name == "glibc" else (0,)
