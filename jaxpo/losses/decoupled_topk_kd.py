"""Tempered, decoupled top-K distillation (LFM2 technical report, arXiv:2511.23404), and the records it reads."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpo.losses.numerics import clean, keep, softplus

NO_TAIL = 1e-12
"""A teacher that leaves less than this outside its top K counts as leaving nothing."""


class TopKRecord(NamedTuple):
    """What is kept of a teacher's distribution over the vocabulary.

    Attributes:
      ids: int32, the K most likely tokens, the likeliest first.
      logps: float32, their log-probabilities: the logits less the log-normaliser.
      log_odds: float32 log(M / (1 - M)) of their mass M; +inf when they are the whole vocabulary. Both M and 1 - M keep
        their relative precision, which a sum of rounded probabilities would lose.
    """

    ids: Int[Array, "... K"]
    logps: Float[Array, "... K"]
    log_odds: Float[Array, "..."]


class TeacherMass(NamedTuple):
    """Log-mass of the top-K tokens and of the tail; (0, -inf) when the tail counts as none."""

    inside: Float[Array, "..."]
    outside: Float[Array, "..."]


def topk_record(logits: Float[Array, "... V"], k: int) -> TopKRecord:
    """The record of a teacher's logits: the K largest, with the mass that they hold at temperature 1.

    Args:
      logits: `[..., V]` of the teacher.
      k: K, at most V.

    Raises:
      ValueError: K exceeds the vocabulary.
    """
    check_k(k, logits.shape[-1])
    logits = logits.astype(jnp.float32)
    top, ids = jax.lax.top_k(logits, k)
    inside, outside = jax.nn.logsumexp(top, axis=-1), complement_logsumexp(logits, ids)
    total = jnp.logaddexp(inside, outside)
    return TopKRecord(ids, top - total[..., None], inside - outside)


def complement_logsumexp(logits: Float[Array, "... V"], ids: Int[Array, "... K"]) -> Float[Array, "..."]:
    """log sum exp of the logits whose token is none of `ids` (distinct); -inf, without gradient, when there is none."""
    if ids.shape[-1] == logits.shape[-1]:
        return jnp.full(logits.shape[:-1], -jnp.inf, logits.dtype)
    others = jnp.put_along_axis(logits, ids, -jnp.inf, axis=-1, inplace=False)
    return jax.nn.logsumexp(others, axis=-1)


def teacher_mass(
    top_logits: Float[Array, "... K"],
    log_normalizer: Float[Array, "..."],
    log_odds: Float[Array, "..."] | None = None,
) -> TeacherMass:
    """Log-mass of the top K and of the tail, from the log-odds where they are known, else from the log-normaliser."""
    if log_odds is not None:
        inside, outside = -softplus(-log_odds), -softplus(log_odds)
    else:
        # Rounding may put the sum above the normaliser by a little.
        inside = jnp.minimum(jax.nn.logsumexp(top_logits, axis=-1) - log_normalizer, 0.0)
        outside = jnp.where(inside > -0.6931, jnp.log(-jnp.expm1(inside)), jnp.log1p(-jnp.exp(inside)))
    none = outside < math.log(NO_TAIL)
    return TeacherMass(jnp.where(none, 0.0, inside), jnp.where(none, -jnp.inf, outside))


def decoupled_topk_kd(
    logits: Float[Array, "... V"],
    top_logits: Float[Array, "... K"],
    log_normalizer: Float[Array, "..."],
    top_ids: Int[Array, "... K"],
    *,
    tau: float = 1.0,
    tau_squared: bool = False,
    log_odds: Float[Array, "..."] | None = None,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """Binary KL of the top-K mass at temperature 1, plus the mass-weighted KL inside the top K at temperature tau.

        L_B = KL( Bern(M_T) || Bern(M_S) ),    M = sum_{v in T} P(v) over the full vocabulary
        L_T = M_T KL( P_T^tau(. | T) || P_S^tau(. | T) )    both renormalised on T
        L   = L_B + L_T    (tau^2 L_T with `tau_squared`)

    log(1 - M_S) comes from the logsumexp over the complement of T. No gradient passes to the teacher.

    Args:
      logits: `[..., V]` of the student.
      top_logits: `[..., K]` the teacher's K largest logits (or log-probabilities), up to a shift.
      log_normalizer: `[...]` logsumexp of all the teacher's logits, with the same shift; 0 for log-probabilities.
      top_ids: `[..., K]` their tokens T, distinct, in any order.
      tau: temperature inside T.
      tau_squared: multiply L_T by tau^2, so that its gradient does not shrink as tau grows.
      log_odds: `[...]` log(M_T / (1 - M_T)) where it is known better than from rounded logits; replaces
        `log_normalizer`.
      where: `[...]` False where there is no token.

    Returns:
      `[...]` float32 loss per token >= 0, 0 where there is no token.

    Raises:
      ValueError: K exceeds V.

    Limits: tau = 1 is the KL over K + 1 buckets (`bucket_topk_kl`), at most the full KL, and equals it for K = V; K = 1
    leaves L_B alone. The gradient in z_v is (p_S(v)/M_S)(M_S - M_T) + (M_T/tau)(q_S^tau(v) - q_T^tau(v)) in T and
    (p_S(v)/(1-M_S))(M_T - M_S) outside.

    Reference: LFM2 technical report, arXiv:2511.23404, section on knowledge distillation; tau and the weight beside the
    cross-entropy are not published.
    """
    z, top, total, odds = cleaned(where, logits, top_logits, log_normalizer, log_odds)
    check_k(top_ids.shape[-1], z.shape[-1])
    mass = teacher_mass(top, total, odds)
    inside = jnp.take_along_axis(z, top_ids, axis=-1)
    log_q_t, log_q_s = (jax.nn.log_softmax(x / tau, axis=-1) for x in (top, inside))
    loss = jnp.exp(mass.inside) * jnp.sum(jnp.exp(log_q_t) * (log_q_t - log_q_s), axis=-1)
    if tau_squared:
        loss = tau**2 * loss
    if top_ids.shape[-1] < z.shape[-1]:  # else all mass is inside, on both sides
        loss = loss + mass_kl(mass, jax.nn.logsumexp(inside, axis=-1) - complement_logsumexp(z, top_ids))
    return keep(where, loss)


def mass_kl(mass: TeacherMass, log_odds: Float[Array, "..."]) -> Float[Array, "..."]:
    """KL( Bern(M_T) || Bern(M_S) ) from the student's log-odds o = log(M_S / (1 - M_S)), exact in both tails.

    M_T (log M_T + softplus(-o)) + (1 - M_T) (log(1 - M_T) + softplus(o))
    """
    tail = jnp.isfinite(mass.outside)
    log_rest = jnp.where(tail, mass.outside, 0.0)
    inside = jnp.exp(mass.inside) * (mass.inside + softplus(-log_odds))
    return inside + jnp.where(tail, jnp.exp(log_rest) * (log_rest + softplus(log_odds)), 0.0)


def cleaned(
    where: Bool[Array, "..."] | None,
    logits: Float[Array, "... V"],
    top_logits: Float[Array, "... K"],
    log_normalizer: Float[Array, "..."],
    log_odds: Float[Array, "..."] | None,
) -> tuple[Array, Array, Array, Array | None]:
    """All in float32, 0 where there is no token, and the teacher's without gradient."""
    wide = None if where is None else jnp.asarray(where)[..., None]
    (z,) = clean(wide, logits)
    (top,) = clean(wide, jax.lax.stop_gradient(top_logits))
    (total,) = clean(where, jax.lax.stop_gradient(log_normalizer))
    odds = None if log_odds is None else clean(where, jax.lax.stop_gradient(log_odds))[0]
    return z, top, total, odds


def check_k(k: int, vocab: int) -> None:
    """Refuse more ids than there are tokens."""
    if k > vocab:
        raise ValueError(f"K = {k} exceeds the vocabulary of {vocab}")
