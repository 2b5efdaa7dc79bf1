"""Listwise preference optimisation through learning to rank (arXiv:2402.01878)."""

from __future__ import annotations

import math

from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean
from jaxpo.losses.ranking import lambda_rank


def lipo(
    logps: Float[Array, "B K"],
    ref_logps: Float[Array, "B K"],
    labels: Float[Array, "B K"],
    where: Bool[Array, "B K"],
    *,
    beta: float = 0.05,
    gain: bool = True,
    discount: bool = True,
    log_base: float = math.e,
    times_list_size: bool = False,
) -> Float[Array, "B"]:
    """LiPO-lambda: logistic loss of every ordered pair of a list, weighted by the change of DCG when the two swap.

        s_i = beta (P_i - R_i),    L = sum_{psi_i > psi_j} D_ij softplus(-(s_i - s_j))
        D_ij = |2^psi_i - 2^psi_j| |1/log(1 + tau_i) - 1/log(1 + tau_j)|,    tau = 1-based rank by descending s

    The six ranking losses that the paper compares it with take the same scores (`implicit_scores`): `point_mse`,
    `point_sigmoid`, `pair_logistic`, `pair_hinge`, `list_mle`, `list_softmax`.

    Args:
      logps: `[B, K]` P, log-probability of each response, summed over its tokens, in nats.
      ref_logps: `[B, K]` R under the frozen reference.
      labels: `[B, K]` psi in [0, 1], larger is better (win probability against the list). Equal labels form no pair.
      where: `[B, K]` False where the list has no such response.
      beta: score scale.
      gain: False replaces |G_i - G_j| by 1.
      discount: False replaces |1/D_i - 1/D_j| by 1.
      log_base: of the discount's logarithm. The paper leaves it open (a constant factor); Rax uses 2.
      times_list_size: multiply D by the number of responses of the list. Recent versions of Rax multiply by the length
        of the array, absent entries included: the same for lists without padding alone.

    Returns:
      `[B]` float32, summed over each list's pairs. The paper takes the mean over lists; Rax divides by all pairs of the
      batch (`label_pairs`).

    Limits: gain = discount = False is the pairwise logistic loss, and K = 2 then is DPO. Two responses labelled 1 and 0
    give DPO times 1/log 2 - 1/log 3. D takes no gradient. Kink at equal scores, as at policy = reference: D is that of
    their input order. All labels equal, or fewer than two responses: 0.

    Reference: Liu et al. 2024, arXiv:2402.01878v3, the lambda loss of section 4 (Eq. 5 to 11).
    """
    scores = implicit_scores(logps, ref_logps, where, beta=beta)
    return lambda_rank(
        scores, labels, where, gain=gain, discount=discount, log_base=log_base, times_list_size=times_list_size
    )


def implicit_scores(
    logps: Float[Array, "B K"], ref_logps: Float[Array, "B K"], where: Bool[Array, "B K"], *, beta: float = 0.05
) -> Float[Array, "B K"]:
    """`s = beta (P - R)` of every response, 0 where there is none."""
    p, r = clean(where, logps, ref_logps)
    return beta * (p - r)
