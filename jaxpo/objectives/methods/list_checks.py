"""Checks of the columns of scored lists that several listwise methods share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Ties = Literal["error", "order"]


def outside(columns: Mapping[str, Any], low: float, high: float) -> str | None:
    """ "scores lie between A and B" if any does not lie in [low, high], else None."""
    import numpy as np

    scores = np.asarray(columns.get("scores", ()), np.float64)
    scores = scores[~np.isnan(scores)]
    if scores.size == 0 or (scores.min() >= low and scores.max() <= high):
        return None
    return f"scores lie between {scores.min():g} and {scores.max():g}"


def tied_lists(columns: Mapping[str, Any]) -> tuple[int, int]:
    """Number of lists in which two scores are equal, and in which all are; `scores` is `[N, K]`, NaN = absent."""
    import numpy as np

    scores = np.asarray(columns.get("scores", ()), np.float64)
    if scores.ndim != 2 or scores.size == 0:
        return 0, 0
    ordered = np.sort(scores, axis=1)  # NaN last
    equal = ordered[:, 1:] == ordered[:, :-1]
    pairs = ~np.isnan(ordered[:, 1:])
    return int(np.any(equal, axis=1).sum()), int((np.all(equal | ~pairs, axis=1) & np.any(pairs, axis=1)).sum())


def tie_problem(name: str, what: str, columns: Mapping[str, Any]) -> list[str]:
    """One sentence if a list has equal scores."""
    tied, _ = tied_lists(columns)
    if not tied:
        return []
    return [
        f"{name}: {tied} list(s) hold responses with equal scores, but {what}; leave out tied responses "
        '(`jaxpo data construct pro_ranking`), or set ties to "order" to keep tied ones in their input order.'
    ]
