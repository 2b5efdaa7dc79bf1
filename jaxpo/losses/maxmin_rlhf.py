"""MaxMin-RLHF: reward models of groups found by EM, and the policy that serves the worst of them (arXiv:2402.08925)."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import check_choice, clean, keep, softplus


def maxmin_rlhf(
    chosen_rewards: Float[Array, "B K"],
    rejected_rewards: Float[Array, "B K"],
    responsibilities: Float[Array, "B K"],
    *,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B K"]:
    """The M step: Bradley-Terry of each group's model on the pairs of its users.

        L_ik = gamma_ik softplus(-(r_k(y_w) - r_k(y_l)))

    Args:
      chosen_rewards, rejected_rewards: `[B, K]` of every group's model or head.
      responsibilities: `[B, K]` gamma of the pair's user: one 1 in hard EM. No gradient.
      where: `[B]` False where there is no pair.

    Returns:
      `[B, K]` float32, 0 where there is no pair; the objective is sum_k (sum_i L_ik) / (sum_i gamma_ik), where a group
      without users adds nothing.

    Limits: K = 1 is Bradley-Terry.

    Reference: Chakraborty et al. 2024, arXiv:2402.08925, Algorithm 2.
    """
    here = None if where is None else where[:, None]
    r_w, r_l, gamma = clean(here, chosen_rewards, rejected_rewards, responsibilities)
    return keep(here, jax.lax.stop_gradient(gamma) * softplus(r_l - r_w))


def maxmin_responsibilities(
    log_likelihoods: Float[Array, "U K"],
    proportions: Float[Array, "K"] | None = None,
    *,
    hard: bool = True,
) -> Float[Array, "U K"]:
    """The E step, of users, not of pairs: gamma_uk ~ p_k prod_{i of u} sigmoid(D_ik), or all on the likeliest group.

    Args:
      log_likelihoods: `[U, K]` sum over a user's pairs of log sigmoid(D_ik).
      proportions: `[K]` p of the soft form, last round's mean of gamma; None = equal.
      hard: all on the largest; of equal ones on the first.

    Returns:
      `[U, K]` float32, rows sum to 1.

    Limits: soft becomes hard as the pairs of each user grow; relabelling groups permutes the columns.

    Reference: Chakraborty et al. 2024, arXiv:2402.08925, Algorithm 2; the soft form is standard EM.
    """
    likelihood = jnp.asarray(log_likelihoods).astype(jnp.float32)
    if hard:
        return jax.nn.one_hot(jnp.argmax(likelihood, axis=-1), likelihood.shape[-1], dtype=jnp.float32)
    if proportions is None:
        return jax.nn.softmax(likelihood, axis=-1)
    p = jnp.asarray(proportions).astype(jnp.float32)
    log_p = jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1.0)), -jnp.inf)
    return jax.nn.softmax(likelihood + log_p, axis=-1)


def maxmin_rewards(
    rewards: Float[Array, "B K"],
    *,
    mode: Literal["group", "sample"] = "group",
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """What a policy is paid: the rewards of the group whose mean over the batch is smallest, or each sample's least.

    "group" follows the paper's max_pi min_u E[r_u] (a subgradient of the minimum); "sample" is what its code does,
    E[min_u r_u], which is never larger and forbids to serve groups by different responses.

    Args:
      rewards: `[B, K]` on one scale, such as z-scores over common responses.
      mode: see above.
      where: `[B]` False where there is no response.

    Returns:
      `[B]` float32, 0 where there is no response; of "group" the mean is the worst group's.

    Reference: Chakraborty et al. 2024, arXiv:2402.08925, Eq. 8; its code, training/robust_rlhf.py.
    """
    check_choice("mode", mode, ("group", "sample"))
    here = None if where is None else where[:, None]
    (r,) = clean(here, rewards)
    if mode == "sample":
        return keep(where, jnp.min(r, axis=-1))
    return keep(where, jnp.take(r, jnp.argmin(jnp.sum(r, axis=0)), axis=1))


def maxmin_weights(
    weights: Float[Array, "K"], utilities: Float[Array, "K"], *, learning_rate: float | Float[Array, ""] = 0.1
) -> Float[Array, "K"]:
    """lambda_u <- lambda_u exp(-eta F_u) / Z: a step of mirror descent towards the groups that fare worst.

    Args:
      weights: `[K]` lambda on the simplex; the policy is then paid sum_u lambda_u r_u.
      utilities: `[K]` F_u, mean reward of each group under the policy; a constant in all of them changes nothing.
      learning_rate: eta.

    Reference: the smooth form of the minimum; standard mirror ascent.
    """
    p, f = (jnp.asarray(x).astype(jnp.float32) for x in (weights, utilities))
    return jax.nn.softmax(jnp.log(p) - learning_rate * f)


def maxmin_policy(
    reference: Float[Array, "X Y"], rewards: Float[Array, "K X Y"], weights: Float[Array, "K"], *, beta: float = 1.0
) -> Float[Array, "X Y"]:
    """pi ~ pi_ref exp(sum_u lambda_u r_u / beta) over Y responses to each of X prompts: the best for weights lambda."""
    mixed = jnp.einsum("u,uxy->xy", jnp.asarray(weights).astype(jnp.float32), jnp.asarray(rewards).astype(jnp.float32))
    return jax.nn.softmax(jnp.log(jnp.asarray(reference).astype(jnp.float32)) + mixed / beta, axis=-1)


def maxmin_dual(
    reference: Float[Array, "X Y"], rewards: Float[Array, "K X Y"], *, beta: float = 1.0, steps: int = 4000
) -> tuple[Float[Array, "K"], Float[Array, ""]]:
    """The tabular solution of max_pi min_u F_u, by its dual.

        F_u(pi) = E_x E_{y ~ pi} r_u(x, y) - beta KL(pi || pi_ref)
        max_pi min_u F_u = min_lambda E_x beta log sum_y pi_ref e^(sum_u lambda_u r_u / beta)

    Args:
      reference: `[X, Y]` pi_ref, every entry above 0; prompts count alike.
      rewards: `[K, X, Y]`.
      beta: of the divergence.
      steps: of mirror descent on lambda, at the step beta / range^2 at which it cannot overshoot.

    Returns:
      `(lambda* [K], V* [])`; the policy is `maxmin_policy(reference, rewards, lambda*)`. Groups with lambda* > 0 have
      equal F; for every other lambda the dual is no smaller, and min_u F_u of its policy no larger.

    Reference: standard convex duality; objective of arXiv:2402.08925, Eq. 8.
    """
    ref, r = (jnp.asarray(x).astype(jnp.float32) for x in (reference, rewards))
    # What is common to all responses of a prompt does not bend the dual: only the spread of the rewards does.
    spread = jnp.max(jnp.max(r, axis=-1) - jnp.min(r, axis=-1))
    rate = beta / jnp.maximum(jnp.square(spread), 1e-12)

    def step(_: int, weights: Array) -> Array:
        policy = maxmin_policy(ref, r, weights, beta=beta)
        return maxmin_weights(weights, jnp.mean(jnp.sum(policy * r, axis=-1), axis=-1), learning_rate=rate)

    found = jax.lax.fori_loop(0, steps, step, jnp.full(r.shape[0], 1.0 / r.shape[0], jnp.float32))
    mixed = jnp.einsum("u,uxy->xy", found, r)
    return found, beta * jnp.mean(jax.nn.logsumexp(jnp.log(ref) + mixed / beta, axis=-1))
