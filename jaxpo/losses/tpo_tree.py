"""Tree preference optimisation (arXiv:2410.12854)."""

from __future__ import annotations

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpo.losses.numerics import check_choice, clean
from jaxpo.losses.ranking import lambda_rank

Pooling = Literal["mean", "sum"]
StepWeights = Literal["one_plus_cos", "one_minus_cos", "uniform"]


def tpo_tree(
    log_ratios: Float[Array, "B K S"],
    tokens: Float[Array, "B K S"],
    weights: Float[Array, "B K S"],
    labels: Float[Array, "B K"],
    where: Bool[Array, "B K"],
    *,
    beta: float = 0.5,
    pooling: Pooling = "mean",
    normalize: bool = True,
    gain: bool = True,
    discount: bool = True,
    log_base: float = math.e,
) -> Float[Array, "B"]:
    """TPO on trees: LambdaLoss over the branches of a reasoning tree, whose scores weight the steps.

        s_n = beta sum_k w_nk rho_nk / sum_k w_nk
        L = sum_{v_i > v_j} D_ij softplus(-(s_i - s_j)),    D as in `lambda_rank`

    Args:
      log_ratios: `[B, K, S]` log pi - log pi_ref summed over the tokens of each step, in nats
        (`labelled_sums`, then `merge_steps`: all branches of a list must have the same steps).
      tokens: `[B, K, S]` number of tokens of each step; 0 where the branch has no such step.
      weights: `[B, K, S]` w (`step_weights`).
      labels: `[B, K]` v in [0, 1], the branches' grades; equal ones form no pair.
      where: `[B, K]` False where the list has no such branch.
      beta: score scale.
      pooling: rho_nk is the "mean" of the log-ratios of the step's tokens, or their "sum".
      normalize: divide by sum_k w_nk. False leaves it out.
      gain, discount, log_base: as in `lambda_rank`.

    Returns:
      `[B]` float32, summed over each list's pairs.

    Limits: equal labels give 0. Two branches, w = 1, pooling "sum", normalize = gain = discount = False: DPO. A branch
    whose weights are all 0 has score 0 and no gradient. D takes no gradient. Kink at equal scores, as in
    `lambda_rank`.

    Reference: Liao et al. 2024, arXiv:2410.12854; step merging, mean pooling and weights as in the official code, whose
    loss itself has the wrong sign, no shift and no lambda weights, and is not followed.
    """
    scores = tree_scores(log_ratios, tokens, weights, where, beta=beta, pooling=pooling, normalize=normalize)
    return lambda_rank(scores, labels, where, gain=gain, discount=discount, log_base=log_base)


def tree_scores(
    log_ratios: Float[Array, "B K S"],
    tokens: Float[Array, "B K S"],
    weights: Float[Array, "B K S"],
    where: Bool[Array, "B K"],
    *,
    beta: float = 0.5,
    pooling: Pooling = "mean",
    normalize: bool = True,
) -> Float[Array, "B K"]:
    """`s` of `tpo_tree`, 0 where there is no branch or all of its weights are 0: a kink, without a gradient there."""
    check_choice("pooling", pooling, get_args(Pooling))
    here = where[:, :, None] & (tokens > 0)
    total, n, w = clean(here, log_ratios, tokens, weights)
    rho = total / jnp.maximum(n, 1.0) if pooling == "mean" else total
    score = jnp.sum(w * rho, axis=2)
    if not normalize:
        return beta * score
    mass = jnp.sum(w, axis=2)
    return beta * jnp.where(mass > 0, score / jnp.where(mass > 0, mass, 1.0), 0.0)


def step_weights(
    hidden: Float[Array, "B K S D"],
    tokens: Float[Array, "B K S"],
    labels: Float[Array, "B K"],
    where: Bool[Array, "B K"],
    *,
    mode: StepWeights = "one_plus_cos",
    stop_gradient: bool = True,
) -> Float[Array, "B K S"]:
    """Adaptive step rewards: how much each step resembles the same step of the best branch.

        w_nk = 1 + cos(h_nk, h_best,k),    best = the branch with the highest label (the first of equal ones)

    Args:
      hidden: `[B, K, S, D]` last-layer hidden states averaged (or summed: only directions count) over each step.
      tokens: `[B, K, S]` number of tokens of each step.
      labels: `[B, K]` grades.
      where: `[B, K]` False where the list has no such branch.
      mode: "one_plus_cos" (the code); "one_minus_cos", more weight to steps that differ, for which the best branch
        itself has no weight; "uniform".
      stop_gradient: treat the weights as constants. The code lets the gradient flow.

    Returns:
      `[B, K, S]` float32 in [0, 2]; 0 where the branch or the best one lacks the step. A state shorter than 1e-6 counts
      by its length too, so that 0 has a finite derivative; kink at 1e-6: the mean of both sides.
    """
    check_choice("mode", mode, get_args(StepWeights))
    (v,) = clean(where, labels)
    best = jnp.argmax(jnp.where(where, v, -jnp.inf), axis=1)[:, None, None]
    has = where[:, :, None] & (tokens > 0)
    has = has & jnp.take_along_axis(has, best, axis=1)
    if mode == "uniform":
        return has.astype(jnp.float32)
    (h,) = clean(has[..., None], hidden)
    direction = h * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(h), axis=-1, keepdims=True), 1e-12))
    anchor = jnp.take_along_axis(direction, best[..., None], axis=1)
    # For unit vectors 1 +- cos(u, v) = |u +- v|^2 / 2, which is exactly 0 where it should be and never negative.
    apart = direction + anchor if mode == "one_plus_cos" else direction - anchor
    weights = jnp.where(has, 0.5 * jnp.sum(jnp.square(apart), axis=-1), 0.0)
    return jax.lax.stop_gradient(weights) if stop_gradient else weights


def shortest(tokens: Float[Array, "B K S"], where: Bool[Array, "B K"]) -> Int[Array, "B"]:
    """Number of steps of the branch that has the fewest, `[B]`; 0 if a branch has none."""
    count = jnp.max(jnp.where(tokens > 0, jnp.arange(1, tokens.shape[2] + 1), 0), axis=2)
    fewest = jnp.min(jnp.where(where, count, tokens.shape[2] + 1), axis=1)
    return jnp.where(jnp.any(where, axis=1), fewest, 0)


def merge_steps(sums: Float[Array, "B K S ..."], steps: Int[Array, "B"]) -> Float[Array, "B K S ..."]:
    """Fold all steps beyond the `steps`-th of a list into that one (sums over tokens add), so that branches align."""
    k = jnp.arange(1, sums.shape[2] + 1)
    wide = lambda x: x.reshape(*x.shape, *(1,) * (sums.ndim - 3))  # noqa: E731
    last = steps[:, None, None]
    rest = jnp.sum(jnp.where(wide(k >= last), sums, 0.0), axis=2, keepdims=True)
    return jnp.where(wide(k < last), sums, jnp.where(wide((k == last) & (last > 0)), rest, 0.0))
