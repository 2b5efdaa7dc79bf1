"""JSON lines on disk: complete or absent when they are written at once, whole lines when they grow."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from jaxpo.data.durable import publish
from jaxpo.errors import ConfigError, DataError, writing


@contextlib.contextmanager
def pending(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file under a temporary name that gets its own when the block ends well."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with writing(path, temporary), temporary.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        publish(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_output(out: Path, *beside: Path) -> None:
    """ConfigError for an output that is no JSONL file, exists already (or a file beside it does), or has no folder."""
    if out.suffix != ".jsonl":
        raise ConfigError(f"the output {str(out)!r} must be a .jsonl file.")
    for path in (out, *beside):
        if path.exists():
            raise ConfigError(f"{path} exists already; remove it or name another file.")
    if not out.parent.is_dir():
        raise ConfigError(f"there is no folder {out.parent} to write {out.name} to.")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """One JSON object per line, complete or absent; returns their number.

    Raises:
      DataError: a value that JSON cannot hold.
    """
    n = 0
    with pending(path) as file:
        for n, row in enumerate(rows, start=1):
            file.write(as_json(row, n) + "\n")
    return n


def as_json(row: dict[str, Any], number: int) -> str:
    """One line; DataError for a number that is not finite, or a value that is none of JSON's, such as an image's."""
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        what = (
            "a number that is not finite" if isinstance(error, ValueError) else f"what JSON has no form for ({error})"
        )
        shown = json.dumps(row, ensure_ascii=False, default=repr)[:300]
        raise DataError(
            f"new row {number} holds {what}: {shown}.", remedy="Correct the row it is made from."
        ) from error


def whole_lines(path: Path, *, repair: bool = True) -> list[bytes]:
    """The complete lines of a file that only grows; none where there is no file.

    Args:
      repair: cut off the piece of a line that a killed process left.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if repair and len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    # By bytes: JSON text may hold characters that end a line elsewhere.
    return whole.split(b"\n")[:-1]
