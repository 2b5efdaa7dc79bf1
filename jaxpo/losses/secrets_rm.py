"""Contrastive terms of a reward model, and how far it tells answers to one prompt apart (arXiv:2401.06080)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep


def normalised(x: Float[Array, "... H"]) -> Float[Array, "... H"]:
    """x / |x| in float32; 0 stays 0, a kink without a gradient."""
    x = x.astype(jnp.float32)
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jnp.where(square > 0, jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def simcse(
    source: Float[Array, "N H"],
    target: Float[Array, "N H"],
    *,
    temperature: float = 0.05,
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N"]:
    """Cross-entropy of finding each item's other view among all items' by cosine similarity.

        L_i = -log( exp(cos(h_s^i, h_t^i) / tau) / sum_j exp(cos(h_s^i, h_t^j) / tau) )

    Args:
      source, target: `[N, H]` features of the same items under two dropout masks.
      temperature: tau.
      where: `[N]` False where there is no item: it is nobody's negative either.

    Returns:
      `[N]` float32, 0 where there is no item.

    Kink: features that are all 0 have no direction, and no gradient.

    Limits: the scale of features does not matter; features that are all alike give log N; ones that are orthogonal and
    aligned give 0 as tau falls.

    Reference: Wang et al. 2024, arXiv:2401.06080, Sec. 3; Gao et al. 2021, arXiv:2104.08821, Eq. 1.
    """
    here = jnp.ones(source.shape[0], bool) if where is None else where
    s, t = (normalised(x) for x in clean(here[:, None], source, target))
    logits = jnp.where(here[None, :], s @ t.T / temperature, -jnp.inf)
    # A row without an item sees itself, so that its logsumexp and gradient are finite.
    logits = jnp.where(jnp.eye(len(here), dtype=bool), jnp.sum(s * t, axis=-1)[:, None] / temperature, logits)
    return keep(here, jax.nn.logsumexp(logits, axis=-1) - jnp.diagonal(logits))


def prototype_scores(features: Float[Array, "... H"], prototypes: Float[Array, "H K"]) -> Float[Array, "... K"]:
    """Cosine similarity of features with K prototypes, float32; a kink without gradient where either is 0."""
    return normalised(features) @ normalised(prototypes.T).T


def sinkhorn(
    scores: Float[Array, "N K"],
    *,
    epsilon: float = 0.05,
    iterations: int = 3,
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N K"]:
    """Balanced assignment: exp(scores / epsilon) with its columns, then its rows, brought to equal sums in turn.

    Args:
      scores: `[N, K]`, cosine similarities.
      where: `[N]` False where there is no item.

    Returns:
      `[N, K]` float32 without gradient: rows sum to 1, columns (nearly) to N / K; rows without an item are 0.

    Reference: Caron et al. 2020, arXiv:2006.09882, Sec. 3.1.
    """
    here = jnp.ones(scores.shape[0], bool) if where is None else where
    log_q = jax.lax.stop_gradient(jnp.where(here[:, None], scores.astype(jnp.float32), 0.0)) / epsilon
    log_q = jnp.where(here[:, None], log_q, -1e30)
    for _ in range(iterations):
        log_q = log_q - jax.nn.logsumexp(log_q, axis=0, keepdims=True)
        log_q = jnp.where(here[:, None], log_q - jax.nn.logsumexp(log_q, axis=1, keepdims=True), -1e30)
    return jnp.where(here[:, None], jnp.exp(log_q), 0.0)


def swav(
    source: Float[Array, "N K"],
    target: Float[Array, "N K"],
    *,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N"]:
    """Cross-entropy of each view's prototypes with the balanced assignment of the other.

        L_i = CE(q_s, p_t) + CE(q_t, p_s),   p = softmax(scores / tau),   q = sinkhorn(scores), without gradient

    Args:
      source, target: `[N, K]` `prototype_scores` of the same items under two dropout masks.
      temperature: tau.
      epsilon, iterations: of `sinkhorn`.
      where: `[N]` False where there is no item.

    Returns:
      `[N]` float32, 0 where there is no item; the same when the views change places.

    Reference: Wang et al. 2024, arXiv:2401.06080, Sec. 3; Caron et al. 2020, arXiv:2006.09882, Eq. 1 and 2.
    """
    here = jnp.ones(source.shape[0], bool) if where is None else where
    s, t = (x.astype(jnp.float32) for x in clean(here[:, None], source, target))
    q_s, q_t = (sinkhorn(x, epsilon=epsilon, iterations=iterations, where=here) for x in (s, t))
    ce = lambda q, x: -jnp.sum(q * jax.nn.log_softmax(x / temperature, axis=-1), axis=-1)  # noqa: E731
    return keep(here, ce(q_s, t) + ce(q_t, s))


def reward_difference(rewards: Float[Array, "N K"], present: Bool[Array, "N K"] | None = None) -> Float[Array, "N"]:
    """How far the rewards of k responses to one prompt lie apart.

        J = (2 / k^2) sum_{i < j} sigmoid(|r_i - r_j|)

    Args:
      rewards: `[N, K]`.
      present: `[N, K]` False where there is no response; k counts those of the row.

    Returns:
      `[N]` float32 in [(k - 1) / (2 k), (k - 1) / k]; 0 of rows with fewer than two.

    A constant added to all rewards changes nothing, so the gradient sums to 0. Kink: it is 0 between equal rewards.

    Reference: Wang et al. 2024, arXiv:2401.06080, Sec. 3.
    """
    here = jnp.ones(rewards.shape, bool) if present is None else present
    r = jnp.where(here, rewards, 0.0).astype(jnp.float32)
    pairs = here[:, :, None] & here[:, None, :] & ~jnp.eye(r.shape[1], dtype=bool)
    gap = jax.nn.sigmoid(jnp.abs(r[:, :, None] - r[:, None, :]))
    k = jnp.maximum(jnp.sum(here, axis=1), 1)
    # Every pair stands twice, once each way round.
    return jnp.sum(jnp.where(pairs, gap, 0.0), axis=(1, 2)) / k**2
