"""Uncertainty-enhanced preference optimisation (arXiv:2409.11212)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, per_token, smoothed_logistic


def upo(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    smoothing: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    *,
    beta: float = 0.1,
    nll_weight: float = 1.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """UPO: DPO against the last iterate with a smoothing of each pair's own, and the likelihood of the chosen response.

        h = (P_w - R_w) - (P_l - R_l)
        L = (1 - a) softplus(-beta h) + a softplus(beta h) - lambda P_w / |y_w|

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l.
      ref_chosen_logps: `[B]` R_w under the last iterate.
      ref_rejected_logps: `[B]` R_l.
      smoothing: `[B]` a in [0, 1), how doubtful the pair is; `upo_smoothing`. A constant, no gradient passes.
      chosen_lengths: `[B]` |y_w| in tokens.
      beta: strength of the tie to the last iterate.
      nll_weight: lambda.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: without the likelihood `dpo` at a = 0, `dpo` of the swapped pair at a = 1; at a = 1/2 the gradient at h = 0
    is 0. The best margin is logit(1 - a) / beta.

    Reference: Wang et al. 2024, arXiv:2409.11212, Sec. 3; the likelihood is divided by the length and minimised, as in
    the work that it cites, where the paper prints the reward and the other sign.
    """
    arrays = (chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, smoothing, chosen_lengths)
    p_w, p_l, r_w, r_l, a, length = clean(where, *arrays)
    h = beta * ((p_w - r_w) - (p_l - r_l))
    pair = smoothed_logistic(h, jax.lax.stop_gradient(a))  # type: ignore[arg-type]
    return keep(where, pair - nll_weight * per_token(p_w, length))


def upo_information_gain(probabilities: Float[Array, "P T"]) -> Float[Array, "P"]:
    """What the estimator's parameters would tell about each pair: mutual information of its answer and its mask.

        B = H(mean_t p_t) - mean_t H(p_t),    H(p) = -p log p - (1 - p) log(1 - p)

    Args:
      probabilities: `[P, T]` that the pair is in the right order, under T dropout masks.

    Returns:
      `[P]` float32 nats in [0, log 2].

    Limits: 0 where all masks agree, whatever they say; log 2 where half of them say 0 and half say 1; symmetric under
    p -> 1 - p.

    Reference: Wang et al. 2024, arXiv:2409.11212, Sec. 3.2; Houlsby et al. 2011.
    """
    (p,) = clean(None, probabilities)

    def entropy(x: Array) -> Array:
        return -(jax.scipy.special.xlogy(x, x) + jax.scipy.special.xlog1py(1.0 - x, -x))

    return jnp.maximum(entropy(jnp.mean(p, axis=-1)) - jnp.mean(entropy(p), axis=-1), 0.0)


def upo_sampling_weights(information_gain: Float[Array, "P"], *, mu: float = 4.0) -> Float[Array, "P"]:
    """How likely each pair is to be drawn: `P_j = (1 - B_j)^mu / sum_k (1 - B_k)^mu`.

    Args:
      information_gain: `[P]` B of `upo_information_gain`.
      mu: how much certain pairs are preferred; at 0 all are alike. The paper prints a factor, which would cancel.

    Returns:
      `[P]` float32, sum 1.

    Reference: Wang et al. 2024, arXiv:2409.11212, Sec. 3.2, with mu as the exponent.
    """
    (gain,) = clean(None, information_gain)
    return jax.nn.softmax(mu * jnp.log1p(-gain))


def upo_smoothing(weights: Float[Array, "P"], *, c: float | None = None) -> Float[Array, "P"]:
    """How much each pair's label is smoothed: `a_j = 1 / (c P_j + 1)`.

    Args:
      weights: `[P]` P of `upo_sampling_weights`.
      c: scale; None = 9 times their number, which gives a pair of average weight 0.1. The paper prints no c; 1 is its
        formula, whose a lies in [1/2, 1), so that every pair is learnt the wrong way round.

    Returns:
      `[P]` float32 in (0, 1).

    Limits: 0 as c grows without bound. It falls as P grows.

    Reference: Wang et al. 2024, arXiv:2409.11212, Sec. 3.3; the scale is ours.
    """
    (p,) = clean(None, weights)
    scale = 9.0 * p.shape[0] if c is None else c
    return 1.0 / (scale * p + 1.0)
