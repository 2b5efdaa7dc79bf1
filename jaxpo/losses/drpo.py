"""DRPO (arXiv:2510.04474) and DisCO (arXiv:2505.12366): right and wrong answers of a question apart, no clip."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpo.losses.importance import lengths as trained_lengths
from jaxpo.losses.importance import log_ratios, trained
from jaxpo.losses.numerics import check_choice, clean, keep, masked_sum, per_token

Score = Literal["log_likelihood", "likelihood_ratio"]


def drpo_scores(
    logps: Float[Array, "N T"],
    old_logps: Float[Array, "N T"],
    mask: Bool[Array, "N T"],
    *,
    score: Score = "log_likelihood",
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N"]:
    """How likely the policy finds each answer, per token.

        log_likelihood (log-L):   s = 1/|o| sum_t log pi(o_t)
        likelihood_ratio (L-ratio): s = 1/|o| sum_t pi(o_t) / pi_old(o_t)

    Args:
      logps: `[N, T]` log-probs of the answers' tokens, nats.
      old_logps: `[N, T]` under the policy that wrote them; no gradient.
      mask: `[N, T]` True on the tokens that are trained on; the others may hold anything, NaN included.
      score: see above.
      where: `[N]` False where there is no answer.

    Returns:
      `[N]` float32, 0 where there is no answer or no token.

    Limits: every ratio score is 1 at pi = pi_old, with the gradient of the log-likelihood score. Log-ratios are bounded
    by +-20, where the ratio score has kinks.

    Reference: Li et al. 2025, arXiv:2510.04474 (log-L); arXiv:2505.12366 (both).
    """
    check_choice("score", score, ("log_likelihood", "likelihood_ratio"))
    on = trained(mask, where)
    terms = clean(on, logps)[0] if score == "log_likelihood" else jnp.exp(log_ratios(logps, old_logps, on))
    return per_token(masked_sum(terms, on), trained_lengths(on))


def drpo(
    scores: Float[Array, "N"],
    rewards: Float[Array, "N"],
    lengths: Float[Array, "N"],
    groups: Int[Array, "N"],
    *,
    longest: float = 8192.0,
    lam: float | None = 0.1,
    tau: float = 10.0,
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N"]:
    """Each answer's share of -J_q: right answers weighed among themselves by length, wrong ones pushed down apart.

        w_i = exp(r_i / lam) / sum_{j in P} exp(r_j / lam),    r = 1 - |o| / C
        J_q = sum_{i in P} w_i s_i - tau log(1/|N| sum_{j in N} exp(s_j / tau))

    P and N are the answers of a question whose reward is exactly 1 and exactly 0; any other reward is in neither, and a
    question without one of the two adds nothing.

    Args:
      scores: `[N]` s, as of `drpo_scores`.
      rewards: `[N]`; no gradient.
      lengths: `[N]` |o| in tokens.
      groups: `[N]` number of the question; answers are joined by it, wherever they lie.
      longest: C, the tokens that an answer may have.
      lam: how far lengths may move the right answers' weights; None = infinity: equal weights, DisCO.
      tau: temperature of the wrong answers: 0 is the likeliest one alone, infinity their mean.
      where: `[N]` False where there is no answer.

    Returns:
      `[N]` float32: -w_i s_i of a right answer, an equal share of the second term of a wrong one, 0 elsewhere. The loss
      is their sum over the number of questions, those that add nothing among them. It couples the answers of a
      question: give it all answers of a step.

    Limits: slopes are -w_i and softmax_N(s / tau)_j, and sum to 0 over a question: no right answer is ever pushed down.
    Weights depend on differences of length over C lam alone.

    Reference: Li et al. 2025, arXiv:2510.04474; DisCO: arXiv:2505.12366. Their code divides the second term by its own
    constant value, which changes what is printed and not the gradient.
    """
    s, r, n = clean(where, scores, rewards, lengths)
    r, n = jax.lax.stop_gradient(r), jax.lax.stop_gradient(n)
    here = jnp.ones(s.shape, bool) if where is None else jnp.asarray(where).astype(bool)
    right, wrong = here & (r == 1), here & (r == 0)
    same = groups[..., :, None] == groups[..., None, :]
    with_right, with_wrong = same & right[..., None, :], same & wrong[..., None, :]
    both = jnp.any(with_right, axis=-1) & jnp.any(with_wrong, axis=-1)
    pull = jnp.zeros_like(n) if lam is None else -n / (longest * lam)
    weight = jnp.exp(jnp.where(right, pull - _log_sum(pull, with_right), -jnp.inf))
    count = jnp.maximum(jnp.sum(with_wrong.astype(jnp.float32), axis=-1), 1.0)
    pushed = tau * (_log_sum(s / tau, with_wrong) - jnp.log(count))
    return keep(both & right, -weight * s) + keep(both & wrong, pushed / count)


def _log_sum(x: Float[Array, "... N"], member: Bool[Array, "... N N"]) -> Float[Array, "... N"]:
    """`log sum_{j in row} exp(x_j)`, 0 of an empty row."""
    each = jnp.broadcast_to(x[..., None, :], member.shape)
    some = jnp.any(member, axis=-1)
    top = jax.lax.stop_gradient(jnp.max(jnp.where(member, each, -jnp.inf), axis=-1))
    top = jnp.where(some, top, 0.0)
    total = jnp.sum(jnp.where(member, jnp.exp(jnp.where(member, each - top[..., None], 0.0)), 0.0), axis=-1)
    return jnp.where(some, top + jnp.log(jnp.where(some, total, 1.0)), 0.0)


def drpo_trust_region(kl: Float[Array, ""], *, delta: float = 1e-4, penalty: float = 1e3) -> Float[Array, ""]:
    """What leaving the sampling policy costs: nothing within a divergence of delta, a parabola beyond.

        b/2 max(K - delta, 0)^2

    Args:
      kl: K, mean of log pi_old - log pi over all trained tokens of the step: a statistic of the whole step.
      delta: nats.
      penalty: b.

    Returns:
      A scalar; its slope is b max(K - delta, 0), without a kink.

    Reference: Li et al. 2025, arXiv:2510.04474; DisCO: arXiv:2505.12366.
    """
    return 0.5 * penalty * jnp.square(jnp.maximum(jnp.asarray(kl).astype(jnp.float32) - delta, 0.0))
