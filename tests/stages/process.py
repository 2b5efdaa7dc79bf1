"""`jaxpo run` in a process of its own, as a user starts it, and other programs; several of them as one run."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import pytest

from jaxpo.evaluate.report import curves
from jaxpo.sharding import make_mesh
from jaxpo.stages import run as running

ROOT = Path(__file__).resolve().parents[2]


def start(
    config: Path, *arguments: str, devices: int = 1, environ: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a run on simulated devices; its output is read by `finish`."""
    return start_program("-m", "jaxpo", "run", config, *arguments, devices=devices, environ=environ)


def start_program(*words: object, devices: int = 1, environ: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start Python with these words on simulated devices; it can import what the tests can."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    found = {"XLA_FLAGS": flags, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env=os.environ | found | (environ or {}),
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
    return [common | {"JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(i), **further} for i in range(count)]


def finish(running: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and output."""
    out, _ = running.communicate()
    return running.returncode, out


def finish_all(running: Sequence[subprocess.Popen[str]], seconds: float = 600) -> tuple[list[int], list[str]]:
    """Exit statuses and outputs of processes that wait for one another; none is left, whatever happens."""
    try:
        outputs = [process.communicate(timeout=seconds)[0] for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                kill(process)
    return [process.returncode for process in running], outputs


def kill(running: subprocess.Popen[str]) -> None:
    """SIGKILL to it and its children; one that has just ended is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    running.communicate()


def on_devices(patch: pytest.MonkeyPatch, count: int) -> None:
    """Runs in this process take so many of the simulated devices; programs for eight compile several times longer."""
    few = jax.devices()[:count]
    patch.setattr(running, "make_mesh", lambda sizes: make_mesh(sizes, few))


def without_curves(patch: pytest.MonkeyPatch) -> None:
    """Reports leave their curves empty: they take seconds of every run.

    Drawn they are of every kind in tests/contracts/test_kinds.py, and each by itself in tests/evaluate/test_report.py.
    """
    patch.setattr(curves, "draw", lambda *_, **__: "<svg></svg>")
