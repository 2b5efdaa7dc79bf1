"""Image files of a run's own data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from jaxpo.data.durable import publish
from jaxpo.errors import writing


def write_png(path: Path, pixels: np.ndarray) -> None:
    """A PNG of uint8 `[h, w, 3]`; complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path, temporary):
        Image.fromarray(pixels).save(temporary, "PNG")
        publish(temporary, path)
