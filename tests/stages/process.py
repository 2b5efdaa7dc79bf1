"""`jaxpo run` in a process of its own, as a user starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def start(config: Path, *arguments: str, devices: int = 1) -> subprocess.Popen[str]:
    """Start a run on simulated devices; its output is read by `finish`."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    return subprocess.Popen(
        [sys.executable, "-m", "jaxpo", "run", str(config), *arguments],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(running: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and output."""
    out, _ = running.communicate()
    return running.returncode, out


def kill(running: subprocess.Popen[str]) -> None:
    """SIGKILL to it and its children; one that has just ended is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
