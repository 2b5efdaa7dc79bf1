"""From the model's logits to those that a token is chosen by: pure functions, float32, every setting `[B]`.

In transformers' order: mask, bias, penalties and minimum length on the logits by id (`process`), then temperature,
top-k, top-p and min-p. These need the tokens in order of falling logits, which `keep_in_order` takes; where only the
temperature and min-p are set, `keep_by_id` takes them as they are. A setting that is off leaves a row's bits as they
were, so that work for one row may be done on all.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxpo.sampling.row_settings import WORD, RowSettings

REMOVED = -jnp.inf


def process(
    logits: Float[Array, "B V"], settings: RowSettings, tokens: Int[Array, "B T"], length: Int[Array, "B"]
) -> Float[Array, "B V"]:
    """Logits after the mask, the bias, the penalties and the minimum length; -inf = removed.

    Args:
      tokens: of the prompt and the answer; those from `length` on do not count.
      length: `[B]` tokens so far.
    """
    z = keep_allowed(logits.astype(jnp.float32), settings.mask)
    width = tokens.shape[1]
    biased = settings.bias_ids >= 0
    repeats = settings.repetition_penalty != 1
    counts = (settings.frequency_penalty != 0) | (settings.presence_penalty != 0)
    early = length < settings.min_length
    there = jnp.arange(width) < length[:, None]
    answer = there & (jnp.arange(width) >= settings.start[:, None])

    def change(z: Array) -> Array:
        z = _if_any(biased, lambda z: add_bias(z, settings.bias_ids, settings.bias_values), z)
        z = _if_any(repeats, lambda z: penalise_seen(z, occurrences(tokens, there, z), settings.repetition_penalty), z)
        z = _if_any(counts, lambda z: penalise_counts(z, occurrences(tokens, answer, z), settings), z)
        return _if_any(early, lambda z: remove(z, jnp.where(early[:, None], settings.stop_ids, -1)), z)

    return _if_any(jnp.any(biased, axis=1) | repeats | counts | early, change, z)


def _if_any(wanted: Bool[Array, "..."], change: Callable[[Array], Array], z: Array) -> Array:
    return jax.lax.cond(jnp.any(wanted), change, lambda z: z, z)


def keep_allowed(logits: Float[Array, "B V"], mask: UInt32[Array, "B W"]) -> Float[Array, "B V"]:
    """-inf where the bit `i % 32` of word `i // 32` is not set."""
    bits = (mask[:, :, None] >> jnp.arange(WORD, dtype=jnp.uint32)) & 1
    return jnp.where(bits.reshape(mask.shape[0], -1)[:, : logits.shape[1]] == 1, logits, REMOVED)


def add_bias(logits: Float[Array, "B V"], ids: Int[Array, "B N"], values: Float[Array, "B N"]) -> Float[Array, "B V"]:
    """`z[id] + value` for the ids that are not negative."""
    return logits.at[_rows(ids), _there(ids, logits)].add(values, mode="drop")


def occurrences(
    tokens: Int[Array, "B T"], counted: Bool[Array, "B T"], logits: Float[Array, "B V"]
) -> Int[Array, "B V"]:
    """How often each of the V ids occurs at the positions that count."""
    vocabulary = logits.shape[1]
    none = jnp.zeros(logits.shape, jnp.int32)
    return none.at[_rows(tokens), jnp.where(counted, tokens, vocabulary)].add(1, mode="drop")


def penalise_seen(
    logits: Float[Array, "B V"], seen: Int[Array, "B V"], penalty: Float[Array, "B"]
) -> Float[Array, "B V"]:
    """`z / penalty` where z > 0, else `z * penalty`, for the tokens seen once or more."""
    by = penalty[:, None]
    return jnp.where(seen > 0, jnp.where(logits > 0, logits / by, logits * by), logits)


def penalise_counts(
    logits: Float[Array, "B V"], counts: Int[Array, "B V"], settings: RowSettings
) -> Float[Array, "B V"]:
    """`z - frequency_penalty * count - presence_penalty * (count > 0)`."""
    often = settings.frequency_penalty[:, None] * counts
    return logits - (often + settings.presence_penalty[:, None] * (counts > 0))


def remove(logits: Float[Array, "B V"], ids: Int[Array, "B K"]) -> Float[Array, "B V"]:
    """-inf at the ids that are not negative."""
    return logits.at[_rows(ids), _there(ids, logits)].set(REMOVED, mode="drop")


def keep_by_id(
    logits: Float[Array, "B V"], largest: Float[Array, "B"], temperature: Float[Array, "B"], min_p: Float[Array, "B"]
) -> Float[Array, "B V"]:
    """Weights `exp((z - largest) / temperature)`, 0 where below `min_p`: the largest weight is 1."""
    scaled = (logits - largest[:, None]) / temperature[:, None]
    return jnp.where(scaled >= jnp.log(min_p)[:, None], jnp.exp(scaled), 0.0)


def keep_in_order(
    logits: Float[Array, "B C"],
    settings: RowSettings,
    temperature: Float[Array, "B"],
    mass: Float[Array, "B"],
    vocabulary: int,
) -> tuple[Float[Array, "B C"], Bool[Array, "B"]]:
    """Weights of the C largest logits after temperature, top-k, top-p and min-p, and whether no other token has any.

    top-k: the k largest, and all that tie with the k-th. top-p: tokens before which less than p of the mass has been
    collected: always the first one. min-p: tokens with at least min_p times the largest probability.

    Args:
      logits: `[B, C]` in falling order, between equals the smaller id first.
      temperature: positive.
      mass: of `exp((z - largest) / temperature)` over all V, which top-p without top-k is measured by.
    """
    width = logits.shape[1]
    rank = jnp.arange(width)
    scaled = (logits - logits[:, :1]) / temperature[:, None]
    every = jnp.exp(scaled)
    kth = jnp.take_along_axis(logits, jnp.clip(settings.top_k - 1, 0, width - 1)[:, None], axis=1)
    by_k = settings.top_k > 0
    weights = jnp.where(~by_k[:, None] | (logits >= kth), every, 0.0)
    collected = jnp.cumsum(weights, axis=1)
    before = jnp.concatenate([jnp.zeros_like(collected[:, :1]), collected[:, :-1]], axis=1)
    total = jnp.where(by_k, collected[:, -1], mass)
    kept = (rank == 0) | (settings.top_p >= 1)[:, None] | (before < (settings.top_p * total)[:, None])
    weights = jnp.where(kept & (scaled >= jnp.log(settings.min_p)[:, None]), weights, 0.0)
    if width == vocabulary:
        return weights, jnp.ones(logits.shape[:1], bool)
    # The k-th, and so the mass that top-p is measured by, is known only if the last token here lies below it.
    beyond = by_k & ((settings.top_k > width) | (logits[:, -1] >= kth[:, 0]))
    return weights, (every[:, -1] == 0) | ~(beyond | (weights[:, -1] > 0))


def _rows(ids: Int[Array, "B n"]) -> Int[Array, "B 1"]:
    return jnp.arange(ids.shape[0])[:, None]


def _there(ids: Int[Array, "B n"], logits: Float[Array, "B V"]) -> Int[Array, "B n"]:
    """The ids, those that are none beyond the end, where a scatter drops them."""
    return jnp.where(ids >= 0, ids, logits.shape[1])
