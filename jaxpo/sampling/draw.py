"""From logits to tokens: every row by its own settings, with its own key, as if it were alone."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxpo.sampling.pick import BLOCK, block_sum, in_blocks, pick
from jaxpo.sampling.processors import keep_by_id, keep_in_order, process
from jaxpo.sampling.request import TOP_LOGPS
from jaxpo.sampling.row_settings import RowSettings
from jaxpo.sampling.whole import keep_whole

CANDIDATES = 256
"""So many of the largest logits are sorted; a row that keeps more looks at all."""


class Drawn(NamedTuple):
    """Drawn tokens and what they cost.

    Attributes:
      tokens: `[B]` int32; 0 where the row failed.
      logps: `[B]` float32, log-prob under the model's own distribution: all V rows of its vocabulary, the padded ones
        too, temperature 1, no penalty, no filter. Teacher forcing of the same text gives this number.
      sampling_logps: `[B]` float32, log-prob under the distribution that the token was drawn from; 0 for greedy rows
        and forced tokens.
      failed: `[B]` rows whose logits hold NaN or +inf, or leave no token to draw; both log-probs are NaN.
    """

    tokens: Int[Array, "B"]
    logps: Float[Array, "B"]
    sampling_logps: Float[Array, "B"]
    failed: Bool[Array, "B"]


def draw(
    logits: Float[Array, "B V"],
    settings: RowSettings,
    tokens: Int[Array, "B T"],
    length: Int[Array, "B"],
    *,
    running: Bool[Array, "B"] | None = None,
) -> Drawn:
    """The next token of every row. What a row gets depends on its own logits, settings and tokens alone, to the bit:
    conditions only skip work that no row needs.

    Args:
      logits: `[B, V]` of the model, of any float type; computed in float32.
      tokens: of the prompt and the answer so far; those from `length` on do not count.
      length: `[B]` tokens so far; the one drawn here is number `length - start` of the answer.
      running: rows whose result is wanted, default those below their limit; the others cost as little as greedy ones.
    """
    logits = logits.astype(jnp.float32)
    running = length < settings.limit if running is None else running
    z = process(logits, settings, tokens, length)
    largest, greedy = first_largest(z)
    number = length - settings.start
    forced = _forced(settings.forced, number)
    sampled = running & (settings.temperature > 0) & (forced < 0)
    chosen, sampling_logps = jax.lax.cond(
        jnp.any(sampled),
        lambda: _sample(z, largest, settings, number, sampled),
        lambda: (greedy, jnp.zeros_like(largest)),
    )
    chosen = jnp.where(forced >= 0, forced, jnp.where(sampled, chosen, greedy))
    sampling_logps = jnp.where(sampled, sampling_logps, 0.0)
    normaliser = log_normaliser(logits)
    failed = ~jnp.isfinite(normaliser) | ((forced < 0) & ~jnp.isfinite(largest))
    chosen = jnp.where(failed, 0, chosen)
    logps = jnp.take_along_axis(logits, chosen[:, None], axis=1)[:, 0] - normaliser
    return Drawn(
        chosen,
        jnp.where(failed, jnp.nan, logps),
        jnp.where(failed, jnp.nan, sampling_logps),
        failed & running,
    )


def top_logps(
    logits: Float[Array, "B V"], wanted: Bool[Array, "B"] | None = None
) -> tuple[Int[Array, "B k"], Float[Array, "B k"]]:
    """The `TOP_LOGPS` most probable ids and their log-probs, as `Drawn.logps`; -1 and NaN where there are none.

    Args:
      wanted: rows that are asked for, default all; nothing is computed if there are none.
    """
    logits = logits.astype(jnp.float32)
    rows, vocabulary = logits.shape
    count = min(TOP_LOGPS, vocabulary)
    wanted = jnp.ones((rows,), bool) if wanted is None else wanted

    def most() -> tuple[Array, Array]:
        values, ids = jax.lax.top_k(logits, count)
        return ids, values - log_normaliser(logits)[:, None]

    def none() -> tuple[Array, Array]:
        return jnp.full((rows, count), -1), jnp.full((rows, count), jnp.nan)

    ids, logps = jax.lax.cond(jnp.any(wanted), most, none)
    pad = ((0, 0), (0, TOP_LOGPS - count))
    ids = jnp.pad(jnp.where(wanted[:, None], ids, -1), pad, constant_values=-1)
    return ids, jnp.pad(jnp.where(wanted[:, None], logps, jnp.nan), pad, constant_values=jnp.nan)


def log_normaliser(logits: Float[Array, "B V"]) -> Float[Array, "B"]:
    """`log sum exp z` over the whole vocabulary, summed by blocks; NaN or inf where a logit is NaN or inf."""
    largest = jnp.max(logits, axis=1)
    weights = jnp.exp(logits - largest[:, None])
    return largest + jnp.log(block_sum(weights))


def first_largest(logits: Float[Array, "B V"]) -> tuple[Float[Array, "B"], Int[Array, "B"]]:
    """The largest logit of every row and the smallest id that has it: argmax, in reductions that are vectorised."""
    blocks = in_blocks(logits, -jnp.inf)
    highest = jnp.max(blocks, axis=2)
    block = jnp.argmax(highest, axis=1)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    place = block * BLOCK + jnp.argmax(inside, axis=1)
    return jnp.max(highest, axis=1), jnp.minimum(place, logits.shape[1] - 1).astype(jnp.int32)


def _sample(
    z: Float[Array, "B V"],
    largest: Float[Array, "B"],
    settings: RowSettings,
    number: Int[Array, "B"],
    sampled: Bool[Array, "B"],
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """Ids and log-probs of the sampled rows; those of others mean nothing."""
    words = jax.vmap(_words)(settings.keys, number)
    temperature = jnp.where(sampled, settings.temperature, 1.0)
    in_order = sampled & ((settings.top_k > 0) | (settings.top_p < 1))
    by_id = sampled & ~in_order

    def from_all() -> tuple[Array, Array]:
        weights = keep_by_id(z, largest, temperature, settings.min_p)
        ids, total = pick(weights, words)
        return ids, _log_share(weights, ids, total)

    def from_sorted() -> tuple[Array, Array]:
        return _sample_sorted(z, largest, settings, temperature, words, in_order)

    def nothing() -> tuple[Array, Array]:
        return jnp.zeros(z.shape[:1], jnp.int32), jnp.zeros_like(largest)

    ids, logps = jax.lax.cond(jnp.any(by_id), from_all, nothing)
    sorted_ids, sorted_logps = jax.lax.cond(jnp.any(in_order), from_sorted, nothing)
    return jnp.where(in_order, sorted_ids, ids), jnp.where(in_order, sorted_logps, logps)


def _sample_sorted(
    z: Float[Array, "B V"],
    largest: Float[Array, "B"],
    settings: RowSettings,
    temperature: Float[Array, "B"],
    words: UInt32[Array, "B 2"],
    wanted: Bool[Array, "B"],
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """Draws among the `CANDIDATES` largest logits, and among all for the rows that keep more."""
    vocabulary = z.shape[1]
    mass = block_sum(keep_by_id(z, largest, temperature, jnp.zeros_like(temperature)))
    # XLA turns a slice of what top_k gives into a sort of everything, 30 times as slow. One barrier for both results
    # would abort its partitioner.
    values, ids = map(jax.lax.optimization_barrier, jax.lax.top_k(z, min(CANDIDATES, vocabulary)))
    weights, complete = keep_in_order(values, settings, temperature, mass, vocabulary)
    places, total = pick(weights, words)
    drawn = jnp.take_along_axis(ids, places[:, None], axis=1)[:, 0], _log_share(weights, places, total)
    if vocabulary <= CANDIDATES:
        return drawn

    again = wanted & ~complete
    rows = (again, drawn, (z, largest, settings, temperature, words))
    # A processor goes through the few rows that need it; for an accelerator all at once are less work than one by one.
    whole = partial(jax.lax.platform_dependent, cpu=partial(jax.lax.map, _again), default=_all_again)
    return jax.lax.cond(jnp.any(again), lambda: whole(rows), lambda: drawn)


def _again(row: Any) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """One row's draw among all that it keeps, or what was drawn."""
    again, drawn, rest = row
    one = jax.tree.map(lambda x: x[None], rest)
    return jax.lax.cond(again, lambda: jax.tree.map(lambda x: x[0], _sample_whole(*one)), lambda: drawn)


def _all_again(rows: Any) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    again, drawn, rest = rows
    return jax.tree.map(partial(jnp.where, again), _sample_whole(*rest), drawn)


def _sample_whole(
    z: Float[Array, "B V"],
    largest: Float[Array, "B"],
    settings: RowSettings,
    temperature: Float[Array, "B"],
    words: UInt32[Array, "B 2"],
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    weights = keep_whole(z, largest, settings, temperature)
    ids, total = pick(weights, words)
    return ids, _log_share(weights, ids, total)


def _words(key: UInt32[Array, "2"], number: Int[Array, ""]) -> UInt32[Array, "2"]:
    typed = jax.random.wrap_key_data(key, impl="threefry2x32")
    return jax.random.bits(jax.random.fold_in(typed, number), (2,), jnp.uint32)


def _forced(forced: Int[Array, "B F"], number: Int[Array, "B"]) -> Int[Array, "B"]:
    """The id that comes at this place of the answer by order, -1 = none."""
    width = forced.shape[1]
    here = jnp.take_along_axis(forced, jnp.clip(number, 0, width - 1)[:, None], axis=1)[:, 0]
    return jnp.where(number < width, here, -1)


def _log_share(weights: Float[Array, "B n"], places: Int[Array, "B"], total: Float[Array, "B"]) -> Float[Array, "B"]:
    return jnp.log(jnp.take_along_axis(weights, places[:, None], axis=1)[:, 0]) - jnp.log(total)
