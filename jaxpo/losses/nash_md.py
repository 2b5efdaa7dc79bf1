"""Nash mirror descent from human feedback (arXiv:2312.00886): against a mixture of the policy with its reference."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.importance import constant, trained
from jaxpo.losses.numerics import clean, masked_sum


def nash_md(
    logps: Float[Array, "N T"],
    ref_logps: Float[Array, "N T"],
    preference: Float[Array, "N"],
    mask: Bool[Array, "N T"],
    *,
    beta: float = 0.1,
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N"]:
    """A policy gradient on the probability of winning, tied to the reference.

        L = sum_t (beta sg(log pi_t - log ref_t) - (P - 1/2)) log pi_t

    Args:
      logps: `[N, T]` log-probs of the tokens of the policy's answer, nats.
      ref_logps: `[N, T]` under the frozen reference; no gradient.
      preference: `[N]` P, probability that the answer is preferred to one drawn from the mixture
        softmax((1 - c) logits + c reference logits); no gradient.
      mask: `[N, T]` True on the tokens that are trained on; the others may hold anything, NaN included.
      beta: strength of the tie to the reference.
      where: `[N]` False where there is no answer.

    Returns:
      `[N]` float32, 0 where there is no answer. Its value says nothing.

    Limits: no gradient at pi = ref and P = 1/2. The weights are those of single tokens, as in TRL, so that the gradient
    of the KL is biased: the exact one has the log-ratio of the whole answer on every token.

    Reference: Munos et al. 2023, arXiv:2312.00886; TRL's former Nash-MD trainer.
    """
    on = trained(mask, where)
    now, frozen = clean(on, logps)[0], constant(on, ref_logps)
    gain = jax.lax.stop_gradient(jnp.asarray(preference).astype(jnp.float32))[..., None] - 0.5
    return masked_sum((beta * jax.lax.stop_gradient(now - frozen) - jnp.where(on, gain, 0.0)) * now, on)
