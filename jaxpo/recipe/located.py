"""Where the paths of a run lead, wherever it is started or resumed, and what lies there. Imports no jax."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jaxpo.config import Run
from jaxpo.config.places import is_path, relocated
from jaxpo.train.rundir import RunDir

END = 1 << 16
"""Bytes of each end of a file that tell it from another of its size."""


def located(run: Run) -> Run:
    """The run with absolute paths: a relative one means this directory, else the one that the run was begun in."""
    return absolute(run, directories(run))


def directories(run: Run) -> list[Path]:
    """What relative paths of a run may be relative to, in order."""
    home = RunDir(Path(run.output_dir) / run.name)
    began = home.beginning().get("directory") or _begun_in(home)
    return [Path.cwd(), *([Path(began)] if began else [])]


def _begun_in(home: RunDir) -> str | None:
    """Where an earlier version began a run, as far as its output directory tells: `DIRECTORY/runs/NAME`."""
    stored = home.stored_config() or {}
    own = Path(str(stored.get("output_dir", "")), str(stored.get("name", "")))
    if own.is_absolute() or home.path.parts[-len(own.parts) :] != own.parts:
        return None
    return str(Path(*home.path.parts[: -len(own.parts)]))


def absolute(run: Any, bases: Collection[Path]) -> Any:
    """A run whose paths do not depend on where it is resumed.

    Args:
      bases: directories that a relative path may be meant in; the first in which it exists, else the first of all.
    """
    stages = {str(getattr(stage, "name", "")) for stage in run.stages}

    def change(text: str) -> str:
        if not text or not is_path(text, stages):
            return text
        found = next((base / text for base in bases if (base / text).exists()), next(iter(bases)) / text)
        whole = os.path.abspath(found)
        # `..` after a symbolic link leads elsewhere than it reads.
        return str(found if found.exists() and not os.path.exists(whole) else whole)

    return relocated(run, change)


def identities(run: Run) -> dict[str, str | None]:
    """Path -> `identity` of what lies there, of what a run reads and does not compare at every start."""
    found: list[str] = []
    names = {stage.name for stage in run.stages}

    def note(text: str) -> str:
        found.append(text)
        return text

    relocated(run, note, compared=False)
    return {text: identity(Path(text)) for text in found if is_path(text, names) and Path(text).exists()}


def identity(path: Path) -> str | None:
    """Tells whether a file or folder is the one that it was: names, sizes and both ends of its files; None: not there.

    Of a folder with weights these alone count: a run directory that is read from may still be written to.
    """
    if path.is_file():
        files = [path]
    else:
        inside = sorted(p for p in path.rglob("*") if p.is_file())
        files = [p for p in inside if p.suffix == ".safetensors" or "model" in p.relative_to(path).parts] or inside
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        name = file.relative_to(path).as_posix() if file != path else ""
        digest.update(f"{name} {size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(END))
            stream.seek(max(0, size - END))
            digest.update(stream.read(END))
    return digest.hexdigest() if files else None
