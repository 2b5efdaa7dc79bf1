"""MiniLLM (arXiv:2306.08543): reverse KL to a teacher by policy gradient.

Its single-step term is `reverse_kl` of `jaxpo.losses.distillation`, averaged over tokens; on-policy GKD
(arXiv:2306.13649) is `generalized_jsd` of the same file on the student's own answers.
"""

from __future__ import annotations

from jaxtyping import Bool, Float

from jaxpo.losses.recurrence import A, returns_to_go, under


def minillm_advantages(
    logps: Float[A, "... T"],
    teacher_logps: Float[A, "... T"],
    mask: Bool[A, "... T"],
    *,
    gamma: float = 0.0,
    length_normalization: bool = True,
) -> Float[A, "... T"]:
    """Advantages of tokens from the teacher's log-ratios of what follows; they enter a clipped policy gradient term.

        A_t = sum_(i >= t) gamma^(i - t) (log T_i - log S_i),    / sum_(i >= t) gamma^(i - t) with length normalisation

    Args:
      logps: `[..., T]` log S of the student that wrote the tokens, nats; numpy or jax.
      teacher_logps: `[..., T]` log T of the teacher.
      mask: `[..., T]` True on the tokens that the student wrote; the others may hold anything, NaN included.
      gamma: discount in [0, 1]; 0 is the log-ratio of the token itself.
      length_normalization: divide by the sum of the discounts.

    Returns:
      `[..., T]` of the kind given, 0 outside the mask. A constant of the update.

    Limits: 0 where teacher and student agree. TRL's former trainer has gamma^i for gamma^(i - t): the same with length
    normalisation, or at gamma 0 and 1.

    Reference: Gu et al. 2023, arXiv:2306.08543, section 2.2.
    """
    total = returns_to_go(under(mask, teacher_logps) - under(mask, logps), mask, gamma=gamma)
    if not length_normalization:
        return total
    one = under(mask, total * 0 + 1)
    return total / (returns_to_go(one, mask, gamma=gamma) + (1 - one))
