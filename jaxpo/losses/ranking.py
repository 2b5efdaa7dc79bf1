"""Ranking losses of a list of scores, as in learning to rank: pointwise, pairwise, listwise, and DCG-weighted pairs.

They score any list: LiPO's implicit rewards (`lipo.py`), the trajectories of a preference tree (`tpo_tree.py`).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpo.losses.numerics import clean, softplus


def point_mse(scores: Float[Array, "B K"], labels: Float[Array, "B K"], where: Bool[Array, "B K"]) -> Float[Array, "B"]:
    """Pointwise squared error: `L = sum_k (psi_k - s_k)^2`.

    Args:
      scores: `[B, K]` s.
      labels: `[B, K]` psi.
      where: `[B, K]` False where the list has no such response.

    Returns:
      `[B]` float32, summed over each list.

    Limits: 0 iff every score is its label, so the scale of s matters, unlike in every pairwise and listwise loss.

    Reference: Liu et al. 2024, arXiv:2402.01878v3, one of Eq. 5 to 11; Rax's `pointwise_mse_loss`.
    """
    s, psi = clean(where, scores, labels)
    return jnp.sum(jnp.square(psi - s), axis=1)


def point_sigmoid(
    scores: Float[Array, "B K"], labels: Float[Array, "B K"], where: Bool[Array, "B K"]
) -> Float[Array, "B"]:
    """Pointwise cross-entropy: `L = sum_k psi_k softplus(-s_k) + (1 - psi_k) softplus(s_k)`.

    Args:
      scores: `[B, K]` s.
      labels: `[B, K]` psi in [0, 1].
      where: `[B, K]` False where the list has no such response.

    Returns:
      `[B]` float32, summed over each list.

    Limits: dL/ds_k = sigmoid(s_k) - psi_k, 0 where the score is the logit of the label.

    Reference: Liu et al. 2024, arXiv:2402.01878v3, one of Eq. 5 to 11; Rax's `pointwise_sigmoid_loss`.
    """
    s, psi = clean(where, scores, labels)
    return jnp.sum(jnp.where(where, psi * softplus(-s) + (1.0 - psi) * softplus(s), 0.0), axis=1)


def pair_logistic(
    scores: Float[Array, "B K"], labels: Float[Array, "B K"], where: Bool[Array, "B K"]
) -> Float[Array, "B"]:
    """Logistic loss of every ordered pair: `L = sum_{psi_i > psi_j} softplus(-(s_i - s_j))`.

    Args:
      scores: `[B, K]` s.
      labels: `[B, K]` psi; only their order counts, and equal ones form no pair.
      where: `[B, K]` False where the list has no such response.

    Returns:
      `[B]` float32, summed over each list's pairs (`label_pairs` counts them).

    Limits: K = 2 is the Bradley-Terry loss, and DPO on implicit rewards.

    Reference: Liu et al. 2024, arXiv:2402.01878v3, one of Eq. 5 to 11 (there DPO_BT); Rax's `pairwise_logistic_loss`.
    """
    return lambda_rank(scores, labels, where, gain=False, discount=False)


def pair_hinge(
    scores: Float[Array, "B K"], labels: Float[Array, "B K"], where: Bool[Array, "B K"]
) -> Float[Array, "B"]:
    """Hinge loss of every ordered pair: `L = sum_{psi_i > psi_j} max(0, 1 - (s_i - s_j))`.

    Args and returns as `pair_logistic`.

    Limits: K = 2 on implicit rewards is RSO's hinge-norm (`hinge`); 0 once every pair is apart by 1. Kink at
    s_i - s_j = 1: the derivative there is 0.

    Reference: Liu et al. 2024, arXiv:2402.01878v3, one of Eq. 5 to 11 (there SLiC-norm); Rax's `pairwise_hinge_loss`.
    """
    s, psi = clean(where, scores, labels)
    pair = ordered(psi, where)
    return jnp.sum(jnp.where(pair, jax.nn.relu(1.0 - _differences(s)), 0.0), axis=(1, 2))


def list_mle(
    scores: Float[Array, "B K"],
    labels: Float[Array, "B K"],
    where: Bool[Array, "B K"],
    *,
    top_k: int | None = None,
) -> Float[Array, "B"]:
    """Negative log-likelihood of the labels' order under Plackett-Luce.

        L = sum_{k <= top} [ logsumexp_{j >= k} s_(j) - s_(k) ],    (1), (2), ... by descending label

    Args:
      scores: `[B, K]` s.
      labels: `[B, K]` psi; only their order counts. Equal ones keep their input order: Plackett-Luce has no ties.
      where: `[B, K]` False where the list has no such response.
      top_k: only which responses are the best k, and in which order, is learnt; those after them are an unordered rest.
        None = the whole order.

    Returns:
      `[B]` float32, summed over each list's stages.

    Limits: K = 2 is the Bradley-Terry loss, of any K the K (K - 1) / 2 pairs are another one (`pair_logistic`). Equal
    scores give sum_k log(K - k). top_k = 1 is the cross-entropy of the best response.

    Reference: Plackett 1975, "The analysis of permutations"; Luce 1959; Liu et al. 2024, arXiv:2402.01878v3, one of
    Eq. 5 to 11 (there DPO_PL); Rax's `listmle_loss`; top_k: Xia et al. 2009, "Top-k consistency of learning to rank".
    """
    s, psi = clean(where, scores, labels)
    place = ranks(psi, where)
    stage = where if top_k is None else where & (place <= top_k)
    later = (place[:, None, :] > place[:, :, None]) & where[:, None, :] & stage[:, :, None]
    return jnp.sum(one_against(s, s[:, None, :], later), axis=1)


def list_softmax(
    scores: Float[Array, "B K"], labels: Float[Array, "B K"], where: Bool[Array, "B K"]
) -> Float[Array, "B"]:
    """Cross-entropy between the labels' shares and the scores' softmax (ListNet).

        L = - sum_j (psi_j / sum_k psi_k) log softmax(s)_j

    Args:
      scores: `[B, K]` s.
      labels: `[B, K]` psi >= 0.
      where: `[B, K]` False where the list has no such response.

    Returns:
      `[B]` float32; 0 for a list whose labels are all 0.

    Limits: dL/ds = softmax(s) - psi / sum psi. Labels (1, 0) are the Bradley-Terry loss.

    Reference: Liu et al. 2024, arXiv:2402.01878v3, one of Eq. 5 to 11; Rax's `softmax_loss` with normalised labels.
    """
    s, psi = clean(where, scores, labels)
    total = jnp.sum(psi, axis=1, keepdims=True)
    share = jnp.where(total > 0, psi / jnp.where(total > 0, total, 1.0), 0.0)
    some = where | ~jnp.any(where, axis=1, keepdims=True)  # an empty list keeps a finite logsumexp
    level = jax.nn.logsumexp(s, axis=1, keepdims=True, where=some)
    return jnp.sum(jnp.where(where, share * (level - s), 0.0), axis=1)


def lambda_rank(
    scores: Float[Array, "B K"],
    labels: Float[Array, "B K"],
    where: Bool[Array, "B K"],
    *,
    gain: bool = True,
    discount: bool = True,
    log_base: float = math.e,
    times_list_size: bool = False,
) -> Float[Array, "B"]:
    """Logistic loss of every ordered pair of a list, weighted by the change of DCG when the two swap places.

        L = sum_{psi_i > psi_j} D_ij softplus(-(s_i - s_j))
        D_ij = |2^psi_i - 2^psi_j| |1/log(1 + tau_i) - 1/log(1 + tau_j)|,    tau = 1-based rank by descending s

    Args:
      scores: `[B, K]` s.
      labels: `[B, K]` psi in [0, 1], larger is better. Equal labels form no pair.
      where: `[B, K]` False where the list has no such response.
      gain: False replaces |G_i - G_j| by 1.
      discount: False replaces |1/D_i - 1/D_j| by 1.
      log_base: of the discount's logarithm. The paper leaves it open (a constant factor); Rax uses 2.
      times_list_size: multiply D by the number of responses of the list. Recent versions of Rax multiply by the length
        of the array, absent entries included: the same for lists without padding alone.

    Returns:
      `[B]` float32, summed over each list's pairs (`label_pairs` counts them).

    Limits: gain = discount = False is `pair_logistic`. D takes no gradient. Kink at equal scores, whose ranks jump:
    they keep their input order, and D is that order's. All labels equal, or fewer than two responses: 0.

    Reference: Liu et al. 2024, arXiv:2402.01878v3, one of Eq. 5 to 11; Wang et al. 2018, "The LambdaLoss framework".
    """
    s, psi = clean(where, scores, labels)
    pair = ordered(psi, where)
    weight = jnp.ones_like(pair, dtype=jnp.float32)
    if gain:
        weight = weight * jnp.abs(_differences(jnp.exp2(psi)))
    if discount:
        inverse = math.log(log_base) / jnp.log1p(ranks(jax.lax.stop_gradient(s), where).astype(jnp.float32))
        weight = weight * jnp.abs(_differences(inverse))
    if times_list_size:
        weight = weight * jnp.sum(where, axis=1)[:, None, None]
    weight = jax.lax.stop_gradient(jnp.where(pair, weight, 0.0))
    return jnp.sum(weight * softplus(-_differences(s)), axis=(1, 2))


def one_against(
    own: Float[Array, "B K"], others: Float[Array, "B K J"], among: Bool[Array, "B K J"]
) -> Float[Array, "B K"]:
    """`-log(e^own / (e^own + sum_j e^others_j))` over the j under the mask; 0 where there is none.

    As softplus of a difference: exact also where the loss is far smaller than the scores.
    """
    some = jnp.any(among, axis=2)
    level = jax.nn.logsumexp(jnp.broadcast_to(others, among.shape), axis=2, where=among | ~some[:, :, None])
    return jnp.where(some, softplus(level - own), 0.0)


def ranks(scores: Float[Array, "B K"], where: Bool[Array, "B K"]) -> Int[Array, "B K"]:
    """1-based rank by descending score among the present entries; equal scores keep their input order."""
    index = jnp.arange(scores.shape[1])
    ahead = (scores[:, None, :] > scores[:, :, None]) | (
        (scores[:, None, :] == scores[:, :, None]) & (index[None, None, :] < index[None, :, None])
    )
    return 1 + jnp.sum(ahead & where[:, None, :], axis=2)


def label_pairs(labels: Float[Array, "B K"], where: Bool[Array, "B K"]) -> Int[Array, "B"]:
    """Number of pairs of each list whose labels differ."""
    return jnp.sum(ordered(clean(where, labels)[0], where), axis=(1, 2))


def ndcg(
    scores: Float[Array, "B K"], labels: Float[Array, "B K"], where: Bool[Array, "B K"], *, at: int | None = None
) -> Float[Array, "B"]:
    """Normalised discounted cumulative gain of the first `at` places by descending score; 0 without a positive label.

    DCG = sum_{tau_i <= at} (2^psi_i - 1) / log2(1 + tau_i),    divided by the DCG of the labels' own order
    """
    s, psi = clean(where, scores, labels)

    def dcg(order: Array) -> Array:
        place = ranks(order, where)
        seen = where if at is None else where & (place <= at)
        return jnp.sum(jnp.where(seen, (jnp.exp2(psi) - 1.0) / jnp.log2(1.0 + place), 0.0), axis=1)

    best = dcg(psi)
    return jnp.where(best > 0, dcg(s) / jnp.where(best > 0, best, 1.0), 0.0)


def ordered(psi: Float[Array, "B K"], where: Bool[Array, "B K"]) -> Bool[Array, "B K K"]:
    """True at (i, j) where both are present and i's label is the larger one."""
    return (psi[:, :, None] > psi[:, None, :]) & where[:, :, None] & where[:, None, :]


def _differences(x: Float[Array, "B K"]) -> Float[Array, "B K K"]:
    return x[:, :, None] - x[:, None, :]
