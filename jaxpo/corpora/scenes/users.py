"""People who each like one thing of pictures, known by a few of their choices."""

from __future__ import annotations

import numpy as np

from jaxpo.corpora.scenes.pairs import Judged, pairs

TASTES = {"bright": "brightness", "dark": "darkness", "left": "left", "right": "right"}
"""A taste and its reward."""
SHOTS = 4


def support(taste: str, seed: int, *, shots: int = SHOTS, size: int = 8) -> Judged:
    """The pairs that a person of a taste is known by; `seed` is the person. Where things are is not said."""
    return pairs(shots, seed, TASTES[taste], size=size, unplaced=1.0)


def embeddings(judged: list[Judged], *, tokens: int = 8, width: int = 64) -> np.ndarray:
    """Vectors of users for the denoiser's user branch: float32 `[U, tokens, width]`, of unit mean square at most.

    The mean of chosen minus rejected over a user's pairs, projected by a fixed random matrix: a frozen encoder of which
    nothing is learnt.
    """
    means = np.stack([np.mean(x.chosen - x.rejected, axis=0).ravel() for x in judged])
    means = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-6)
    projection = np.random.default_rng(0).standard_normal((means.shape[1], tokens * width))
    return (means @ projection).reshape(-1, tokens, width).astype(np.float32)
