"""People who each like one thing of pictures, known by a few of their choices."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxpo.corpora.scenes.pairs import Judged, pairs
from jaxpo.diffusion.users import few_shot, projection

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
    """Vectors of people for a denoiser's attention to users: float32 `[U, tokens, width]`, by one fixed projection.

    See `jaxpo.diffusion.users.few_shot`; made so long that an entry has the mean square 1, as states of a text have.
    """
    chosen: Any
    rejected: Any
    chosen, rejected = (np.stack([getattr(x, side) for x in people]) for side in ("chosen", "rejected"))
    project = projection(jax.random.key(0), chosen[0, 0].size, tokens, width)
    found = np.asarray(few_shot(chosen, rejected, project))
    return found / np.maximum(np.sqrt(np.mean(found**2, axis=(1, 2), keepdims=True)), 1e-6)
