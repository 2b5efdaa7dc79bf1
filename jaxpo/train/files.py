"""Small files written so that a reader, or a run killed at any moment, sees the old or the new content."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from jaxpo.errors import RunError


def write_atomic(path: Path, text: str) -> None:
    """Write to a temporary name, flush to disk, rename. RunError naming the file when that fails (disk full)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"{path} cannot be written: {error.strerror}. Free space or choose another --run.") from error


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON, atomically; non-finite numbers are refused."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Parsed content, or None when the file is absent. RunError when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON ({error}). Restore it, or start over with --restart.") from error
