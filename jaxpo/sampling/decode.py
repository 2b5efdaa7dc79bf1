"""The compiled part of generation: prefill the prompts, continue all rows, give the slots of finished rows to others.

`start`, `extend` and `refill` each run on the device from beginning to end; a caller that wants to see tokens as they
come (streaming, stop strings) extends by a few at a time, another by all at once. Both give the same tokens.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from jaxpo.models.family import TextConfig, decoder, output_matrix
from jaxpo.ops.linear import einsum
from jaxpo.sampling.filters import sample
from jaxpo.sampling.sampler import Sampler

Tree = Any
PREFILL_CHUNK = 128


@struct.dataclass
class Decoding:
    """Rows in the middle of being continued.

    Attributes:
      cache: of the prompts and all tokens but the newest, as the model's family keeps it.
      keys: `[B]` one per row; token t is drawn with `fold_in(key, t)`.
      seen: `[B, V]` tokens so far, or None without a repetition penalty.
      tokens, logps, sampling_logps: `[B, N]`, see `Sampled`; valid up to `lengths`.
      lengths: `[B]` tokens produced by each row, the stop id included.
      finished: `[B]` rows that are not continued.
      stop_ids: `[K]` ids that finish a row; -1 matches none.
      count: `[]` steps taken: tokens produced by the rows that were there from the start.
    """

    cache: Tree
    keys: Key[Array, "B"]
    seen: Bool[Array, "B V"] | None
    tokens: Int[Array, "B N"]
    logps: Float[Array, "B N"]
    sampling_logps: Float[Array, "B N"]
    lengths: Int[Array, "B"]
    finished: Bool[Array, "B"]
    stop_ids: Int[Array, "K"]
    count: Int[Array, ""]


_STATIC = ("config", "sampler", "vocab_limit", "dtype")


@partial(jax.jit, static_argnames=(*_STATIC, "n", "capacity", "size"))
def start(
    params: Tree,
    prompts: Int[Array, "P S"],
    prompt_lengths: Int[Array, "P"],
    keys: Key[Array, "B"],
    stop_ids: Int[Array, "K"],
    *,
    config: TextConfig,
    sampler: Sampler,
    n: int,
    capacity: int,
    size: int,
    vocab_limit: int | None = None,
    dtype: Any = jnp.float32,
) -> Decoding:
    """Prefill each prompt once, copy its cache to its n rows (row = prompt * n + sample), draw each row's first token.

    Args:
      prompts: `[P, S]`, real tokens first; S a multiple of `PREFILL_CHUNK` or below it.
      prompt_lengths: `[P]`; 0 marks a prompt that is not there: its rows count as finished.
      keys: `[P * n]`.
      stop_ids: `[K]`, -1 where unused.
      capacity: T of the cache, at least the longest prompt plus the tokens to be generated.
      size: N, room for generated tokens.
    """
    hidden, cache = _prefill(params, prompts, prompt_lengths, config, capacity, dtype)
    hidden, cache, lengths = jax.tree.map(lambda x: jnp.repeat(x, n, axis=0), (hidden, cache, prompt_lengths))
    seen = None
    if sampler.repetition_penalty != 1:
        real = jnp.arange(prompts.shape[1]) < prompt_lengths[:, None]
        seen = jnp.zeros((prompts.shape[0], config.vocab_size), bool)
        seen = _mark(seen, jnp.where(real, prompts, config.vocab_size))
        seen = jnp.repeat(seen, n, axis=0)
    rows = keys.shape[0]
    state = Decoding(
        cache=cache,
        keys=keys,
        seen=seen,
        tokens=jnp.zeros((rows, size), jnp.int32),
        logps=jnp.zeros((rows, size), jnp.float32),
        sampling_logps=jnp.zeros((rows, size), jnp.float32),
        lengths=jnp.zeros((rows,), jnp.int32),
        finished=lengths == 0,
        stop_ids=stop_ids,
        count=jnp.zeros((), jnp.int32),
    )
    return _emit(params, state, hidden, ~state.finished, config, sampler, vocab_limit)


@partial(jax.jit, static_argnames=(*_STATIC, "n", "capacity"), donate_argnames="state")
def refill(
    params: Tree,
    state: Decoding,
    prompts: Int[Array, "P S"],
    prompt_lengths: Int[Array, "P"],
    keys: Key[Array, "F"],
    slots: Int[Array, "F"],
    *,
    config: TextConfig,
    sampler: Sampler,
    n: int,
    capacity: int,
    vocab_limit: int | None = None,
    dtype: Any = jnp.float32,
) -> Decoding:
    """`start` other prompts in the slots of rows that are done. `state` is used up.

    Args:
      prompts, prompt_lengths, keys: as for `start`; F = P * n.
      slots: the row that each new row replaces; B or more = the new row is not wanted.
      capacity: of the state's cache.
    """
    options: dict[str, Any] = {"config": config, "sampler": sampler, "vocab_limit": vocab_limit, "dtype": dtype}
    size = state.tokens.shape[1]
    new = start(params, prompts, prompt_lengths, keys, state.stop_ids, n=n, capacity=capacity, size=size, **options)

    def put(name: str) -> Any:
        return jax.tree.map(lambda x, y: x.at[slots].set(y, mode="drop"), getattr(state, name), getattr(new, name))

    names = ("cache", "keys", "seen", "tokens", "logps", "sampling_logps", "lengths", "finished")
    return dataclasses.replace(state, **{name: put(name) for name in names})


@partial(jax.jit, static_argnames=_STATIC, donate_argnames="state")
def extend(
    params: Tree,
    state: Decoding,
    until: Int[Array, "..."],
    enough: Int[Array, ""] | None = None,
    *,
    config: TextConfig,
    sampler: Sampler,
    vocab_limit: int | None = None,
    dtype: Any = jnp.float32,
) -> Decoding:
    """Continue every row that is not finished until it has `until` tokens (at most N). `state` is used up.

    Args:
      until: `[]`, or `[B]` for each row its own.
      enough: return as soon as so many rows stand still; None = all of them.
    """
    rows = state.tokens.shape[0]
    step = decoder(config).step
    limit = jnp.broadcast_to(jnp.minimum(until, state.tokens.shape[1]), (rows,))
    most = 0 if enough is None else rows - enough

    def running(state: Decoding) -> Bool[Array, "B"]:
        return ~state.finished & (state.lengths < limit)

    def body(state: Decoding) -> Decoding:
        goes_on = running(state)
        newest = jnp.take_along_axis(state.tokens, jnp.maximum(state.lengths - 1, 0)[:, None], axis=1)
        hidden, cache = step(params, newest, state.cache, config=config, valid=goes_on[:, None], dtype=dtype)
        return _emit(
            params, dataclasses.replace(state, cache=cache), hidden[:, 0], goes_on, config, sampler, vocab_limit
        )

    return jax.lax.while_loop(lambda s: jnp.sum(running(s)) > most, body, state)


def _prefill(
    params: Tree, prompts: Array, lengths: Array, config: TextConfig, capacity: int, dtype: Any
) -> tuple[Float[Array, "P D"], Tree]:
    """Hidden state at each prompt's last token, and the cache; only as many chunks as the longest prompt needs."""
    model = decoder(config)
    count, width = prompts.shape
    chunk = min(width, PREFILL_CHUNK)
    if width % chunk:
        raise ValueError(f"prompts are padded to {width}, which is no multiple of {PREFILL_CHUNK}")

    def body(i: Array, carry: tuple[Array, Tree]) -> tuple[Array, Tree]:
        last, cache = carry
        tokens = jax.lax.dynamic_slice_in_dim(prompts, i * chunk, chunk, axis=1)
        valid = i * chunk + jnp.arange(chunk) < lengths[:, None]
        hidden, cache = model.step(params, tokens, cache, config=config, valid=valid, dtype=dtype)
        column = lengths - 1 - i * chunk
        here = (column >= 0) & (column < chunk)
        picked = hidden[jnp.arange(count), jnp.clip(column, 0, chunk - 1)]
        return jnp.where(here[:, None], picked, last), cache

    empty = jnp.zeros((count, config.hidden_size), dtype), model.cache(config, count, capacity, dtype)
    chunks = (jnp.max(lengths) + chunk - 1) // chunk
    return jax.lax.fori_loop(0, chunks, body, empty)


def _emit(
    params: Tree,
    state: Decoding,
    hidden: Float[Array, "B D"],
    running: Bool[Array, "B"],
    config: TextConfig,
    sampler: Sampler,
    vocab_limit: int | None,
) -> Decoding:
    """Draw the next token of every row from its last hidden state and append it to the rows that are running."""
    logits = einsum("bd,vd->bv", hidden, output_matrix(params, config), out_dtype=jnp.float32)
    keys = jax.vmap(jax.random.fold_in)(state.keys, state.lengths)
    drawn = sample(logits, keys, sampler, seen=state.seen, vocab_limit=vocab_limit)
    rows = jnp.arange(running.shape[0])
    columns = jnp.where(running, state.lengths, state.tokens.shape[1])

    def put(buffer: Array, column: Array) -> Array:
        return buffer.at[rows, columns].set(column, mode="drop")

    return dataclasses.replace(
        state,
        seen=None if state.seen is None else _mark(state.seen, drawn.tokens[:, None]),
        tokens=put(state.tokens, drawn.tokens),
        logps=put(state.logps, drawn.logps),
        sampling_logps=put(state.sampling_logps, drawn.sampling_logps),
        lengths=state.lengths + running,
        finished=state.finished | (running & jnp.isin(drawn.tokens, state.stop_ids)),
        count=state.count + 1,
    )


def _mark(seen: Bool[Array, "B V"], tokens: Int[Array, "B s"]) -> Bool[Array, "B V"]:
    return seen.at[jnp.arange(seen.shape[0])[:, None], tokens].set(True, mode="drop")
