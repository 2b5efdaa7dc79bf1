"""SLPO of ORION (arXiv:2511.22891): among the right answers to a question the shorter ones are worth more."""

from __future__ import annotations

from jaxtyping import Bool, Float

from jaxpo.losses.recurrence import A, namespace, under


def orion_rewards(
    lengths: Float[A, "... K"],
    correct: Bool[A, "... K"],
    *,
    alpha: float = 0.1,
    where: Bool[A, "... K"] | None = None,
) -> Float[A, "... K"]:
    """Correctness and a bonus by the place of an answer's length in the range of the right ones (C) of its group.

        r = 1 + alpha (L_max - L) / (L_max - L_min)    of a right answer, L_min and L_max over C
        r = 1 of right answers that are alone in C or all of one length;    0 of wrong ones

    Args:
      lengths: `[..., K]` L of the group's answers in tokens, numpy or jax.
      correct: `[..., K]` True where an answer is right.
      alpha: of the bonus.
      where: `[..., K]` False where there is no answer; there the arrays may hold anything.

    Returns:
      `[..., K]` of the kind given, in {0} and [1, 1 + alpha]; 0 where there is no answer. A constant of the update.

    Limits: plain correctness at alpha = 0. Affine maps a L + b with a > 0 and the lengths of wrong answers change
    nothing. Under a deviation of the group an all-right group has the same advantages for every alpha > 0.

    Reference: Tanmay et al. 2025, arXiv:2511.22891. Its alpha is not confirmed; wrong answers' 0 and R_corr = 1 are the
    consistent reading.
    """
    xp = namespace(lengths)
    right = xp.asarray(correct, dtype=bool)
    right = right if where is None else right & xp.asarray(where, dtype=bool)
    n = under(right, lengths)
    most = xp.max(xp.where(right, n, -xp.inf), axis=-1, keepdims=True)
    least = xp.min(xp.where(right, n, xp.inf), axis=-1, keepdims=True)
    apart = most > least
    span = xp.where(apart, most - least, 1)
    bonus = xp.where(apart & right, (xp.where(apart, most, 0) - n) / span, 0)
    return under(right, 1 + alpha * bonus)
