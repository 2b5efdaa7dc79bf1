"""Bradley-Terry with ties, after Davidson."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, softplus


def davidson(
    chosen_rewards: Float[Array, "B"],
    rejected_rewards: Float[Array, "B"],
    tie: Bool[Array, "B"],
    *,
    nu: float = 0.5,
    temperature: float = 1.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Davidson: a tie is a third outcome, whose strength is the geometric mean of the other two.

        P(win), P(loss), P(tie) = softmax[r_w, r_l, log nu + (r_w + r_l) / 2],    L = -log P(win), or -log P(tie)
        d = (r_w - r_l) / tau,    -log P(win) = log(1 + e^-d + nu e^(-d/2))

    Args:
      chosen_rewards: `[B]` r_w; of a tie, either response.
      rejected_rewards: `[B]` r_l.
      tie: `[B]` True where neither response is the better one.
      nu: >= 0, how frequent ties are: nu / 2 is the odds of a tie against a decision between equal rewards.
      temperature: tau.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: nu = 0 is Bradley-Terry, in which a tie has probability 0 and costs infinity. P(tie) is largest at d = 0,
    where it is nu / (2 + nu); log-odds of a win against a loss are d, whatever nu.

    Reference: Davidson 1970, "On extending the Bradley-Terry model to accommodate ties", JASA 65, Eq. 2.3.
    """
    r_w, r_l = clean(where, chosen_rewards, rejected_rewards)
    d = (r_w - r_l) / temperature
    log_nu = jnp.broadcast_to(jnp.log(jnp.asarray(nu, jnp.float32)), d.shape)
    win = softplus(jnp.logaddexp(-d, log_nu - d / 2.0))
    # With log nu taken out of the sum, nu = 0 leaves a finite gradient to the rows that are no ties.
    tied = jax.nn.logsumexp(jnp.stack([log_nu, d / 2.0, -d / 2.0]), axis=0) - log_nu
    return keep(where, jnp.where(jnp.asarray(tie).astype(bool), tied, win))
