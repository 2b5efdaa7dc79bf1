"""Constrained RLHF (arXiv:2310.04373): rewards held at thresholds by learnt multipliers, beside the KL as a reward."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpo.losses.numerics import check_choice

Bound = Literal["sigmoid", "tanh", "unbounded"]
State = dict[str, Array]


def multipliers(logits: Float[Array, "K"], *, bound: Bound = "tanh") -> Float[Array, "K"]:
    """m of the learnt numbers l: sigmoid(l) in (0, 1) for V >= theta, tanh(l) in (-1, 1) for V = theta, or l itself."""
    check_choice("bound", bound, get_args(Bound))
    x = jnp.asarray(logits).astype(jnp.float32)
    if bound == "sigmoid":
        return jax.nn.sigmoid(x)
    return jnp.tanh(x) if bound == "tanh" else x


def constrained_advantages(
    advantages: Float[Array, "... S"], weights: Float[Array, "K"], *, bound: Bound = "tanh"
) -> Float[Array, "..."]:
    """What the policy is trained on: the streams' advantages, weighed by the multipliers.

        A = (K - sum_i m_i) A_0 + sum_i m_i A_i        where they are bounded
        A = A_0 + sum_i m_i A_i                        where they are not

    Args:
      advantages: `[..., 1 + K]` of the KL (0) and of every reward, each standardised by itself.
      weights: `[K]` m; no gradient.
      bound: of the multipliers.

    Limits: m = 0 is K times the KL alone; with sigmoids at 1 the KL is gone.

    Reference: Moskovitz et al. 2023, arXiv:2310.04373, in the form of its code, whose unbounded branch skips the first
    multiplier.
    """
    check_choice("bound", bound, get_args(Bound))
    m, a = (jax.lax.stop_gradient(jnp.asarray(x).astype(jnp.float32)) for x in (weights, advantages))
    base = 1.0 if bound == "unbounded" else m.shape[0] - jnp.sum(m)
    return base * a[..., 0] + a[..., 1:] @ m


def multiplier_loss(
    logits: Float[Array, "K"], values: Float[Array, "K"], thresholds: Float[Array, "K"], *, bound: Bound = "tanh"
) -> Float[Array, "K"]:
    """What the multipliers descend: below its threshold a reward's multiplier rises, above it falls.

        L_i = m(l_i) (V_i - theta_i),    dL_i / dl_i = m'(l_i) (V_i - theta_i)

    Args:
      logits: `[K]` l.
      values: `[K]` V, mean return of the answers under each reward; no gradient.
      thresholds: `[K]` theta.

    Returns:
      `[K]` float32; sum over the constraints. V = theta is a fixed point.

    Reference: Moskovitz et al. 2023, arXiv:2310.04373, section 4.
    """
    v, theta = (jnp.asarray(x).astype(jnp.float32) for x in (values, thresholds))
    return multipliers(logits, bound=bound) * jax.lax.stop_gradient(v - theta)


def update_multipliers(
    state: State,
    values: Float[Array, "K"],
    thresholds: Float[Array, "K"],
    *,
    bound: Bound = "tanh",
    learning_rate: float = 0.1,
    momentum: float = 0.1,
    max_norm: float = 0.5,
) -> State:
    """A step of gradient descent on `multiplier_loss`, its gradient cut to a norm.

        g <- g min(1, max_norm / |g|),    v <- momentum v + g,    l <- l - learning_rate v

    Args:
      state: "logits" and "velocity", each `[K]`.
    """

    def loss(logits: Array) -> Array:
        return jnp.sum(multiplier_loss(logits, values, thresholds, bound=bound))

    gradient = jax.grad(loss)(state["logits"])
    norm = jnp.sqrt(jnp.sum(jnp.square(gradient)))
    gradient = gradient * jnp.minimum(1.0, max_norm / jnp.maximum(norm, 1e-12))
    velocity = momentum * state["velocity"] + gradient
    return {"logits": state["logits"] - learning_rate * velocity, "velocity": velocity}


def constrained_policy(
    reference: Float[Array, "Y"],
    rewards: Float[Array, "K Y"],
    weights: Float[Array, "K"],
    *,
    bound: Bound = "tanh",
    coef: float = 1.0,
) -> Float[Array, "Y"]:
    """The best policy over Y answers for fixed multipliers: `pi ~ pi_ref exp(sum_i m_i r_i / (c (K - sum_i m_i)))`.

    Args:
      coef: c, weight of the KL in its reward. Unbounded multipliers are divided by c alone.

    Limits: with one reward and m = tanh at -1 its exponent is -r / (2 c): rewards that only a stronger aversion would
    reach are out of reach, however long the multiplier is led there.
    """
    m, r = jnp.asarray(weights).astype(jnp.float32), jnp.asarray(rewards).astype(jnp.float32)
    base = 1.0 if bound == "unbounded" else jnp.maximum(m.shape[0] - jnp.sum(m), 1e-6)
    return jax.nn.softmax(jnp.log(jnp.asarray(reference).astype(jnp.float32)) + m @ r / (coef * base))


def constrained_dual(
    reference: Float[Array, "Y"],
    rewards: Float[Array, "K Y"],
    thresholds: Float[Array, "K"],
    *,
    bound: Bound = "tanh",
    coef: float = 1.0,
    learning_rate: float = 0.1,
    steps: int = 20_000,
) -> tuple[Float[Array, "K"], Float[Array, "Y"]]:
    """Multipliers and policy of a bandit: the policy is the best for the multipliers, which are led by its rewards.

    Returns:
      `(m, pi)`. Where a threshold can be reached, pi's mean reward is there; else the multiplier is at its bound.
    """
    r = jnp.asarray(rewards).astype(jnp.float32)
    start = jnp.zeros(r.shape[0], jnp.float32)

    def step(_: int, logits: Array) -> Array:
        policy = constrained_policy(reference, r, multipliers(logits, bound=bound), bound=bound, coef=coef)
        state = {"logits": logits, "velocity": jnp.zeros_like(logits)}
        how = {"learning_rate": learning_rate, "momentum": 0.0}
        return update_multipliers(state, r @ policy, thresholds, bound=bound, **how)["logits"]

    found = multipliers(jax.lax.fori_loop(0, steps, step, start), bound=bound)
    return found, constrained_policy(reference, r, found, bound=bound, coef=coef)
