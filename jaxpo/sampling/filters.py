"""From logits to a token: penalty, temperature, top-k, top-p, min-p, and the draw. Pure functions, float32."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxpo.sampling.sampler import Sampler

REMOVED = -jnp.inf


class Sampled(NamedTuple):
    """Drawn tokens and what they cost.

    Attributes:
      tokens: `[B]` int32.
      logps: `[B]` float32, log-prob under the model's own distribution: whole vocabulary, temperature 1, no penalty, no
        filter. Teacher forcing of the same text gives this number.
      sampling_logps: `[B]` float32, log-prob under the distribution that the token was drawn from (0 when greedy).
    """

    tokens: Int[Array, "B"]
    logps: Float[Array, "B"]
    sampling_logps: Float[Array, "B"]


def penalise(logits: Float[Array, "B V"], seen: Bool[Array, "B V"], penalty: float) -> Float[Array, "B V"]:
    """`z / penalty` where z > 0, else `z * penalty`, for the tokens already seen."""
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(logits: Float[Array, "B V"], k: int) -> Float[Array, "B V"]:
    """The k largest logits and all that tie with the k-th; the others become -inf."""
    smallest = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][..., -1:]
    return jnp.where(logits < smallest, REMOVED, logits)


def keep_top_p(logits: Float[Array, "B V"], p: float) -> Float[Array, "B V"]:
    """Tokens before which, in order of falling probability, less than p has been collected: always the first one."""
    order = jnp.argsort(logits, axis=-1, descending=True, stable=True)
    probs = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
    before = jnp.cumsum(probs, axis=-1) - probs
    kept_in_order = (before < p).at[..., 0].set(True)
    rank = jnp.argsort(order, axis=-1)
    return jnp.where(jnp.take_along_axis(kept_in_order, rank, axis=-1), logits, REMOVED)


def keep_min_p(logits: Float[Array, "B V"], min_p: float) -> Float[Array, "B V"]:
    """Tokens with `p >= min_p * max p`."""
    floor = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(jnp.float32(min_p))
    return jnp.where(logits < floor, REMOVED, logits)


def filter_logits(
    logits: Float[Array, "B V"],
    sampler: Sampler,
    *,
    seen: Bool[Array, "B V"] | None = None,
    vocab_limit: int | None = None,
) -> Float[Array, "B V"]:
    """Logits of the sampling distribution: penalty, temperature, top-k, top-p, min-p, in this order; -inf = removed.

    Args:
      logits: `[B, V]`, of any float type; computed in float32.
      sampler: settings; greedy leaves the logits undivided and unfiltered.
      seen: `[B, V]`, tokens of the row's prompt and answer so far; needed when there is a repetition penalty.
      vocab_limit: rows of the vocabulary from here on belong to no token and are removed first.

    Raises:
      ValueError: a repetition penalty without `seen`.
    """
    z = logits.astype(jnp.float32)
    if vocab_limit is not None and vocab_limit < z.shape[-1]:
        z = jnp.where(jnp.arange(z.shape[-1]) < vocab_limit, z, REMOVED)
    if sampler.repetition_penalty != 1:
        if seen is None:
            raise ValueError("a repetition penalty needs `seen`, the tokens of each row so far")
        z = penalise(z, seen, sampler.repetition_penalty)
    if sampler.greedy:
        return z
    z = z / sampler.temperature
    if sampler.top_k:
        z = keep_top_k(z, sampler.top_k)
    if sampler.top_p < 1:
        z = keep_top_p(z, sampler.top_p)
    if sampler.min_p > 0:
        z = keep_min_p(z, sampler.min_p)
    return z


def sample(
    logits: Float[Array, "B V"],
    keys: Key[Array, "B"],
    sampler: Sampler,
    *,
    seen: Bool[Array, "B V"] | None = None,
    vocab_limit: int | None = None,
) -> Sampled:
    """Draw one token per row, each with its own key, so that a row's draw does not depend on its neighbours.

    Args:
      logits: `[B, V]` of the model, unfiltered.
      keys: `[B]` typed keys; unused when greedy.
      sampler, seen, vocab_limit: see `filter_logits`.
    """
    z = filter_logits(logits, sampler, seen=seen, vocab_limit=vocab_limit)
    tokens = jnp.argmax(z, axis=-1) if sampler.greedy else jax.vmap(jax.random.categorical)(keys, z)
    logps = _log_prob(logits.astype(jnp.float32), tokens)
    drawn = jnp.zeros_like(logps) if sampler.greedy else _log_prob(z, tokens)
    return Sampled(tokens.astype(jnp.int32), logps, drawn)


def _log_prob(logits: Float[Array, "B V"], tokens: Int[Array, "B"]) -> Float[Array, "B"]:
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)
