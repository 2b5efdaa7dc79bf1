"""Generalised advantage estimation (arXiv:1506.02438), and the rewards of tokens that it starts from."""

from __future__ import annotations

from jaxtyping import Bool, Float

from jaxpo.losses.recurrence import A, from_the_end, namespace, under


def gae(
    rewards: Float[A, "... T"],
    values: Float[A, "... T"],
    mask: Bool[A, "... T"],
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> tuple[Float[A, "... T"], Float[A, "... T"]]:
    """Advantages and returns of an answer's tokens; tokens outside the mask are stepped over.

        delta_t = r_t + gamma V_next(t) - V_t,    A_t = delta_t + gamma lambda A_next(t),    R_t = A_t + V_t

    Args:
      rewards: `[..., T]` of tokens, as of `token_rewards`; numpy or jax.
      values: `[..., T]` V of the critic before each token.
      mask: `[..., T]` True on the tokens that the model wrote; the others may hold anything, NaN included.
      gamma: discount per token.
      lam: lambda in [0, 1]: 0 trusts the critic alone, 1 the rewards alone.

    Returns:
      Advantages and returns `[..., T]` of the kind given, 0 outside the mask; both are 0 after the end. They are
      constants of the update: whiten the advantages over the whole rollout (`whiten`) where they are made, in the
      source, and not in a micro-batch.

    Limits: lambda = 0 is delta; gamma = lambda = 1 makes R the sum of the rewards from the token on, whatever V.

    Reference: Schulman et al. 2015, arXiv:1506.02438, eq. 16; stepping over tokens as verl does.
    """
    xp = namespace(rewards)
    on = xp.asarray(mask, dtype=bool)
    r, v = under(on, rewards), under(on, values)
    off = xp.where(on, 0.0, 1.0).astype(v.dtype)
    here_or_later = from_the_end(off, v)
    later = xp.concatenate([here_or_later[..., 1:], xp.zeros_like(v[..., :1])], axis=-1)
    delta = under(on, r + gamma * later - v)
    factor = xp.where(on, gamma * lam, 1.0).astype(v.dtype)
    advantages = under(on, from_the_end(factor, delta))
    return advantages, under(on, advantages + v)


def token_rewards(
    score: Float[A, "N"], kl: Float[A, "N T"], mask: Bool[A, "N T"], *, kl_coef: float = 0.05
) -> Float[A, "N T"]:
    """Rewards of tokens from the score of an answer and the KL at its tokens.

        r_t = -c KL_t,    + score on the last token of the mask

    Args:
      score: `[N]` of whole answers, numpy or jax.
      kl: `[N, T]` estimate at every token, `kl_k1` of the policy that wrote it as a rule.
      mask: `[N, T]` True on the tokens that the model wrote; the others may hold anything, NaN included.
      kl_coef: c, as of `fixed_kl` or `adaptive_kl`.

    Returns:
      `[N, T]` of the kind given, 0 outside the mask. An answer without tokens gets nothing.

    Limits: summed over an answer it is score - c KL of the answer.

    Reference: Ouyang et al. 2022, arXiv:2203.02155, section 3.5; Ziegler et al. 2019, arXiv:1909.08593, eq. 2.
    """
    xp = namespace(kl)
    on = xp.asarray(mask, dtype=bool)
    whole = xp.cumsum(on.astype(xp.int32), axis=-1)
    last = on & (whole == whole[..., -1:])
    k = under(on, kl)
    return xp.where(last, xp.asarray(score, dtype=k.dtype)[..., None], 0.0) - kl_coef * k
