"""What an encoder made of images, on disk: by their contents, in files that are whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (makes numpy know bfloat16 by name)
import numpy as np

from jaxpo.data.durable import crc32_of, intact, publish, seal
from jaxpo.data.media.decode import ImageLimits, digest
from jaxpo.data.tokens.media import Picture
from jaxpo.errors import writing

VALUES, INDEX = ".values", ".json"


def named(picture: Picture, limits: ImageLimits) -> str:
    """An image by its contents, wherever it lies.

    Raises:
      BadImage: its file cannot be read, where its digest is not known yet.
    """
    payload = picture.payload
    if isinstance(payload, bytes):
        own = hashlib.blake2b(payload, digest_size=8).hexdigest()
    else:
        own = (picture.digest or digest(payload, limits)).hex()
    return f"{own}-{picture.size}-{picture.height}x{picture.width}"


class Features:
    """Vectors `[n, D]` of images, read from where they lie.

    A part is a file of values and a file, written last, that says what is in it and its checksum. Parts whose
    checksum, size or key is another are not there: their images are missing again.

    Args:
      directory: of one key.
      key: of all that the vectors depend on beside an image's contents.
      width: D.
      dtype: of the values, by name.

    Attributes:
      damaged: files that were found not to be as they were written.
    """

    def __init__(self, directory: Path, key: str, width: int, dtype: str):
        self.directory, self.key, self.width, self.dtype = directory, key, width, np.dtype(dtype)
        self.damaged: list[str] = []
        self._at: dict[str, tuple[np.ndarray, int, int]] = {}
        for file in sorted(directory.glob(f"*{INDEX}")):
            if not self._open(file):
                self.damaged.append(file.name)

    def __contains__(self, name: object) -> bool:
        return name in self._at

    def __len__(self) -> int:
        return len(self._at)

    @property
    def bytes(self) -> int:
        """Of all values."""
        return sum(length for _, _, length in self._at.values()) * self.width * self.dtype.itemsize

    def get(self, name: str) -> np.ndarray | None:
        """`[n, D]` of an image, see `named`; None where it is not there."""
        if name not in self._at:
            return None
        values, start, length = self._at[name]
        return values[start : start + length]

    def add(self, found: Mapping[str, np.ndarray]) -> None:
        """Keep the vectors of some images; what is written is whole, whenever the process ends and whoever else writes.

        Raises:
          OSError: there is no room.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        part = hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]
        values, index = self.directory / f"{part}{VALUES}", self.directory / f"{part}{INDEX}"
        starts = np.cumsum([0, *map(len, found.values())]).tolist()
        whole = np.concatenate(list(found.values())).astype(self.dtype)
        _write(values, whole.tobytes())
        document = {
            "key": self.key,
            "crc32": crc32_of(values),
            "images": {name: [start, len(x)] for (name, x), start in zip(found.items(), starts[:-1], strict=True)},
        }
        _write(index, json.dumps(seal(document)).encode())
        self._open(index)

    def _open(self, index: Path) -> bool:
        """Whether a part is what was written; its images are there then."""
        values = index.with_suffix(VALUES)
        document = _read(index)
        if document.get("key") != self.key or not values.is_file() or crc32_of(values) != document["crc32"]:
            return False
        array = np.memmap(values, self.dtype, "r").reshape(-1, self.width)
        self._at |= {name: (array, start, length) for name, (start, length) in document["images"].items()}
        return True


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except ValueError:
        return {}
    return found if isinstance(found, dict) and intact(found) else {}


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path, temporary):
        temporary.write_bytes(content)
        publish(temporary, path)
