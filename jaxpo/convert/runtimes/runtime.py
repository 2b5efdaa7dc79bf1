"""A runtime as an export sees it, and the processes in which its own packages work."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.errors import CheckpointError, ConfigError

PROGRAMS = Path(__file__).parent / "programs"
LONGEST = 3600
"""Seconds that a conversion may take."""


@dataclass(frozen=True)
class Runtime:
    """A runtime.

    Attributes:
      format: name in `jaxpo.convert.formats`.
      program: of `programs`, converts and runs.
      packages: whose versions are told; the first is the runtime.
      install: what pip is told.
      inexpressible: `config -> problems` that its converter would not name.
      inputs: `(folder, config, dtype)`: what its converter needs beside a checkpoint.
      files: the file that an export's table names, as a glob.
      library: the Hub's name of it.
      use: how the folder is run, for the card.
    """

    format: str
    program: str
    packages: tuple[str, ...]
    install: str
    inexpressible: Callable[[Any], list[str]]
    inputs: Callable[[Path, Any, str], None]
    files: str
    library: str
    use: tuple[str, ...]


@dataclass(frozen=True)
class Answers:
    """What a runtime computes: log-probs `[chunkings, S, V]`, a greedy continuation; and its packages' versions."""

    log_probs: np.ndarray
    ids: list[int]
    versions: Mapping[str, str]


def python_of(runtime: Runtime, python: str | None) -> str:
    """The interpreter that has a runtime's packages; ConfigError says how to get them."""
    python = python or sys.executable
    code = f"import importlib.metadata as m; [m.version(name) for name in {runtime.packages!r}]"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, errors="replace", timeout=120)
    except OSError as error:
        raise ConfigError(f"export: --python {python}: {error.strerror or error}.") from error
    if done.returncode:
        raise ConfigError(
            f"export --format {runtime.format} is done by {' and '.join(runtime.packages)}, which {python} does not "
            f"have: pip install {runtime.install}, there or in an environment of its own, which --python names."
        )
    return python


def run(program: str, python: str, request: Mapping[str, Any], what: str) -> Answers | None:
    """Start a program of `programs` and wait for it; its answers, where the request asks for some.

    Raises:
      CheckpointError: it fails; with the end of what it says.
    """
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers.npz"
        told = {**request, "cache": f"{folder}/cache", "answers": str(answers) if "tokens" in request else None}
        command = [python, str(PROGRAMS / f"{program}.py")]
        try:
            done = subprocess.run(
                command,
                input=json.dumps(told),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LONGEST,
                cwd=folder,
            )
        except subprocess.TimeoutExpired as error:
            raise CheckpointError(f"{what}: {program} did not end within {LONGEST} seconds.") from error
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())[-800:]
            raise CheckpointError(f"{what}: {program} failed (status {done.returncode}): {said}")
        if told["answers"] is None:
            return None
        with np.load(answers) as found:
            return Answers(found["log_probs"], found["ids"].tolist(), json.loads(str(found["versions"])))
