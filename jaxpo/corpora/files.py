"""Writing a run's own data files: JSONL, hashed, complete or absent, reused when nothing changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxpo.config.json_text import parse
from jaxpo.config.places import is_name
from jaxpo.data.durable import publish
from jaxpo.data.rows.formats import file_hash
from jaxpo.errors import writing

MANIFEST = "corpus.json"


def corpus_hash(hashes: Mapping[str, str]) -> str:
    """One hash for several files: of their names and hashes, in name order; 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()[:16]


def reusable(directory: Path, inputs: str) -> dict[str, Any] | None:
    """The stored report if it was made from the same inputs and every file still has its hash."""
    try:
        report = parse((directory / MANIFEST).read_text(encoding="utf-8"))
        intact = report["inputs"] == inputs and all(
            is_name(name) and file_hash(directory / name) == digest for name, digest in report["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # An absent, foreign or half-written manifest means the same: build again.
        return None
    return report if intact else None


def write(
    directory: Path, files: Mapping[str, Iterable[Mapping[str, object]]], report: dict[str, Any]
) -> dict[str, Any]:
    """Write JSONL files and then the manifest; an interruption leaves no manifest, so the next call starts over."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MANIFEST).unlink(missing_ok=True)
    hashes = {}
    for name, rows in files.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        _replace(directory / name, text)
        hashes[name] = file_hash(directory / name)
    report = {"hash": corpus_hash(hashes), **report, "files": hashes}
    _replace(directory / MANIFEST, json.dumps(report, indent=1) + "\n")
    return report


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path, temporary):
        temporary.write_text(text, encoding="utf-8", newline="\n")
        publish(temporary, path)
