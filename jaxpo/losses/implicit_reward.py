"""SFT as implicit reward learning: f-SFT losses and the Q-function view of logits (arXiv:2507.00018)."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpo.losses.numerics import at_most, both, check_choice, clean, keep, per_token

Divergence = Literal["tv", "chi2", "hellinger", "js", "kl"]

GUARD = {"hellinger": 0.9, "js": 0.6, "kl": 20.0}
"""Beyond this argument the conjugate goes on along its tangent: Hellinger's ends at 1, Jensen-Shannon's at log 2, and
KL's leaves float32 at 88."""


def f_conjugate(t: Float[Array, "..."], divergence: Divergence) -> Float[Array, "..."]:
    """Convex conjugate f* of an f-divergence's generator with f(1) = f'(1) = 0, so that f*(0) = 0 and f*'(0) = 1.

        tv: t      chi2: t + t^2 / 4      hellinger: t / (1 - t)      js: -log(2 - e^t)      kl: e^t - 1

    Total variation is taken on its linear piece, |t| <= 1/2, everywhere; see `GUARD` for the ends of the others, where
    value and slope go on without a break.
    """
    if divergence not in GUARD:
        return _conjugate(t, divergence)
    end = jnp.float32(GUARD[divergence])
    # Chosen, not added: a sum of both pieces would lose the small slopes below the guard to rounding.
    tangent = _conjugate(end, divergence) + f_conjugate_slope(end, divergence) * (t - end)
    return jnp.where(t > end, tangent, _conjugate(at_most(t, end), divergence))


def _conjugate(t: Float[Array, "..."], divergence: Divergence) -> Float[Array, "..."]:
    check_choice("divergence", divergence, get_args(Divergence))
    if divergence == "tv":
        return t
    if divergence == "chi2":
        return t + 0.25 * jnp.square(t)
    if divergence == "hellinger":
        return t / (1.0 - t)
    if divergence == "js":
        return -jnp.log1p(-jnp.expm1(t))
    return jnp.expm1(t)


def f_conjugate_slope(t: Float[Array, "..."], divergence: Divergence) -> Float[Array, "..."]:
    """f*'(t): the weight that multiplies the SFT gradient. 1 at t = 0; constant beyond `GUARD`.

    Kink at the guard: the derivative there is that of the curve below it.
    """
    check_choice("divergence", divergence, get_args(Divergence))
    t = t if divergence not in GUARD else at_most(t, GUARD[divergence])
    if divergence == "tv":
        return jnp.ones_like(t)
    if divergence == "chi2":
        return 1.0 + 0.5 * t
    if divergence == "hellinger":
        return 1.0 / jnp.square(1.0 - t)
    if divergence == "js":
        return jnp.exp(t) / (2.0 - jnp.exp(t))
    return jnp.exp(t)


def implicit_reward(
    logps: Float[Array, "B"],
    ref_logps: Float[Array, "B"],
    lengths: Float[Array, "B"],
    values: Float[Array, "B"] | Float[Array, ""] | float = 0.0,
    *,
    divergence: Divergence = "chi2",
    beta: float = 1.0,
    reduction: Literal["sum", "mean"] = "mean",
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """f-SFT: fine-tuning on demonstrations as the matching of distributions under the reward beta log(pi / pi_ref) + V.

        L = f*(-(beta rho + V)) + V,    rho = P - R    (reduction "mean": rho = (P - R) / |y|)

    The gradient is the SFT gradient times beta f*'(-(beta rho + V)): 1 at first, and except for total variation it
    fades as the policy moves away from the model that it started from.

    Args:
      logps: `[B]` P, log-probability of the demonstrated response, summed over its tokens, in nats.
      ref_logps: `[B]` R under the model before SFT.
      lengths: `[B]` |y| in tokens; read by the mean alone.
      values: V, soft value of the prompt, `[B]` or one number. It must be tied between examples: minimised over a V of
        each example's own, every f gives plain SFT, -beta rho.
      divergence: f.
      beta: scale of the reward; beta rho should be of order 1, so about 1 / |y| for sums.
      reduction: rho summed over tokens, or their mean.
      where: `[B]` False where there is no demonstration.

    Returns:
      `[B]` float32 loss; 0 where there is no demonstration or no token.

    Limits: tv is beta (R - P) for any V: SFT, the reference a constant. chi2's slope is 0 at beta rho = 2 and reverses
    beyond; those of the others stay positive.

    Reference: Wang et al. 2025, arXiv:2507.00018. The formulas are reconstructed from its abstract (the conjugate form
    of min_pi D_f + beta KL, as in inverse soft Q-learning); its choice of V is not known.
    """
    check_choice("reduction", reduction, ("sum", "mean"))
    where = both(where, lengths > 0)
    p, r, n, v = clean(where, logps, ref_logps, lengths, jnp.broadcast_to(jnp.asarray(values), logps.shape))
    rho = p - r if reduction == "sum" else per_token(p - r, n)
    return keep(where, f_conjugate(-(beta * rho + v), divergence) + v)


def soft_value(logits: Float[Array, "... V"], *, beta: float = 1.0) -> Float[Array, "..."]:
    """V(s) = beta log sum_a exp logits(s, a): the soft value of a prefix when beta times the logits are read as Q.

    Reference: Wang et al. 2025, arXiv:2507.00018, which carries this view from preference-tuned models to SFT models.
    """
    return beta * jax.nn.logsumexp(jnp.asarray(logits).astype(jnp.float32), axis=-1)


def q_rewards(
    logits: Float[Array, "... T+1 V"], tokens: Int[Array, "... T"], *, beta: float = 1.0
) -> Float[Array, "... T"]:
    """Rewards that the logits, read as Q-values, stand for: r_t = Q(s_t, a_t) - V(s_{t+1}).

    They telescope: sum_t r_t = beta log pi(y|x) + V(s_1) - V(s_{T+1}).

    Args:
      logits: `[..., T + 1, V]` of the states s_1 (the prompt) to s_{T+1} (after the last token).
      tokens: `[..., T]` the response.
      beta: scale of the reward.

    Returns:
      `[..., T]` float32.

    Reference: Wang et al. 2025, arXiv:2507.00018.
    """
    q = beta * jnp.asarray(logits).astype(jnp.float32)[..., :-1, :]
    taken = jnp.take_along_axis(q, tokens[..., None], axis=-1)[..., 0]
    return taken - soft_value(logits[..., 1:, :], beta=beta)
