"""What a model draws from one noise before and after a stage, kept for the report. Imports no jax."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxpo.evaluate.visual_questions import SHOWN, SIDE
from jaxpo.train.files import write_json

if TYPE_CHECKING:
    from jaxpo.evaluate.context import ProbeContext

DRAWN = "drawn"
"""The rows of a grid in its file, which lies among those of questions about images."""
MOST = 12
"""Images of a row."""


def keep_drawn(
    context: ProbeContext, name: str, captions: Sequence[str], rows: Mapping[str, Sequence[np.ndarray] | np.ndarray]
) -> None:
    """Write down rows of images, by who drew them; the images of a column have one caption and one noise.

    Args:
      name: of the grid; a run has one of it after each stage.
      rows: name -> images `[H, W, C]` in [-1, 1], of which the report shows the first `MOST`. Images of latents, whose
        channels are not three, are left out: nobody can look at them.
    """
    import jax

    first = next(iter(rows.values()))[0]
    if jax.process_index() != 0 or first.shape[-1] != 3:
        return
    told = [{"label": label, "image": _row(images[:MOST])} for label, images in rows.items()]
    folder = context.run_dir / SHOWN
    folder.mkdir(exist_ok=True)
    document = {"stage": context.stage, "name": name, DRAWN: told, "captions": list(captions[:MOST])}
    write_json(folder / f"{context.stage}-{name}.json", document)


def _row(images: Sequence[np.ndarray] | np.ndarray) -> str:
    """A `data:` URL of images side by side, small ones enlarged pixel by pixel."""
    from PIL import Image

    from jaxpo.sampling.images import as_bytes, grid_of

    side = max(images[0].shape[:2])
    whole = grid_of([as_bytes(x) for x in images], len(images), scale=max(SIDE // side // 2, 1), gap=2)
    out = io.BytesIO()
    Image.fromarray(whole).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
