"""Compiled programs that outlive their process: JAX's persistent cache, in a folder of the user's, bounded in size.

A program is found again by what it computes, the versions, the compiler's settings and the devices. On a CPU it is made
for that processor, so each kind of host has a folder of its own.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import platform
import re
import stat
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

WHERE = "JAXPO_COMPILE_CACHE"
DIRECTORY, LEAST = "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
MOST_BYTES = 4 << 30
LEAST_SECONDS = "0.1"
"""What compiles faster is not kept: reading it back saves next to nothing, and it is most of all programs by number."""
COMMANDS = ("run", "data", "import", "export", "merge", "generate", "chat", "serve", "selftest")
CPUINFO = Path("/proc/cpuinfo")
HOSTS = "*-" + "[0-9a-f]" * 12
"""The folders that `host` names, as a pattern."""
FAILED = re.compile(r"Error (?P<what>reading|writing) persistent compilation cache entry for '(?P<name>[^']+)'")


def keep_programs(argv: list[str], environ: MutableMapping[str, str] = os.environ) -> None:
    """Name the cache to JAX, which reads the environment when it is imported; after clearing it down to its size.

    Nothing changes where JAX's own variable names a folder, or the cache is switched off.

    Args:
      argv: the words of the command line behind `jaxpo`.
    """
    if not (argv[:1] and argv[0] in COMMANDS):
        return
    against = reason_against(environ)
    if against is not None:
        if environ.get(WHERE, "0") != "0" and not environ.get(DIRECTORY):
            print(f"{WHERE}: {against}; compiled programs are not kept", file=sys.stderr)
        return
    prune(root(environ), MOST_BYTES)
    warnings.showwarning = told(folder(environ), warnings.showwarning)
    environ[DIRECTORY] = str(folder(environ))
    environ.setdefault(LEAST, LEAST_SECONDS)


def reason_against(environ: Mapping[str, str]) -> str | None:
    """Why this cache is not used; None where it is."""
    if environ.get(DIRECTORY):
        return f"{DIRECTORY} is set"
    if environ.get(WHERE) == "0":
        return f"{WHERE} is 0"
    if environ.get(WHERE) and not Path(environ[WHERE]).expanduser().is_absolute():
        return f"{environ[WHERE]!r} is no absolute path (0 = keep none)"
    try:
        own = folder(environ)
        above = next(path for path in (own, *own.parents) if path.exists())
        writable = above.is_dir() and os.access(above, os.W_OK | os.X_OK)
    except (OSError, RuntimeError) as error:  # a folder that may not be searched; a user without a home
        return f"no folder can be used: {error}"
    return None if writable else f"{above} cannot be written"


def root(environ: Mapping[str, str]) -> Path:
    """The folder of all hosts."""
    named, cache = environ.get(WHERE), Path(environ.get("XDG_CACHE_HOME", ""))
    if named:
        return Path(named).expanduser()
    # By the XDG specification a relative path counts as none.
    return (cache if cache.is_absolute() else Path("~/.cache").expanduser()) / "jaxpo" / "compiled"


def folder(environ: Mapping[str, str]) -> Path:
    """The folder of hosts like this one."""
    return root(environ) / host()


def host() -> str:
    """Names all hosts on which a program for the CPU is the same: by processor, its features and the usable cores."""
    with contextlib.suppress(OSError):
        first = CPUINFO.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        told = ("model name", "flags", "Features", "CPU implementer", "CPU part")
        lines = [line for line in first.splitlines() if line.partition(":")[0].strip() in told]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        digest = hashlib.sha256("\n".join([*lines, f"{cores}"]).encode()).hexdigest()
        return f"{platform.machine()}-{digest[:12]}"
    return f"{platform.machine()}-{hashlib.sha256(platform.node().encode()).hexdigest()[:12]}"


def entries(place: Path) -> Iterator[tuple[float, int, Path]]:
    """Time of last use, bytes and path of every program below, of any host; no other file, whatever the folder is."""
    for path in place.glob(f"{HOSTS}/*-cache"):
        with contextlib.suppress(OSError):  # others may come and go meanwhile
            found = path.lstat()
            if stat.S_ISREG(found.st_mode):
                yield max(found.st_atime, found.st_mtime), found.st_size, path


def prune(place: Path, most: int) -> None:
    """Remove what was not used for longest until `most` bytes are left."""
    files = sorted(entries(place))
    size = sum(n for _, n, _ in files)
    for _, n, path in files:
        if size <= most:
            return
        with contextlib.suppress(OSError):  # in a shared folder, what another user keeps
            path.unlink(missing_ok=True)
            size -= n


def told(place: Path, otherwise: Callable[..., None]) -> Callable[..., None]:
    """A `warnings.showwarning` that says in one line what JAX could not read or write here, and mends what it can.

    JAX compiles a program anew that it cannot read, but never replaces the file: a process that was killed while it
    wrote one would be felt at every later start.
    """

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        found = FAILED.match(str(message))
        if found is None:
            return otherwise(message, category, *where, **more)
        if found["what"] == "reading":
            for path in place.glob(f"{glob.escape(found['name'])}-*-cache"):
                path.unlink(missing_ok=True)
        print(f"compile cache {place}: {found['what']} {found['name']} failed; it is compiled anew", file=sys.stderr)

    return show
