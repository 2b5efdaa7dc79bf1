"""Small files written so that a reader, or a run killed at any moment, sees the old or the new content."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from jaxpo.config.json_text import parse
from jaxpo.errors import RunError, writing


def write_atomic(path: Path, text: str) -> None:
    """Write to a temporary name, flush to disk, rename. OSError naming the file when that fails (disk full)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path, temporary), temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
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
        raise RunError(f"{path} is not valid JSON ({error}). Restore it, or start over with --restart.") from error
