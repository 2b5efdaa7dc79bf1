"""HAPO (arXiv:2505.11225): right answers are paid for being shorter than the shortest one that was ever right."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from jaxpo.losses.numerics import check_choice
from jaxpo.losses.recurrence import A, namespace, under

Form = Literal["cosine", "linear"]


def hapo_rewards(
    lengths: Float[A, "..."],
    correct: Bool[A, "..."],
    history: Float[A, "..."],
    *,
    weight: float = 1.0,
    form: Form = "cosine",
    floor: float = -0.7,
    tolerance: float = 0.1,
    where: Bool[A, "..."] | None = None,
) -> Float[A, "..."]:
    """Correctness and a length reward against the history h of the problem.

        cosine: f = cos(min(pi/2 L/h, pi));    right: max(f, floor), wrong: min(f, 0)
        linear: right: 1 - L/h for L < h, 0 up to (1 + tolerance) h, then max(-(L - (1 + tolerance) h)/h, floor)
                wrong: 0 up to (1 + tolerance) h, then max(-(L - (1 + tolerance) h)/h, -1)
        r = correct + weight * (that, or 0 without a history)

    Args:
      lengths: `[...]` L in tokens, numpy or jax.
      correct: `[...]` True where the answer is right.
      history: `[...]` h as it was BEFORE these answers; NaN where the problem has none.
      weight: of the length reward; at most 1 keeps every right answer above every wrong one.
      form: see above.
      floor: the least length reward of a right answer.
      tolerance: share of h that costs nothing, of the linear form.
      where: `[...]` False where there is no answer; there the arrays may hold anything.

    Returns:
      `[...]` of the kind given, 0 where there is no answer. A constant of the update.

    Limits: plain correctness at weight = 0 and without a history. Lengths and history may have any unit. Kinks at
    L = h of wrong answers and at the floors.

    Reference: Huang et al. 2025, arXiv:2505.11225; forms and floors are those of its code.
    """
    check_choice("form", form, ("cosine", "linear"))
    xp = namespace(lengths)
    here = xp.ones(lengths.shape, dtype=bool) if where is None else xp.asarray(where, dtype=bool)
    known = here & (history > 0)
    ratio = under(known, lengths) / xp.where(known, history, 1)
    right = here & xp.asarray(correct, dtype=bool)
    if form == "cosine":
        f = xp.cos(xp.minimum(0.5 * math.pi * ratio, math.pi))
        reward = xp.where(right, xp.maximum(f, floor), xp.minimum(f, 0))
    else:
        over = -xp.maximum(ratio - (1 + tolerance), 0)
        reward = xp.where(right, xp.where(ratio < 1, 1 - ratio, xp.maximum(over, floor)), xp.maximum(over, -1))
    return under(here, xp.where(right, 1 + ratio * 0, 0) + weight * xp.where(known, reward, 0))


def hapo_history(
    before: tuple[float, int] | None, lengths: np.ndarray, correct: np.ndarray, *, mode: Literal["min", "mean"] = "min"
) -> tuple[float, int] | None:
    """The history of a problem after some more answers: of its right answers the shortest, or their mean.

    Args:
      before: (h, how many right answers it comes from); None = none yet.
      lengths: `[n]` tokens.
      correct: `[n]` True where an answer is right; the others change nothing.
      mode: "min" or "mean".

    Returns:
      The same of all of them; None if there was no right answer yet.

    Reference: Huang et al. 2025, arXiv:2505.11225, and its code.
    """
    check_choice("mode", mode, ("min", "mean"))
    right = np.asarray(lengths, float)[np.asarray(correct, bool)]
    if not right.size:
        return before
    known, count = before or (0.0, 0)
    if mode == "mean":
        return float((known * count + right.sum()) / (count + right.size)), count + right.size
    return float(min(right.min(), known) if count else right.min()), count + right.size


def repeated_tokens(tokens: np.ndarray, n: int = 3) -> float:
    """Share of an answer's tokens that lie in an n-gram that was there before.

    Args:
      tokens: `[T]` ids.
      n: at least 1.

    Returns:
      In [0, 1]; 0 of an answer of fewer than n tokens.

    Reference: the repetition term in the code of Huang et al. 2025, arXiv:2505.11225.
    """
    seen: set[tuple[int, ...]] = set()
    repeats = np.zeros(len(tokens), bool)
    ids = np.asarray(tokens).tolist()
    for i in range(len(ids) - n + 1):
        gram = tuple(ids[i : i + n])
        repeats[i : i + n] |= gram in seen
        seen.add(gram)
    return float(repeats.mean()) if len(ids) else 0.0
