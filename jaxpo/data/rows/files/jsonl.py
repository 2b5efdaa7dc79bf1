"""JSON Lines (`.jsonl`, `.ndjson`): one object per line; blank lines are no rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxpo.data.rows.files.encoding import MARK, characters
from jaxpo.data.rows.files.json_text import parse


def read(file: Path) -> Iterator[tuple[int, Any]]:
    """The number of every line, and its value."""
    with characters(file, guess=json.detect_encoding) as lines:
        for number, line in enumerate(lines, start=1):
            # Files that were joined have the mark of each of them.
            text = line.strip().removeprefix(MARK)
            if text:
                yield number, parse(text, file, number)
