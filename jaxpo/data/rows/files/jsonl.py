"""JSON Lines (`.jsonl`, `.ndjson`): one object per line; blank lines are no rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxpo.data.rows.files.encoding import MARK, characters
from jaxpo.data.rows.files.json_text import parse
from jaxpo.errors import DataError


def read(file: Path) -> Iterator[tuple[int, Any]]:
    """The number of every line, and its value: the error of one that cannot be parsed, after which reading goes on."""
    number = 0
    with characters(file, guess=json.detect_encoding) as lines:
        for line in lines:
            number += 1
            # Files that were joined have the mark of each of them.
            line = line.removeprefix(MARK)
            if not line or line.isspace():
                continue
            try:
                value = parse(line, file, number)
            except DataError as error:
                value = error
            # A line may be as long as memory allows; whoever takes the value has no use for a second copy.
            line = ""
            yield number, value
