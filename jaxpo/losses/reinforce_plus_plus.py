"""REINFORCE++ (arXiv:2501.03262): advantages without a critic, whitened over the tokens of a whole rollout."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int

from jaxpo.losses.recurrence import A, namespace, returns_to_go, under
from jaxpo.losses.whitening import whiten


def reinforce_plus_plus(rewards: Float[A, "N T"], mask: Bool[A, "N T"], *, gamma: float = 1.0) -> Float[A, "N T"]:
    """Discounted rewards from each token on, whitened; they enter PPO's clipped term as advantages.

        A = whiten(R),    R_t = r_t + gamma R_next(t)

    Args:
      rewards: `[N, T]` of tokens, as of `token_rewards` with the KL in them; numpy or jax.
      mask: `[N, T]` True on the tokens that the model wrote, of the whole rollout; the others may hold anything.
      gamma: discount per token.

    Returns:
      `[N, T]` of the kind given, 0 outside the mask. A constant of the update; made in the source.

    Limits: equal rewards at gamma = 1 without KL give 0.

    Reference: Hu et al. 2025, arXiv:2501.03262; verl's `reinforce_plus_plus`.
    """
    return whiten(returns_to_go(rewards, mask, gamma=gamma), mask)


def reinforce_plus_plus_baseline(scores: Float[A, "N"], groups: Int[A, "N"], mask: Bool[A, "N T"]) -> Float[A, "N T"]:
    """Scores less the mean of their group on every token, whitened over all tokens.

        A = whiten(r - mean_g r)

    Args:
      scores: `[N]` of whole answers; numpy or jax.
      groups: `[N]` which answers share a prompt; any numbers.
      mask: `[N, T]` True on the tokens that the model wrote, of the whole rollout.

    Returns:
      `[N, T]` of the kind given, 0 outside the mask. A constant of the update; made in the source.

    Limits: a group of one, or one of equal scores, is 0 before it is whitened (verl leaves a group of one its score).

    Reference: Hu et al. 2025, arXiv:2501.03262; verl's `reinforce_plus_plus_baseline`.
    """
    xp = namespace(scores)
    r = scores.astype(xp.result_type(scores.dtype, xp.float32))
    same = (groups[:, None] == groups[None, :]).astype(r.dtype)
    centred = r - same @ r / xp.sum(same, axis=1)
    return whiten(under(mask, xp.broadcast_to(centred[:, None], mask.shape)), mask)
