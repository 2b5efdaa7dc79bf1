"""Users as tokens, from a few of their pairs (PPD, arXiv 2501.06655): a frozen encoder of which nothing is learnt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxpo.config.image_data import ImageData, Users
from jaxpo.data.images.formats import FORMATS, TIE, UNLABELLED, format_of
from jaxpo.data.images.pixels import arrays_of
from jaxpo.data.rows.formats import read_rows
from jaxpo.errors import DataError

USERS = "users"
"""What a model says of itself that reads users: how they become tokens."""
SET_ASIDE = "set_aside_for_users"
"""The count of pairs that users are known by; 0 where rows bring the tokens of another encoder."""


def pooled(image: np.ndarray, cells: int) -> np.ndarray:
    """Means over a grid of cells, of pixels in [-1, 1]: `[h, w, C] -> [cells, cells, C]`, at most one per pixel."""
    values = image.astype(np.float32) / 127.5 - 1.0 if image.dtype == np.uint8 else image.astype(np.float32)
    rows, columns = (np.array_split(np.arange(n), min(cells, n)) for n in values.shape[:2])
    return np.stack([[values[np.ix_(r, c)].mean((0, 1)) for c in columns] for r in rows])


def embeddings(supports: Sequence[np.ndarray], users: Users) -> np.ndarray:
    """float32 `[users, M, U]`.

        u = P mean_k (chosen_k - rejected_k) / | mean_k (chosen_k - rejected_k) |,   P_ij ~ N(0, 1), fixed

    The unit length is ours: how far the pictures of a few pairs lie apart says nothing of a taste, and the branch reads
    vectors of one size whatever the images are. Pairs without a difference are u = 0, for whom the model is the base.

    Args:
      supports: of every user the pooled differences of the pairs that are set aside, `[k, cells, cells, C]`, or of
        whatever else is chosen, `[k, ...]`.

    Reference: Dang et al. 2025, arXiv:2501.06655, section 3.1, with this in the place of a vision-language model: any
    frozen encoder does.
    """
    means = np.stack([x.mean(0).ravel() for x in supports])
    means = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-6)
    matrix = np.random.default_rng(users.seed).standard_normal((means.shape[1], users.tokens * users.width))
    return (means @ matrix).reshape(-1, users.tokens, users.width).astype(np.float32)


def mixed(users: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """u = sum_j a_j u_j with sum_j a_j = 1, float32: between users, or between rewards. Exact in the model where M = 1.

    Args:
      users: `[K, M, U]`.
      weights: `[K]`, of any sum above 0.

    Reference: Dang et al. 2025, arXiv:2501.06655, section 4.3.
    """
    found: np.ndarray = np.average(users, axis=0, weights=weights).astype(np.float32)
    return found


def check_supports(supports: Mapping[str, Sequence[np.ndarray]], trained: Iterable[str], users: Users) -> None:
    """Every user of a training pair has been met often enough to be known.

    Raises:
      DataError: a user without as many pairs as are set aside and one more.
    """
    enough = set(trained)
    few = [name for name, pairs in supports.items() if len(pairs) < users.support or name not in enough]
    if few:
        raise DataError(
            f"{len(few)} users have no example left beside the {users.support} pairs that they are known by, "
            f"{few[0]!r} for one.",
            field="user",
            remedy=f"Give each at least {users.support + 1} pairs, lower images.users.support, or leave them out.",
        )


def user_of(file: Path, users: Users, size: int, channels: int) -> np.ndarray:
    """float32 `[M, U]`: whoever chose in the pairs of a file; pairs that nobody prefers say nothing of them.

    Raises:
      DataError: rows that are no pairs, an image that cannot be read, or no pair with a winner.
    """
    found = []
    for row in read_rows([file]):
        form = FORMATS[format_of(row)]
        if form.holds != "pairs":
            raise row.error("is no pair of images.", remedy="A user is known by pairs: chosen_image, rejected_image.")
        for item in form.read(row, ImageData()):
            if item.columns.get(TIE) or item.columns.get(UNLABELLED):
                continue
            chosen, rejected = (pooled(x, users.cells) for x in arrays_of(item, size, channels))
            found.append(chosen - rejected)
    if not found:
        raise DataError("holds no pair with a winner.", file=file, remedy="Give pairs in which the user chose.")
    whole: np.ndarray = embeddings([np.stack(found)], users)[0]
    return whole
