"""What decoupled top-K distillation is compared with: whole distributions, and other ways to use a top-K record."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpo.losses.decoupled_topk_kd import check_k, cleaned, complement_logsumexp, teacher_mass
from jaxpo.losses.numerics import clean, keep


def forward_kl(
    logits: Float[Array, "... V"],
    teacher_logits: Float[Array, "... V"],
    *,
    tau: float = 1.0,
    tau_squared: bool = False,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """KL of the student from the teacher over the whole vocabulary, at a temperature.

        L = sum_v P_T^tau(v) (log P_T^tau(v) - log P_S^tau(v)),    P^tau = softmax(z / tau)

    Args:
      logits: `[..., V]` of the student.
      teacher_logits: `[..., V]`; no gradient passes to them.
      tau: temperature of both.
      tau_squared: multiply by tau^2, so that the gradient does not shrink as tau grows.
      where: `[...]` False where there is no token.

    Returns:
      `[...]` float32 loss per token >= 0, 0 where there is no token.

    Limits: `decoupled_topk_kd` at K = V and tau = 1.

    Reference: Hinton et al. 2015, arXiv:1503.02531, Section 2.
    """
    log_s, log_t = _log_probs(where, logits, teacher_logits, tau)
    return keep(where, _scale(tau, tau_squared) * _kl(log_t, log_s))


def reverse_kl(
    logits: Float[Array, "... V"],
    teacher_logits: Float[Array, "... V"],
    *,
    tau: float = 1.0,
    tau_squared: bool = False,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """KL of the teacher from the student over the whole vocabulary, at a temperature: it seeks the teacher's modes.

        L = sum_v P_S^tau(v) (log P_S^tau(v) - log P_T^tau(v)),    P^tau = softmax(z / tau)

    Args:
      logits: `[..., V]` of the student.
      teacher_logits: `[..., V]`; no gradient passes to them.
      tau: temperature of both.
      tau_squared: multiply by tau^2, so that the gradient does not shrink as tau grows.
      where: `[...]` False where there is no token.

    Returns:
      `[...]` float32 loss per token >= 0, 0 where there is no token.

    Limits: `generalized_jsd` at beta = 1.

    Reference: Gu et al. 2023, arXiv:2306.08543, Equation 1, per token.
    """
    log_s, log_t = _log_probs(where, logits, teacher_logits, tau)
    return keep(where, _scale(tau, tau_squared) * _kl(log_s, log_t))


def generalized_jsd(
    logits: Float[Array, "... V"],
    teacher_logits: Float[Array, "... V"],
    *,
    beta: float = 0.5,
    tau: float = 1.0,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """Generalised Jensen-Shannon divergence of teacher and student over the whole vocabulary.

        M = beta P_T + (1 - beta) P_S,    L = beta KL(P_T || M) + (1 - beta) KL(P_S || M)

    Args:
      logits: `[..., V]` of the student.
      teacher_logits: `[..., V]`; no gradient passes to them.
      beta: in [0, 1]; 0 stands for the forward KL and 1 for the reverse KL, as in TRL's GKD trainer.
      tau: temperature of both.
      where: `[...]` False where there is no token.

    Returns:
      `[...]` float32 loss per token in [0, log 2], unbounded for beta 0 and 1; 0 where there is no token.

    Raises:
      ValueError: beta outside [0, 1].

    Limits: the formula is 0 at beta = 0 and 1; L / beta tends to the forward KL as beta -> 0, L / (1 - beta) to the
    reverse KL as beta -> 1, and those stand at the ends, so that L jumps there.

    Reference: Agarwal et al. 2023, arXiv:2306.13649, Equation 1; the ends as in TRL.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta {beta} must lie in [0, 1]")
    log_s, log_t = _log_probs(where, logits, teacher_logits, tau)
    if beta == 0:
        return keep(where, _kl(log_t, log_s))
    if beta == 1:
        return keep(where, _kl(log_s, log_t))
    mixed = jnp.logaddexp(log_t + math.log(beta), log_s + math.log1p(-beta))
    return keep(where, beta * _kl(log_t, mixed) + (1 - beta) * _kl(log_s, mixed))


def truncated_topk_kl(
    logits: Float[Array, "... V"],
    top_logits: Float[Array, "... K"],
    top_ids: Int[Array, "... K"],
    *,
    tau: float = 1.0,
    tau_squared: bool = False,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """The naive use of a top-K record: the teacher renormalised on K tokens against the student over all V.

        L = sum_{v in T} P_T^tau(v | T) (log P_T^tau(v | T) - log P_S^tau(v)),    P_S^tau = softmax(z / tau) over all V

    The supports differ: at student = teacher it is -log M_S^tau > 0 and grows with tau. Kept as a baseline.

    Args:
      logits: `[..., V]` of the student.
      top_logits: `[..., K]` the teacher's K largest logits, up to a shift; no gradient passes to them.
      top_ids: `[..., K]` their tokens T, distinct.
      tau: temperature of both.
      tau_squared: multiply by tau^2.
      where: `[...]` False where there is no token.

    Returns:
      `[...]` float32 loss per token, 0 where there is no token.

    Limits: the full forward KL at K = V.

    Reference: the baseline of the LFM2 technical report, arXiv:2511.23404, section on knowledge distillation.
    """
    z, top, _, _ = cleaned(where, logits, top_logits, jnp.zeros(top_logits.shape[:-1]), None)
    check_k(top_ids.shape[-1], z.shape[-1])
    log_t = jax.nn.log_softmax(top / tau, axis=-1)
    log_s = jnp.take_along_axis(jax.nn.log_softmax(z / tau, axis=-1), top_ids, axis=-1)
    return keep(where, _scale(tau, tau_squared) * _kl(log_t, log_s))


def bucket_topk_kl(
    logits: Float[Array, "... V"],
    top_logits: Float[Array, "... K"],
    log_normalizer: Float[Array, "..."],
    top_ids: Int[Array, "... K"],
    *,
    log_odds: Float[Array, "..."] | None = None,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """KL over K + 1 buckets: the top K tokens one by one, and all others together. There is no temperature.

        L = sum_{v in T} P_T(v) log(P_T(v) / P_S(v)) + (1 - M_T) log((1 - M_T) / (1 - M_S))

    Args:
      logits: `[..., V]` of the student.
      top_logits: `[..., K]` the teacher's K largest logits, up to a shift; no gradient passes to them.
      log_normalizer: `[...]` logsumexp of all the teacher's logits, with the same shift.
      top_ids: `[..., K]` their tokens T, distinct.
      log_odds: `[...]` log(M_T / (1 - M_T)) where it is known better; replaces `log_normalizer`.
      where: `[...]` False where there is no token.

    Returns:
      `[...]` float32 loss per token >= 0, 0 where there is no token.

    Limits: `decoupled_topk_kd` at tau = 1, term by term in another order; at most the full KL.

    Reference: the data-processing inequality applied to the map that joins the tail; arXiv:2511.23404 at tau = 1.
    """
    z, top, total, odds = cleaned(where, logits, top_logits, log_normalizer, log_odds)
    check_k(top_ids.shape[-1], z.shape[-1])
    mass = teacher_mass(top, total, odds)
    outside = complement_logsumexp(z, top_ids)
    inside = jnp.take_along_axis(z, top_ids, axis=-1)
    whole = jnp.logaddexp(jax.nn.logsumexp(inside, axis=-1), outside)
    log_t = jax.nn.log_softmax(top, axis=-1) + mass.inside[..., None]
    loss = _kl(log_t, inside - whole[..., None])
    if top_ids.shape[-1] < z.shape[-1]:
        tail = jnp.isfinite(mass.outside)
        log_rest = jnp.where(tail, mass.outside, 0.0)
        loss = loss + jnp.where(tail, jnp.exp(log_rest) * (log_rest - (outside - whole)), 0.0)
    return keep(where, loss)


def _kl(log_p: Float[Array, "... V"], log_q: Float[Array, "... V"]) -> Float[Array, "..."]:
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def _scale(tau: float, tau_squared: bool) -> float:
    return tau**2 if tau_squared else 1.0


def _log_probs(
    where: Bool[Array, "..."] | None, logits: Float[Array, "... V"], teacher_logits: Float[Array, "... V"], tau: float
) -> tuple[Float[Array, "... V"], Float[Array, "... V"]]:
    """Tempered log-probabilities of student and teacher; the teacher's without gradient."""
    wide = None if where is None else jnp.asarray(where)[..., None]
    z, t = clean(wide, logits, jax.lax.stop_gradient(teacher_logits))
    return jax.nn.log_softmax(z / tau, axis=-1), jax.nn.log_softmax(t / tau, axis=-1)
