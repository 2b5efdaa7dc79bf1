"""The compiled parts of the engine: read prompts, write tokens; see also `jaxpo.sampling.placing`.

A row is ready to write when all of its known tokens but the newest are in its cache; the newest goes through the model
when the next one is drawn. So a prompt's last token is not read with the others, and rows that share a prompt, that go
on from a store, or whose weights were changed midway all start alike.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxpo.models.family import TextConfig, decoder, family, output_matrix
from jaxpo.ops.linear import einsum
from jaxpo.sampling import cache as caches
from jaxpo.sampling.draw import draw, log_normaliser, top_logps
from jaxpo.sampling.request import TOP_LOGPS
from jaxpo.sampling.row_settings import RowSettings
from jaxpo.sharding import constrain

Tree = Any
SCORED_TOGETHER = 16


@dataclass(frozen=True)
class Compute:
    """How a model is run; static.

    Attributes:
      config: architecture.
      dtype: compute type.
      attention, experts: names of implementations, see `Decoder.step`; None = the best here.
      page: positions of a page.
    """

    config: TextConfig
    dtype: Any
    attention: str | None = None
    experts: str | None = None
    page: int = 32

    def step(
        self, params: Tree, tokens: Array, cache: Any, valid: Array, page: int | None = None, given: Any = None
    ) -> tuple[Array, Any]:
        """See `Decoder.step`."""
        how = {"dtype": self.dtype, "attention": self.attention, "experts": self.experts}
        how |= {} if given is None else {"given": given}
        return decoder(self.config).step(params, tokens, cache, config=self.config, valid=valid, page=page, **how)

    def logits(self, params: Tree, hidden: Float[Array, "B D"]) -> Float[Array, "B V"]:
        """Of the next token, float32."""
        if (own := family(self.config).logits) is not None:
            return own(params, hidden, self.config)
        return einsum("bd,vd->bv", hidden, output_matrix(params, self.config), out_dtype=jnp.float32)


@struct.dataclass
class State:
    """All slots.

    Attributes:
      cache: of each row's known tokens, the newest left out once they are read.
      tokens: `[B, T]`, prompt and answer.
      length: `[B]`, how many are known.
    """

    cache: Any
    tokens: Int[Array, "B T"]
    length: Int[Array, "B"]


@struct.dataclass
class Written:
    """What b rows wrote in one call, N = R rounds; the first `count[b]` columns are real.

    Attributes:
      tokens, logps, sampling_logps: `[b, R]`, see `Generation`.
      top_ids, top_logps: `[b, R, TOP_LOGPS]`.
      count: `[b]`.
      failed: `[b]`, rows of which no token could be drawn.
    """

    tokens: Int[Array, "b R"]
    logps: Float[Array, "b R"]
    sampling_logps: Float[Array, "b R"]
    top_ids: Int[Array, "b R k"]
    top_logps: Float[Array, "b R k"]
    count: Int[Array, "b"]
    failed: Bool[Array, "b"]


@partial(jax.jit, static_argnames=("compute", "slots", "context", "pages", "paged"))
def begin(compute: Compute, slots: int, context: int, pages: int, paged: bool) -> tuple[State, caches.Store]:
    """Empty slots, and a store of so many pages."""
    cache, store = caches.empty(compute.config, slots, context, compute.dtype, pages, compute.page, paged)
    state = State(cache, jnp.zeros((slots, context), jnp.int32), jnp.zeros((slots,), jnp.int32))
    return spread(compute, state), _kept(compute, store)


def spread(compute: Compute, state: State) -> State:
    """Rows over the devices that share them, heads over those that share products: the same after every program."""
    cache = caches.spread(compute.config, state.cache)
    return State(cache, constrain(state.tokens, "batch", None), constrain(state.length, "batch"))


def _kept(compute: Compute, store: caches.Store) -> caches.Store:
    return caches.spread_store(compute.config, store)


@partial(jax.jit, static_argnames=("compute", "chunk", "scored"), donate_argnames=("state", "store"))
def read(
    params: Tree,
    state: State,
    store: caches.Store,
    slots: Int[Array, "P"],
    pages: Int[Array, "P n"],
    ends: Int[Array, "P"],
    given: tuple[Float[Array, "P C D"], Bool[Array, "P C"]] | None,
    *,
    compute: Compute,
    chunk: int,
    scored: bool,
) -> tuple[State, caches.Store, tuple[Array, Array, Array] | None]:
    """Read the next `chunk` tokens of P rows, as far as they have some before their newest.

    Args:
      slots: of the rows; B = none.
      pages, ends: where the store keeps what was read, see `cache.save`.
      given: vectors of images in the place of embeddings, and where.
      scored: also log p of the token after each, and the most probable ones: `[P, chunk]`, twice `[P, chunk, k]`.
    """
    config = compute.config
    rows = caches.take(config, state.cache, slots)
    start = rows.length
    until = jnp.where(slots < state.length.shape[0], jnp.take(state.length, slots, mode="clip") - 1, 0)
    columns = start[:, None] + jnp.arange(chunk + 1)
    there = jnp.take_along_axis(jnp.take(state.tokens, slots, axis=0, mode="clip"), columns, axis=1, mode="clip")
    valid = columns[:, :-1] < until[:, None]
    hidden, rows = compute.step(params, there[:, :-1], rows, valid, compute.page, given)
    store, rows = caches.save(config, store, rows, start, pages, ends, compute.page)
    state = dataclasses.replace(state, cache=caches.put(config, state.cache, slots, rows))
    scores = jax.tree.map(_whole, _scores(compute, params, hidden, there[:, 1:])) if scored else None
    return spread(compute, state), _kept(compute, store), scores


@partial(jax.jit, static_argnames="compute")
def see(params: Tree, media: Any, *, compute: Compute) -> Float[Array, "V D"]:
    """What a row of images becomes."""
    model = decoder(compute.config)
    assert model.see is not None
    vectors = model.see(params, media, config=compute.config, dtype=compute.dtype)
    return _whole(vectors[0])


def _whole(x: Array) -> Array:
    """On every device, so that every process can read it."""
    return constrain(x, *(None,) * x.ndim)


def _scores(
    compute: Compute, params: Tree, hidden: Float[Array, "P C D"], tokens: Int[Array, "P C"]
) -> tuple[Array, Array, Array]:
    """Log p of each token after the hidden state before it, and the most probable tokens there, a few at a time."""
    together = math.gcd(SCORED_TOGETHER, hidden.shape[1])

    def some(part: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        x, chosen = part
        logits = compute.logits(params, x.reshape(-1, x.shape[-1]))
        ids, best = top_logps(logits)
        logps = jnp.take_along_axis(logits, chosen.reshape(-1, 1), axis=1)[:, 0] - log_normaliser(logits)
        shape = chosen.shape
        return logps.reshape(shape), ids.reshape(*shape, -1), best.reshape(*shape, -1)

    def parts(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(x.shape[0], -1, together, *x.shape[2:]), 1, 0)

    def joined(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], -1, *x.shape[3:])

    logps, ids, best = jax.lax.map(some, (parts(hidden), parts(tokens)))
    return joined(logps), joined(ids), joined(best)


@partial(jax.jit, static_argnames=("compute", "rounds"), donate_argnames="state")
def write(
    params: Tree,
    state: State,
    settings: RowSettings,
    slots: Int[Array, "b"] | None,
    alive: Bool[Array, "b"],
    most: Int[Array, ""],
    *,
    compute: Compute,
    rounds: int,
) -> tuple[State, Written]:
    """Draw up to `most` tokens, at most `rounds`, for each row that is alive, until it ends.

    Args:
      settings: of the b rows.
      slots: of the b rows, B = none; None = all slots in order.
    """
    rows = state if slots is None else _rows(compute.config, state, slots)
    b = alive.shape[0]
    blank = Written(
        tokens=jnp.zeros((b, rounds), jnp.int32),
        logps=jnp.zeros((b, rounds), jnp.float32),
        sampling_logps=jnp.zeros((b, rounds), jnp.float32),
        top_ids=jnp.full((b, rounds, TOP_LOGPS), -1, jnp.int32),
        top_logps=jnp.full((b, rounds, TOP_LOGPS), -jnp.inf, jnp.float32),
        count=jnp.zeros((b,), jnp.int32),
        failed=jnp.zeros((b,), bool),
    )

    def goes_on(carry: tuple[Any, ...]) -> Bool[Array, ""]:
        i, _, _, running = carry
        return (i < jnp.minimum(most, rounds)) & jnp.any(running)

    def once(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        i, rows, written, running = carry
        rows, written, running = _draw_next(compute, params, rows, settings, written, running, i)
        return i + 1, rows, written, running

    start = (jnp.int32(0), rows, blank, alive & (rows.length < settings.limit))
    _, rows, written, _ = jax.lax.while_loop(goes_on, once, start)
    written = jax.tree.map(_whole, written)
    if slots is None:
        return spread(compute, rows), written
    cache = caches.put(compute.config, state.cache, slots, rows.cache)
    tokens = state.tokens.at[slots].set(rows.tokens, mode="drop")
    state = State(cache, tokens, state.length.at[slots].set(rows.length, mode="drop"))
    return spread(compute, state), written


def _rows(config: TextConfig, state: State, slots: Int[Array, "b"]) -> State:
    def rows(x: Array) -> Array:
        return jnp.take(x, slots, axis=0, mode="clip")

    return State(caches.take(config, state.cache, slots), rows(state.tokens), rows(state.length))


def _draw_next(
    compute: Compute,
    params: Tree,
    rows: State,
    settings: RowSettings,
    written: Written,
    running: Bool[Array, "b"],
    i: Int[Array, ""],
) -> tuple[State, Written, Bool[Array, "b"]]:
    """One more token for every row that is running."""
    newest = jnp.take_along_axis(rows.tokens, jnp.maximum(rows.length - 1, 0)[:, None], axis=1)
    hidden, cache = compute.step(params, newest, rows.cache, running[:, None])
    logits = compute.logits(params, hidden[:, 0])
    drawn = draw(logits, settings, rows.tokens, rows.length, running=running)
    ids, best = top_logps(logits, running & (settings.top_logps > 0))
    failed = running & drawn.failed
    took = running & ~failed
    row = jnp.arange(running.shape[0])
    tokens = rows.tokens.at[row, jnp.where(took, rows.length, rows.tokens.shape[1])].set(drawn.tokens, mode="drop")
    length = rows.length + took

    def put(buffer: Array, column: Array) -> Array:
        return buffer.at[:, i].set(column)

    written = Written(
        tokens=put(written.tokens, drawn.tokens),
        logps=put(written.logps, drawn.logps),
        sampling_logps=put(written.sampling_logps, drawn.sampling_logps),
        top_ids=put(written.top_ids, ids),
        top_logps=put(written.top_logps, best),
        count=written.count + took,
        failed=written.failed | failed,
    )
    stopped = jnp.any(drawn.tokens[:, None] == settings.stop_ids, axis=1)
    return State(cache, tokens, length), written, took & ~stopped & (length < settings.limit)
