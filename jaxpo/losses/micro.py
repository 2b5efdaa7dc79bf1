"""Mixture of Bradley-Terry heads with a router (arXiv:2505.24846)."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import check_choice, clean, keep, smoothed_logistic, softplus


def micro(
    chosen_rewards: Float[Array, "B K"],
    rejected_rewards: Float[Array, "B K"],
    router_logits: Float[Array, "B K"],
    *,
    entropy_coefficient: float = 0.5,
    label_smoothing: float = 0.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """MiCRo, stage 1: the likelihood of a pair under a mixture of K Bradley-Terry models, weighted by the prompt.

        D_k = r_k(y_w) - r_k(y_l),    pi = softmax(z(x))
        L = -(1 - e) log sum_k pi_k sigmoid(D_k) - e log sum_k pi_k sigmoid(-D_k) + lambda sum_k pi_k log pi_k

    Args:
      chosen_rewards, rejected_rewards: `[B, K]` of every head.
      router_logits: `[B, K]` z, read at the end of the prompt.
      entropy_coefficient: lambda of the negative entropy, which spreads the weights of each prompt; 0 = off.
      label_smoothing: e, probability that a label is flipped.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: K = 1, equal heads or a router that is certain give Bradley-Terry of that head; dL/dD_k is
    -gamma_k sigmoid(-D_k) with gamma the posterior over the heads, a step of EM; with pi constant and two balanced
    opposed groups the likelihood is flat: which head is whose can be told through x alone.

    Reference: Shen et al. 2025, arXiv:2505.24846; loss, sign of the entropy and router as in the authors' code.
    """
    r_w, r_l, z = clean(None if where is None else where[:, None], chosen_rewards, rejected_rewards, router_logits)
    log_pi, d = jax.nn.log_softmax(z, axis=-1), r_w - r_l
    loss = -jax.nn.logsumexp(log_pi - softplus(-d), axis=-1)
    if label_smoothing:
        flipped = -jax.nn.logsumexp(log_pi - softplus(d), axis=-1)
        loss = (1.0 - label_smoothing) * loss + label_smoothing * flipped
    return keep(where, loss + entropy_coefficient * jnp.sum(jnp.exp(log_pi) * log_pi, axis=-1))


def micro_mixed(
    chosen_rewards: Float[Array, "B K"],
    rejected_rewards: Float[Array, "B K"],
    chosen_logits: Float[Array, "B K"],
    rejected_logits: Float[Array, "B K"],
    *,
    label_smoothing: float = 0.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """The variant that mixes rewards, not likelihoods: Bradley-Terry of sum_k pi_k(x, y) r_k(x, y).

    Args:
      chosen_rewards, rejected_rewards: `[B, K]` of every head.
      chosen_logits, rejected_logits: `[B, K]` of the router, read at the end of each response.
      label_smoothing: probability that a label is flipped.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Reference: the authors' code of arXiv:2505.24846.
    """
    here = None if where is None else where[:, None]
    sides = ((chosen_rewards, chosen_logits), (rejected_rewards, rejected_logits))
    c, r = (jnp.sum(jax.nn.softmax(z, axis=-1) * x, axis=-1) for x, z in (clean(here, *side) for side in sides))
    return keep(where, smoothed_logistic(c - r, label_smoothing))


def micro_heads(
    chosen_rewards: Float[Array, "B K"],
    rejected_rewards: Float[Array, "B K"],
    *,
    label_smoothing: float = 0.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """The variant without a router: the mean over the heads of Bradley-Terry of each.

    Reference: the authors' code of arXiv:2505.24846, "origin", which its run script sets.
    """
    r_w, r_l = clean(None if where is None else where[:, None], chosen_rewards, rejected_rewards)
    return keep(where, jnp.mean(smoothed_logistic(r_w - r_l, label_smoothing), axis=-1))


def micro_hedge(
    prior: Float[Array, "... K"],
    losses: Float[Array, "... C K"],
    *,
    eta: float = 1.0,
    where: Bool[Array, "... C"] | None = None,
) -> Float[Array, "... K"]:
    """MiCRo, stage 2: weights of the heads after C comparisons of a user, w_k ~ w0_k exp(-eta sum_i l_ik).

    Args:
      prior: `[..., K]` w0 on the simplex: the router's weights.
      losses: `[..., C, K]` l_ik = softplus(-D_ik), of comparison i under head k.
      eta: 1 is the posterior of Bayes; large, the head with the smallest summed loss.
      where: `[..., C]` False where there is no comparison.

    Returns:
      `[..., K]` float32, sums to 1; w0 without comparisons. The order of the comparisons does not matter.

    Reference: Hedge, reconstructed from the abstract of arXiv:2505.24846; stage 2 is not in the authors' code.
    """
    here = jnp.ones(losses.shape[:-1], bool) if where is None else where
    (found,) = clean(here[..., None], losses)
    p = jnp.asarray(prior).astype(jnp.float32)
    log_prior = jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1.0)), -jnp.inf)
    return jax.nn.softmax(log_prior - eta * jnp.sum(found, axis=-2), axis=-1)


def micro_distil(
    router_logits: Float[Array, "B K"], targets: Float[Array, "B K"], *, where: Bool[Array, "B"] | None = None
) -> Float[Array, "B"]:
    """Cross-entropy `-sum_k w_k log pi_k` of a router that sees the context with the weights of `micro_hedge`.

    Args:
      router_logits: `[B, K]` at the end of context and prompt.
      targets: `[B, K]` w on the simplex. No gradient.
      where: `[B]` False where there is no row.

    Returns:
      `[B]` float32, 0 where there is no row; smallest, the entropy of w, at pi = w.

    Reference: ours; arXiv:2505.24846 says that context is routed, not how it is learnt.
    """
    z, w = clean(None if where is None else where[:, None], router_logits, targets)
    return keep(where, -jnp.sum(jax.lax.stop_gradient(w) * jax.nn.log_softmax(z, axis=-1), axis=-1))


def micro_score(
    rewards: Float[Array, "... K"],
    weights: Float[Array, "... K"],
    *,
    combine: Literal["log_sigmoid", "mean"] = "log_sigmoid",
) -> Float[Array, "..."]:
    """One number of a response: `sum_k w_k log sigmoid(r_k)`, as the authors evaluate, or `sum_k w_k r_k`."""
    check_choice("combine", combine, ("log_sigmoid", "mean"))
    r, w = (jnp.asarray(x).astype(jnp.float32) for x in (rewards, weights))
    return jnp.sum(w * (-softplus(-r) if combine == "log_sigmoid" else r), axis=-1)
