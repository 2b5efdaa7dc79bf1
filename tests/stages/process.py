"""`jaxpo run` in a process of its own, as a user starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import jax
import pytest

from jaxpo.sharding import make_mesh
from jaxpo.stages import run as running

ROOT = Path(__file__).resolve().parents[2]


def start(
    config: Path, *arguments: str, devices: int = 1, environ: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a run on simulated devices; its output is read by `finish`."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    return subprocess.Popen(
        [sys.executable, "-m", "jaxpo", "run", str(config), *arguments],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags} | (environ or {}),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def places(count: int, **further: str) -> list[dict[str, str]]:
    """What the environments of several processes of one run say, over loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    common = {"JAX_COORDINATOR_ADDRESS": address, "JAX_COORDINATOR_BIND_ADDRESS": address}
    # Compiling is most of what they do: process 0 does it for the others.
    common |= {"JAX_SHARE_BINARY_BETWEEN_HOSTS": "1"}
    return [common | {"JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(i), **further} for i in range(count)]


def finish(running: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and output."""
    out, _ = running.communicate()
    return running.returncode, out


def kill(running: subprocess.Popen[str]) -> None:
    """SIGKILL to it and its children; one that has just ended is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    running.communicate()


def on_devices(patch: pytest.MonkeyPatch, count: int) -> None:
    """Runs in this process take so many of the simulated devices; programs for eight compile several times longer."""
    few = jax.devices()[:count]
    patch.setattr(running, "make_mesh", lambda sizes: make_mesh(sizes, few))
