"""People who each like one thing of pictures, known by a few of their choices."""

from __future__ import annotations

import numpy as np

from jaxpo.config.image_data import Users
from jaxpo.corpora.scenes.pairs import Judged, pairs
from jaxpo.data.images.users import embeddings as vectors
from jaxpo.data.images.users import pooled

TASTES = {"bright": "brightness", "dark": "darkness", "left": "left", "right": "right"}
"""A taste and its reward."""
SHOTS = 4


def support(taste: str, seed: int, *, shots: int = SHOTS, size: int = 8) -> Judged:
    """The pairs that a person of a taste is known by; `seed` is the person.

    Where things are is said to those who like brightness or darkness, so that the pictures of a pair differ little in
    it, and not to those who like a side.
    """
    return pairs(shots, seed, TASTES[taste], size=size, unplaced=float(taste in ("left", "right")))


def embeddings(people: list[Judged], *, tokens: int = 8, width: int = 64) -> np.ndarray:
    """float32 `[U, tokens, width]`: people as a denoiser's attention to users reads them, as those of a data set are.

    See `jaxpo.data.images.users.embeddings`.
    """
    how = Users(tokens=tokens, width=width)
    apart = [
        np.stack([pooled(a, how.cells) - pooled(b, how.cells) for a, b in zip(x.chosen, x.rejected, strict=True)])
        for x in people
    ]
    return vectors(apart, how)
