"""SPO, self-play preference optimisation (arXiv:2401.04056): win rates as rewards, and the game that they play.

`P(a, b)` in [-1, 1] says how much a is preferred to b: +1 always, -1 never, and P(a, b) = -P(b, a). A probability p of
winning is P = 2 p - 1. (SPPO, arXiv:2405.00675, is another method.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.recurrence import A, namespace, under


def win_rates(preferences: Float[A, "... K O"], known: Bool[A, "... K O"]) -> Float[A, "... K"]:
    """Rewards of K answers: how often they beat their opponents.

        r_i = mean over the opponents o of P(y_i, o)

    Args:
      preferences: `[..., K, O]` P; numpy or jax. Of a group of siblings O is K, and the queue of earlier samples may
        stand beside them.
      known: `[..., K, O]` True where a comparison was made, never with itself; the others may hold anything, NaN too.

    Returns:
      `[..., K]` of the kind given, in [-1, 1]; 0 without opponents. Constants of the update.

    Limits: of siblings that are all compared the rewards add up to 0, so that their mean as a baseline changes nothing;
    a constant oracle gives 0. Under a total order they are 1 for the best and -1 for the worst.

    Reference: Swamy et al. 2024, arXiv:2401.04056, section 4; the scale is reconstructed.
    """
    xp = namespace(preferences)
    on = xp.asarray(known, dtype=bool)
    count = xp.sum(xp.where(on, 1.0, 0.0), axis=-1)
    found: A = xp.sum(under(on, preferences), axis=-1) / xp.maximum(count, 1.0)
    return found


def asymmetry(preferences: Float[A, "... K K"], known: Bool[A, "... K K"]) -> Float[A, "..."]:
    """Mean of `|P(a, b) + P(b, a)|` over the pairs that were compared both ways round; 0 of a proper oracle."""
    xp = namespace(preferences)
    on = xp.asarray(known, dtype=bool)
    both = on & xp.swapaxes(on, -1, -2)
    p = under(on, preferences)
    apart = xp.where(both, xp.abs(p + xp.swapaxes(p, -1, -2)), 0.0)
    count = xp.sum(xp.where(both, 1.0, 0.0), axis=(-1, -2))
    found: A = xp.sum(apart, axis=(-1, -2)) / xp.maximum(count, 1.0)
    return found


def even_rewards(score: Float[A, "N"], mask: Bool[A, "N T"]) -> Float[A, "N T"]:
    """`r_t = r / H`: an answer's reward split evenly over its H tokens, which leaves its undiscounted sum as it was.

    Reference: Swamy et al. 2024, arXiv:2401.04056, section 4.
    """
    xp = namespace(score)
    on = xp.asarray(mask, dtype=bool)
    here = xp.where(on, 1.0, 0.0)
    found: A = under(on, here * score[..., None]) / xp.maximum(xp.sum(here, axis=-1), 1.0)[..., None]
    return found


def exploitability(payoffs: Float[Array, "N N"], policy: Float[Array, "N"]) -> Float[Array, ""]:
    """`max_q sum_ab q_a P(a, b) p_b >= 0`: what the best answer wins from a policy; 0 only of a minimax winner."""
    return jnp.max(jnp.asarray(payoffs, jnp.float32) @ jnp.asarray(policy, jnp.float32))


def self_play(
    payoffs: Float[Array, "N N"], *, learning_rate: float = 0.1, steps: int = 4000
) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
    """One learner (Hedge) that plays the game against itself.

        r = P p,    p <- p exp(eta r) / Z

    Args:
      payoffs: `[N, N]` P of N answers, antisymmetric.
      learning_rate: eta.
      steps: T.

    Returns:
      The average iterate and the last one, `[N]`. The exploitability of the average is at most
      log(N) / (eta T) + eta / 2; a Condorcet winner is the limit of both. In a cycle the last iterate goes round.

    Reference: Swamy et al. 2024, arXiv:2401.04056, theorem 2; Freund and Schapire 1999.
    """
    p = jnp.asarray(payoffs, jnp.float32)
    start = jnp.zeros(p.shape[0], jnp.float32)

    def step(_: int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        logits, total = state
        policy = jax.nn.softmax(logits)
        return logits + learning_rate * p @ policy, total + policy

    logits, total = jax.lax.fori_loop(0, steps, step, (start, jnp.zeros_like(start)))
    return total / steps, jax.nn.softmax(logits)
