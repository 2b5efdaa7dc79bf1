"""Does the policy itself rank the preferred response first, could it, and what would it take (arXiv:2405.19534)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, per_token, softplus


def ranking_accuracy(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    vote_share: Float[Array, "B"] | None = None,
    *,
    tie_epsilon: float = 0.01,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """R: 1 where the policy gives the preferred response at least the likelihood of the other, else 0.

        R = 1[pi(y_w) >= pi(y_l)]
        with a vote share a:  1[pi(y_w) > pi(y_l)] if a > 1/2,  1[pi(y_w) < pi(y_l)] if a < 1/2,
                              1[|pi(y_w) - pi(y_l)| < epsilon] if a = 1/2

    Not the reward accuracy that trainers log, 1[P_w - R_w > P_l - R_l], which a policy can have without ever ranking a
    response first.

    Args:
      chosen_logps: `[B]` log-likelihood of the chosen response, in nats: a sum over its tokens gives R, a mean per
        token R~ (`ranking_accuracy_norm`).
      rejected_logps: `[B]` of the rejected response.
      vote_share: `[B]` share of raters who prefer the chosen response; None = all.
      tie_epsilon: how close the two probabilities of a tied pair must be. On sums any two long responses are.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 of 0 and 1; 0 where there is no pair. The paper's main numbers leave ties out.

    Reference: Chen et al. 2024, arXiv:2405.19534, the definition of ranking accuracy and appendix C (ties).
    """
    p_w, p_l = clean(where, chosen_logps, rejected_logps)
    right = p_w >= p_l
    if vote_share is not None:
        (a,) = clean(where, vote_share)
        tied = jnp.abs(jnp.exp(p_w) - jnp.exp(p_l)) < tie_epsilon
        right = jnp.where(a == 0.5, tied, jnp.where(a > 0.5, p_w > p_l, p_w < p_l))
    return keep(where, right.astype(jnp.float32))


def ranking_accuracy_norm(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    vote_share: Float[Array, "B"] | None = None,
    *,
    tie_epsilon: float = 0.01,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """R~: as `ranking_accuracy` on `pi^(1/|y|)`, the likelihood per token; lengths `[B]` in tokens."""
    p_w, p_l, n_w, n_l = clean(where, chosen_logps, rejected_logps, chosen_lengths, rejected_lengths)
    return ranking_accuracy(per_token(p_w, n_w), per_token(p_l, n_l), vote_share, tie_epsilon=tie_epsilon, where=where)


def ranking_accuracy_list(
    logps: Float[Array, "B K"], labels: Float[Array, "B K"], where: Bool[Array, "B K"]
) -> Float[Array, "B"]:
    """1 where the likelihoods order the whole list as the labels do, else 0.

        R = 1[pi(y_i) >= pi(y_j) for all i, j with label_i > label_j]

    Args:
      logps: `[B, K]` log-likelihoods, sums or means per token.
      labels: `[B, K]` larger is better; equal labels ask for nothing.
      where: `[B, K]` False where the list has no such response.

    Returns:
      `[B]` float32 of 0 and 1. A list without two different labels counts as 1: leave it out of a mean.

    Limits: K = 2 is `ranking_accuracy`. The authors' code also lets ratios within 5% pass as ties; this does not.

    Reference: Chen et al. 2024, arXiv:2405.19534, the definition of ranking accuracy.
    """
    p, label = clean(where, logps, labels)
    asked = (label[:, :, None] > label[:, None, :]) & where[:, :, None] & where[:, None, :]
    return jnp.all(~asked | (p[:, :, None] >= p[:, None, :]), axis=(1, 2)).astype(jnp.float32)


def idealised_log_ratio(
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    vote_share: Float[Array, "B"],
    *,
    beta: float = 0.1,
    epsilon: float = 0.001,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Log-ratio of the two responses under the exact optimum of DPO, and of RLHF.

        log pi*(y_w)/pi*(y_l) = R_w - R_l + (1/beta) log(a / (1 - a))

    Args:
      ref_chosen_logps: `[B]` R_w, sum of the chosen response's log-probs under the reference, in nats. Means per token
        give the paper's length-normalised R~*.
      ref_rejected_logps: `[B]` R_l.
      vote_share: `[B]` a, share of raters who prefer the chosen response.
      beta: strength of the tie to the reference.
      epsilon: replaces a share of zero, so that unanimous votes stay finite: a = 1 gives log(1 / epsilon).
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 in nats, 0 where there is no pair.

    Limits: beta -> infinity is the reference's ratio, beta -> 0 has the sign of the majority. It is the stationary
    point of a softplus(-h) + (1 - a) softplus(h).

    Reference: Chen et al. 2024, arXiv:2405.19534, the theorem on the optimum of DPO and RLHF. The authors' code divides
    the two log-likelihoods where this formula subtracts them.
    """
    r_w, r_l, a = clean(where, ref_chosen_logps, ref_rejected_logps, vote_share)
    share = lambda x: jnp.log(jnp.where(x <= 0, epsilon, x))  # noqa: E731
    return keep(where, (r_w - r_l) + (share(a) - share(1.0 - a)) / beta)


def idealised_ranking_accuracy(
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    vote_share: Float[Array, "B"],
    *,
    beta: float = 0.1,
    epsilon: float = 0.001,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """R*: 1 where the exact optimum of DPO ranks the pair as the majority does, else 0.

        R* = 1[log pi*(y_w)/pi*(y_l) > 0]   (< 0 where the majority is against the chosen response)

    The mean of R* minus the mean of R is the paper's alignment gap: what training left on the table.

    Args: as `idealised_log_ratio`.

    Returns:
      `[B]` float32 of 0 and 1; 0 where there is no pair and for tied votes, which belong into no mean.

    Limits: beta -> infinity gives the reference's own ranking accuracy, beta -> 0 gives 1.

    Reference: Chen et al. 2024, arXiv:2405.19534, the definition of idealised ranking accuracy.
    """
    ratio = idealised_log_ratio(
        ref_chosen_logps, ref_rejected_logps, vote_share, beta=beta, epsilon=epsilon, where=where
    )
    (a,) = clean(where, vote_share)
    right = jnp.where(a > 0.5, ratio > 0, (a < 0.5) & (ratio < 0))
    return keep(where, right.astype(jnp.float32))


def difficulty(
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """`c = R_l - R_w`: by how many nats the reference prefers the rejected response. Rank data by it, easiest first.

    Reference: Chen et al. 2024, arXiv:2405.19534, the theorem on the difficulty of a pair.
    """
    r_w, r_l = clean(where, ref_chosen_logps, ref_rejected_logps)
    return keep(where, r_l - r_w)


def dpo_threshold(c: Float[Array, "B"], *, beta: float = 0.1) -> Float[Array, "B"]:
    """`softplus(-beta c)`: a pair of difficulty c is ranked correctly exactly if its DPO loss is not above this.

    log 2 at c = 0, and about e^(-beta c) for pairs that the reference ranks wrongly: they need a loss exponentially
    small in c. A pair that the reference ranks correctly stays so while its loss is below log 2.

    Reference: Chen et al. 2024, arXiv:2405.19534, the theorem on the difficulty of a pair and the proposition after it.
    """
    (x,) = clean(None, c)
    return softplus(-beta * x)


def ipo_threshold(c: Float[Array, "B"], *, tau: float = 0.1) -> Float[Array, "B"]:
    """`(1/(2 tau) - c)^2`: a pair of difficulty c is ranked correctly if its IPO loss on sums is not above this.

    -infinity where c > 1/(2 tau): there even a loss of zero means the wrong ranking; kink at the end, where the
    slope is 0. Sufficient, not necessary: a margin far beyond the target has a large loss and the right ranking.

    Reference: Chen et al. 2024, arXiv:2405.19534, appendix A, the analogue for IPO.
    """
    (x,) = clean(None, c)
    slack = 1.0 / (2.0 * tau) - x
    return jnp.where(slack >= 0, jnp.square(slack), -jnp.inf)


def dpo_gamma(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta: float = 0.1,
    gamma: float = 1.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """DPO with the reference's log-ratio scaled by gamma.

        L = softplus(-beta [(P_w - P_l) - gamma (R_w - R_l)])

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      ref_chosen_logps: `[B]` R_w, the same under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      beta: strength of the tie to the reference.
      gamma: how much of the reference's own preference the policy may keep (the paper sweeps 0, 0.25, ..., 2).
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: gamma = 1 is DPO; gamma = 0 has no reference and its loss is below log 2 exactly where the policy ranks the
    pair correctly.

    Reference: Chen et al. 2024, arXiv:2405.19534, the loss L_DPO^gamma of its last experiment.
    """
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return keep(where, softplus(-beta * ((p_w - p_l) - gamma * (r_w - r_l))))
