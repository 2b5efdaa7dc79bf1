"""Append-only JSONL files: what a long construction has found so far, safe against being killed at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxpo.data.rows.json_lines import whole_lines
from jaxpo.errors import DataError

CHECKSUM = "crc32"


def digest(*values: Any) -> str:
    """16 hexadecimal digits of the values' JSON; equal values have equal digests in any process."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Ledger:
    """Records under one setting. The file's name holds the setting's digest, so other settings never meet its records.

    Args:
      folder: made when the first record is written.
      kind: what is recorded; the file is `KIND-DIGEST.jsonl`.
      settings: everything the records depend on; the file's first line.
    """

    def __init__(self, folder: Path, kind: str, settings: Mapping[str, Any]):
        self.settings = dict(settings)
        self.path = folder / f"{kind}-{digest(self.settings)[:8]}.jsonl"

    def read(self) -> list[dict[str, Any]]:
        """All complete records; the piece of a line that a killed process left is cut off.

        Raises:
          DataError: a complete line that is not as it was written; names file and line.
        """
        records = [self._parse(number, line) for number, line in enumerate(whole_lines(self.path), start=1)]
        # One begun by an earlier version has lines without checksums, which are believed.
        sums = bool(records) and CHECKSUM in records[0]
        for number, record in enumerate(records, start=1):
            if (sums or CHECKSUM in record) and record != _checked(record):
                raise self._damaged(number)
        return [{name: value for name, value in record.items() if name != CHECKSUM} for record in records[1:]]

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write records in one piece, each with its checksum; from then on they outlive the process and a power cut."""
        new = not self.path.exists() or not self.path.stat().st_size
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [*([{"settings": self.settings}] if new else []), *records]
        with self.path.open("ab") as file:
            file.write(
                "".join(json.dumps(_checked(x), ensure_ascii=False, allow_nan=False) + "\n" for x in lines).encode()
            )
            file.flush()
            os.fsync(file.fileno())

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise self._damaged(number)
        return record

    def _damaged(self, number: int) -> DataError:
        remedy = "Remove the line and run again: what it held is asked for again."
        return DataError("is not as it was written.", file=self.path, row=number, remedy=remedy)


class Unkept(Ledger):
    """Records that nobody asks for again."""

    def __init__(self) -> None:
        super().__init__(Path(), "unkept", {})

    def read(self) -> list[dict[str, Any]]:
        return []

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        return


def _checked(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the checksum of its JSON."""
    content = {name: value for name, value in record.items() if name != CHECKSUM}
    text = json.dumps(content, ensure_ascii=False)
    return {**content, CHECKSUM: f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"}
