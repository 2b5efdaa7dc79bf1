"""Terms over the vocabulary: logits `[..., V]` in, one float32 scalar per position out.

They are what `jaxpo.ops.head.map_vocab` evaluates chunk by chunk, so that the logits of a batch never exist at once.
Targets are picked by comparing with `arange(V)` rather than by a gather: the comparison fuses with the reduction and
stays local when the vocabulary is sharded.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def log_normalizer(logits: Float[Array, "... V"]) -> Float[Array, "..."]:
    """log sum_v exp z_v, in float32."""
    return jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)


def pick(logits: Float[Array, "... V"], target: Int[Array, "..."]) -> Float[Array, "..."]:
    """z_target without a gather."""
    hit = target[..., None] == jnp.arange(logits.shape[-1], dtype=target.dtype)
    return jnp.sum(jnp.where(hit, logits, 0.0), axis=-1)


def log_prob(logits: Float[Array, "... V"], target: Int[Array, "..."]) -> Float[Array, "..."]:
    """log p(target) = z_target - log sum_v exp z_v, in float32."""
    logits = logits.astype(jnp.float32)
    return pick(logits, target) - log_normalizer(logits)


def entropy(logits: Float[Array, "... V"]) -> Float[Array, "..."]:
    """H(p) = log sum_v exp z_v - sum_v p_v z_v, in nats, float32."""
    logits = logits.astype(jnp.float32)
    lse = log_normalizer(logits)
    return lse - jnp.sum(jnp.exp(logits - lse[..., None]) * logits, axis=-1)


def log_collision(logits: Float[Array, "... V"]) -> Float[Array, "..."]:
    """log sum_v p_v^2 in [-log V, 0], in float32: the chance that two draws from p are the same token."""
    # From the log-probabilities, which are exact near 0: lse(2 z) - 2 lse(z) would cancel for large logits.
    return jax.nn.logsumexp(2.0 * jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1), axis=-1)


def is_argmax(logits: Float[Array, "... V"], target: Int[Array, "..."]) -> Float[Array, "..."]:
    """1.0 where the target has the largest logit (the first one, on a tie), else 0.0; ids outside have none."""
    # A comparison per logit, which is vectorised; the index of a maximum is not on CPU.
    index, chosen = jnp.arange(logits.shape[-1], dtype=target.dtype), pick(logits, target)[..., None]
    earlier = index < target[..., None]
    largest = jnp.all(jnp.where(earlier, logits < chosen, logits <= chosen), axis=-1)
    return (largest & (target >= 0) & (target < logits.shape[-1])).astype(jnp.float32)


def kl_divergence(logits_p: Float[Array, "... V"], logits_q: Float[Array, "... V"]) -> Float[Array, "..."]:
    """KL(p || q) = sum_v p_v (log p_v - log q_v) >= 0, in nats, float32; differentiable in both arguments."""
    log_p = jax.nn.log_softmax(logits_p.astype(jnp.float32), axis=-1)
    log_q = jax.nn.log_softmax(logits_q.astype(jnp.float32), axis=-1)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
