"""Bradley-Terry with ties, after Rao and Kupper."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, softplus


def rao_kupper(
    chosen_rewards: Float[Array, "B"],
    rejected_rewards: Float[Array, "B"],
    tie: Bool[Array, "B"],
    *,
    threshold: float = 1.5,
    temperature: float = 1.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Rao-Kupper: a judge sees no difference between rewards that lie closer together than a threshold.

        d = (r_w - r_l) / tau,    P(win) = sigmoid(d - log t),    P(loss) = sigmoid(-d - log t)
        L = -log P(win) = softplus(-(d - log t))
        L = -log P(tie) = -log(t^2 - 1) + softplus(-(d - log t)) + softplus(-(-d - log t))    for a tie

    Args:
      chosen_rewards: `[B]` r_w; of a tie, either response.
      rejected_rewards: `[B]` r_l.
      tie: `[B]` True where neither response is the better one.
      threshold: t >= 1.
      temperature: tau.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: t = 1 is Bradley-Terry, in which a tie has probability 0 and costs infinity. P(tie) is largest, and the loss
    of a tie smallest, at d = 0; the three probabilities sum to 1.

    Reference: Rao and Kupper 1967, "Ties in paired-comparison experiments", JASA 62, Eq. 2.1 to 2.3.
    """
    r_w, r_l = clean(where, chosen_rewards, rejected_rewards)
    t = jnp.asarray(threshold, jnp.float32)
    d, gap = (r_w - r_l) / temperature, jnp.log(t)
    win, loss = softplus(-(d - gap)), softplus(-(-d - gap))
    # log(t - 1) + log(t + 1) keeps its digits where t is near 1.
    tied = win + loss - jnp.log(t - 1.0) - jnp.log(t + 1.0)
    return keep(where, jnp.where(jnp.asarray(tie).astype(bool), tied, win))
