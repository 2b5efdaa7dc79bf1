"""Proximal policy optimisation (arXiv:1707.06347): the terms of policy and critic at every token."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.importance import clipped_surrogate, constant, log_ratios, trained
from jaxpo.losses.numerics import clean, keep


def ppo(
    logps: Float[Array, "N T"],
    old_logps: Float[Array, "N T"],
    advantages: Float[Array, "N T"],
    mask: Bool[Array, "N T"],
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    dual_clip: float | None = None,
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N T"]:
    """The clipped policy gradient term of every token.

        w = exp(log pi - log pi_old)
        l = max(-w A, -clip(w, 1 - epsilon, 1 + epsilon_high) A);    l = min(l, -c A) where A < 0, with a dual clip c

    Args:
      logps: `[N, T]` log-probs of the answers' tokens, nats.
      old_logps: `[N, T]` under the policy that wrote them; no gradient.
      advantages: `[N, T]`, as of `gae` and whitened over the rollout; no gradient.
      mask: `[N, T]` True on the tokens that are trained on; the others may hold anything, NaN included.
      epsilon: how far the ratio may fall.
      epsilon_high: how far it may rise; None = epsilon.
      dual_clip: c > 1 + epsilon_high, bound of the ratio where the advantage is negative; None = none. verl takes 3.
      where: `[N]` False where there is no answer.

    Returns:
      `[N, T]` float32, 0 outside the mask.

    Raises:
      ValueError: a dual clip inside the clip range, where the two formulas of it differ.

    Limits: -A at pi = pi_old, with the gradient of -A log pi. Kinks at the clips, and at a log-ratio of +-20.

    Reference: Schulman et al. 2017, arXiv:1707.06347, eq. 7; dual clip: Ye et al. 2020, arXiv:1912.09729.
    """
    high = epsilon if epsilon_high is None else epsilon_high
    if dual_clip is not None and dual_clip <= 1.0 + high:
        raise ValueError(f"dual_clip {dual_clip} must be above 1 + epsilon_high = {1.0 + high}")
    on = trained(mask, where)
    ratio = jnp.exp(log_ratios(logps, old_logps, on))
    terms = clipped_surrogate(ratio, constant(on, advantages), epsilon=epsilon, epsilon_high=high, delta=dual_clip)
    return keep(on, terms)


def ppo_value(
    values: Float[Array, "N T"],
    old_values: Float[Array, "N T"],
    returns: Float[Array, "N T"],
    mask: Bool[Array, "N T"],
    *,
    cliprange_value: float | None = 0.2,
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N T"]:
    """The critic's squared error at every token, pessimistic about large moves.

        l = 1/2 max((v - R)^2, (clip(v, v_old - c, v_old + c) - R)^2)

    Args:
      values: `[N, T]` v of the critic.
      old_values: `[N, T]` v_old when the answers were written; no gradient.
      returns: `[N, T]` R, as of `gae`; no gradient.
      mask: `[N, T]` True on the tokens that are trained on; the others may hold anything, NaN included.
      cliprange_value: c; None = no clip.
      where: `[N]` False where there is no answer.

    Returns:
      `[N, T]` float32 >= 0, 0 outside the mask.

    Limits: half the squared error at v = v_old. A kink where the two errors change places.

    Reference: Schulman et al. 2017, in the form of OpenAI's baselines; TRL's former PPO trainer and verl weigh it 0.1
    and 1.
    """
    on = trained(mask, where)
    (v,), before, aim = clean(on, values), constant(on, old_values), constant(on, returns)
    error = (v - aim) ** 2
    if cliprange_value is not None:
        near = jnp.clip(v, before - cliprange_value, before + cliprange_value)
        error = jnp.maximum(error, (near - aim) ** 2)
    return 0.5 * error
