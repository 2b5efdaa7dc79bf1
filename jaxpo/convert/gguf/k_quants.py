"""Mixtures of 2 to 6 bits, which llama.cpp's own quantiser makes: `llama-quantize`, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from jaxpo.errors import CheckpointError, ConfigError

PROGRAM = "llama-quantize"


def program() -> str:
    """Where the quantiser is; ConfigError that says how to get it."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise ConfigError(
            f"export: this --dtype is made by llama.cpp's own {PROGRAM}, which is not on the PATH; it comes with "
            "llama.cpp (brew install llama.cpp, or build it), and the package xllamacpp leaves it out. Without it "
            "there are f32, f16, bf16, q8_0 and q4_0."
        )
    return found


def quantize(source: Path, out: Path, kind: str) -> None:
    """Quantise a float32 file.

    Raises:
      CheckpointError: the quantiser fails; with the end of what it says.
    """
    done = subprocess.run(
        [program(), str(source), str(out), kind.upper()], capture_output=True, text=True, errors="replace"
    )
    if done.returncode or not out.is_file():
        said = " ".join((done.stderr or done.stdout).split())[-400:]
        raise CheckpointError(f"{out}: {PROGRAM} failed (status {done.returncode}): {said}")
