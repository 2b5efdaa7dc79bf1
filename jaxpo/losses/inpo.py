"""Iterative Nash policy optimisation (arXiv:2407.00617), and the game that it solves, where responses can be listed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep


def inpo(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    previous_chosen_logps: Float[Array, "B"],
    previous_rejected_logps: Float[Array, "B"],
    *,
    eta: float = 0.005,
    tau: float | None = None,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """INPO: one step of online mirror descent as a regression on pairs that the last iterate wrote.

        h = (P_w - P_l) - (tau / eta) (R_w - R_l) - (1 - tau / eta) (Q_w - Q_l)
        L = (h - 1 / (2 eta))^2

    Args:
      chosen_logps: `[B]` P_w, log-probability of the winner, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the loser.
      ref_chosen_logps: `[B]` R_w, the same under the fixed reference.
      ref_rejected_logps: `[B]` R_l.
      previous_chosen_logps: `[B]` Q_w, the same under the last iterate, which wrote both responses.
      previous_rejected_logps: `[B]` Q_l.
      eta: inverse step size of mirror descent; 1 / (2 eta) nats are the target.
      tau: strength of the tie to the reference, at most eta; None = eta / 3.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: `ipo_sum` with beta = eta at tau = eta, and for every tau where the last iterate is the reference. A swap of
    the pair sends h to -h. For responses of the last iterate it is, up to a constant, the regression of h on
    (P(y_w > pi_t) - P(y_l > pi_t)) / eta, whose minimum is `mirror_step`; from elsewhere it is not.

    Reference: Zhang et al. 2024, arXiv:2407.00617, Eq. 7 (Sec. 3.2).
    """
    p_w, p_l, r_w, r_l, q_w, q_l = clean(
        where,
        chosen_logps,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        previous_chosen_logps,
        previous_rejected_logps,
    )
    share = 1.0 / 3.0 if tau is None else tau / eta
    h = (p_w - p_l) - share * (r_w - r_l) - (1.0 - share) * (q_w - q_l)
    return keep(where, jnp.square(h - 1.0 / (2.0 * eta)))


def mirror_step(
    previous: Float[Array, "Y"],
    reference: Float[Array, "Y"],
    preference: Float[Array, "Y Y"],
    *,
    eta: float,
    tau: float,
) -> Float[Array, "Y"]:
    """The next iterate of online mirror descent in closed form, as log-probabilities of all Y responses.

        log pi_{t+1}(y) = P(y > pi_t) / eta + (tau / eta) log ref(y) + (1 - tau / eta) log pi_t(y) - log Z

    Args:
      previous: `[Y]` log pi_t, normalised.
      reference: `[Y]` log ref, normalised.
      preference: `[Y, Y]` P(row > column), in [0, 1]; P + P^T = 1.
      eta, tau: as of `inpo`.

    Limits: the reference and the preferences alone at tau = eta.

    Reference: Zhang et al. 2024, arXiv:2407.00617, Eq. 4.
    """
    wins = preference @ jnp.exp(previous)
    return jax.nn.log_softmax(wins / eta + (tau / eta) * reference + (1.0 - tau / eta) * previous)


def duality_gap(
    policy: Float[Array, "Y"],
    reference: Float[Array, "Y"],
    preference: Float[Array, "Y Y"],
    *,
    tau: float,
) -> Float[Array, ""]:
    """How much both players of the symmetric game could gain together if each answered the policy best.

        J(p, q) = E P(y_p > y_q) - tau KL(p || ref) + tau KL(q || ref)
        gap = max_p J(p, pi) - min_q J(pi, q) = 2 (tau log Z + tau KL(pi || ref)) - 1,
        Z = sum_y ref(y) exp(P(y > pi) / tau)

    Args:
      policy, reference: `[Y]` log-probabilities, normalised.
      preference: `[Y, Y]` P(row > column); P + P^T = 1.
      tau: strength of the tie to the reference.

    Limits: 0 at the Nash policy and nowhere else; never negative.

    Reference: the game of Zhang et al. 2024, arXiv:2407.00617, Sec. 2; its best responses are soft maxima.
    """
    wins = preference @ jnp.exp(policy)
    log_z = jax.nn.logsumexp(reference + wins / tau)
    kl = jnp.sum(jnp.exp(policy) * (policy - reference))
    return 2.0 * tau * (log_z + kl) - 1.0
