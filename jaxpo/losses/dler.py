"""DLER (arXiv:2510.15110): the simplest penalty of length, none but truncation, under an optimiser that bears it."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Array, Bool, Float

from jaxpo.losses.importance import constant, trained
from jaxpo.losses.kl import kl_k2
from jaxpo.losses.ppo import ppo
from jaxpo.losses.recurrence import A, namespace, under


def dler(
    logps: Float[Array, "N T"],
    old_logps: Float[Array, "N T"],
    ref_logps: Float[Array, "N T"],
    advantages: Float[Array, "N T"],
    mask: Bool[Array, "N T"],
    *,
    epsilon: float = 0.2,
    epsilon_high: float = 0.28,
    dual_clip: float = 10.0,
    beta: float = 5e-4,
    sampler_weights: Float[Array, "N T"] | None = None,
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N T"]:
    """The term of every token: PPO's with the higher upper clip and the dual clip, and a tie to the reference.

        l = v ppo(w, A; epsilon, epsilon_high, c) + beta/2 (log pi - log ref)^2

    Args:
      logps: `[N, T]` log-probs of the answers' tokens, nats.
      old_logps: `[N, T]` under the policy that wrote them; no gradient.
      ref_logps: `[N, T]` under the reference; ignored at beta = 0.
      advantages: `[N, T]` whitened over the batch, not over the group; no gradient.
      mask: `[N, T]` True on the tokens that are trained on; the others may hold anything, NaN included.
      epsilon: how far the ratio may fall.
      epsilon_high: how far it may rise.
      dual_clip: bound of the ratio where the advantage is negative.
      beta: weight of the KL's estimate k2; 0 = none.
      sampler_weights: `[N, T]` v of the trainer's distribution over the sampler's; None = 1. No gradient.
      where: `[N]` False where there is no answer.

    Returns:
      `[N, T]` float32, 0 outside the mask; average over the tokens of the step.

    Limits: `ppo` at beta = 0. Kinks as there.

    Reference: Liu et al. 2025, arXiv:2510.15110, section 3, and its code.
    """
    on = trained(mask, where)
    found = ppo(logps, old_logps, advantages, on, epsilon=epsilon, epsilon_high=epsilon_high, dual_clip=dual_clip)
    if sampler_weights is not None:
        found = found * constant(on, sampler_weights)
    return found if beta == 0 else found + beta * kl_k2(logps, ref_logps, where=on)


def dler_truncated(lengths: Float[A, "..."], finished: Bool[A, "..."], limits: Float[A, "..."]) -> Bool[A, "..."]:
    """Which answers are beyond their limit: `|o| > L`, or `|o| >= L` of one that was cut off there.

    Args:
      lengths: `[...]` |o| in tokens, numpy or jax.
      finished: `[...]` the answer ended by itself.
      limits: `[...]` L, such as of `dler_limits`.

    Reference: Liu et al. 2025, arXiv:2510.15110, section 3, and its code.
    """
    return (lengths > limits) | ((lengths >= limits) & ~namespace(lengths).asarray(finished, dtype=bool))


def dler_rewards(rewards: Float[A, "..."], truncated: Bool[A, "..."], *, factor: float = 0.0) -> Float[A, "..."]:
    """Rewards of answers within their limit; of those beyond it a share, by default none, and never more than they had.

        R' = min(R, factor R) if truncated else R

    Args:
      rewards: `[...]` R, numpy or jax.
      truncated: `[...]` as of `dler_truncated`.
      factor: of the released code, 0.1; of the paper, 0.

    Returns:
      `[...]` of the kind given.

    Limits: the rewards themselves at factor = 1 or L = infinity, and where they are negative, of which the paper, whose
    rewards are 1 or 0, says nothing: a share of them would pay for being long.

    Reference: Liu et al. 2025, arXiv:2510.15110, section 3.
    """
    xp = namespace(rewards)
    return xp.where(truncated, xp.minimum(rewards, factor * rewards), rewards)


def dler_limits(
    correct: Float[A, "G K"], known: Bool[A, "G K"], *, limit: float, tiers: Sequence[tuple[float, float]] = ()
) -> Float[A, "G"]:
    """The limit of every question, by the share of its answers that are right: shorter where it is solved already.

    Args:
      correct: `[G, K]` 1 or 0, numpy or jax.
      known: `[G, K]` False where nothing says whether an answer is right; there `correct` may hold anything.
      limit: L below all thresholds, in tokens.
      tiers: (share, limit) with rising shares: the limit from this share on.

    Returns:
      `[G]`; a question of which nothing is known has `limit`.

    Limits: `limit` for all without tiers; non-increasing in the share where the tiers' limits are.

    Reference: Liu et al. 2025, arXiv:2510.15110, section 4: one tier, (0.5, 2000), beside a limit of 4000.
    """
    xp = namespace(correct)
    on = xp.asarray(known, dtype=bool)
    share = xp.sum(under(on, correct), axis=-1) / xp.maximum(xp.sum(on, axis=-1), 1)
    found = share * 0 + limit
    for least, shorter in tiers:
        found = xp.where(share >= least, shorter, found)
    return found
