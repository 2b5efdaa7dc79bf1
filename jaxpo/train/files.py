"""Small files written so that a reader, or a run killed at any moment, sees the old or the new content."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from jaxpo.config.json_text import parse
from jaxpo.data.durable import publish
from jaxpo.errors import RunError, writing

LEFT_FILE = re.compile(r"\..+\.tmp|plan-.+\.\d+\.\d+\.tmp|meta\.json\.tmp|\.part-\d+\.\d+|\.meta\.json\.\d+")
"""Temporary names of files: those of today, and those that earlier versions used."""
LEFT_FOLDER = re.compile(r"\.[0-9a-f]{16}\..+|\..+\.partial")
"""Temporary names of folders: data that were being tokenised, models that were being exported."""


def write_atomic(path: Path, text: str) -> None:
    """Write to a temporary name, flush to disk, rename. OSError naming the file when that fails (disk full)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path, temporary):
            temporary.write_text(text, encoding="utf-8")
            publish(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON, atomically; non-finite numbers are refused."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Parsed content, or None when the file is absent. RunError when it is not JSON."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise RunError(
            f"{path} is not valid JSON ({error}). Restore it from a copy, and the run goes on; --restart keeps all of "
            "it aside and starts over."
        ) from error


def read_derived(path: Path, *, primary: bool = True) -> tuple[dict[str, Any], Path | None]:
    """A document of results, on which a run does not depend; `{}` where there is none.

    Args:
      primary: False on all processes but one, which alone moves anything: it may have written a new one meanwhile.

    Returns:
      The document, and where one lies now that was no JSON: it is kept aside, and what it held is missing.
    """
    try:
        found = read_json(path)
        if found is None or isinstance(found, dict):
            return found or {}, None
    except RunError:
        pass  # the same as JSON of another form
    if not primary:
        return {}, None
    moved = path.with_name(f"{path.name}.damaged")
    path.replace(moved)
    return {}, moved


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left unfinished in a run's directory; whoever holds its lock is the only writer.

    Checkpoints and models have their own leftovers, which `CheckpointStore` removes.
    """
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in ("checkpoints", "model")]
        for name in files:
            if LEFT_FILE.fullmatch(name):
                Path(root, name).unlink(missing_ok=True)
        for name in [name for name in folders if LEFT_FOLDER.fullmatch(name)]:
            shutil.rmtree(Path(root, name))
            folders.remove(name)
