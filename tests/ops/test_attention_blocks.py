"""Attention over a cache by blocks against float64 numpy, query by query; and what a row's result depends on."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.errors import BackendError
from jaxpo.ops.attention import cached_attention, chosen_cached
from jaxpo.ops.attention_blocks import blocks_cached

WIDTH = 8


@dataclass(frozen=True)
class Case:
    starts: tuple[int, ...]  # position of each row's first query
    steps: int
    slots: int  # of the cache
    heads: tuple[int, int] = (4, 2)
    window: int | None = None
    ring: int | None = None  # slots hold so many positions before the first query's, some of them none


CASES = {
    "one query, ragged": Case((0, 3, 4, 15, 16, 40), 1, 43),
    "one query, one key head": Case((0, 9, 40), 1, 41, heads=(3, 1)),
    "one query, as many key heads": Case((7, 40), 1, 48, heads=(3, 3)),
    "one query, a window": Case((0, 3, 17, 40), 1, 43, window=5),
    "a chunk, ragged": Case((0, 3, 16, 30), 10, 43),
    "a chunk of whole parts": Case((0, 8), 12, 20),
    "a chunk, a window": Case((0, 5, 30), 10, 43, window=6),
    "a cache below a block": Case((0, 1), 2, 3),
    "slots": Case((0, 4, 20), 3, 11, window=9, ring=8),
    "slots, one query": Case((0, 4, 20), 1, 9, window=9, ring=8),
}


def drawn(case, seed=0):
    rng = np.random.default_rng(seed)
    rows, (heads, groups) = len(case.starts), case.heads
    q = rng.standard_normal((rows, case.steps, heads, WIDTH))
    k, v = (rng.standard_normal((rows, case.slots, groups, WIDTH)) for _ in range(2))
    positions = np.array(case.starts)[:, None] + np.arange(case.steps)
    held = np.broadcast_to(np.arange(case.slots), (rows, case.slots))
    if case.ring is not None:
        held = positions[:, :1] - case.ring + np.arange(case.slots)
        held = np.where(np.arange(case.slots) % 4 == 1, -1, held)
    # Slots that nobody sees hold something large.
    unseen = (held > positions[:, -1:]) | (held < 0)
    k, v = (np.where(unseen[..., None, None], 1e3, x) for x in (k, v))
    return q, k, v, positions, held


def reference(q, k, v, positions, held, window):
    out = np.zeros_like(q)
    for row, step, head in np.ndindex(q.shape[:3]):
        at, group = positions[row, step], head * k.shape[2] // q.shape[2]
        seen = (held[row] >= 0) & (held[row] <= at) & (held[row] > at - (window or at + 1))
        scores = k[row, seen, group] @ q[row, step, head] / np.sqrt(WIDTH)
        weights = np.exp(scores - scores.max())
        out[row, step, head] = weights @ v[row, seen, group] / weights.sum()
    return out


def small(case, q, k, v, positions, held, keys=8, queries=4):
    """In blocks so small that there are several of each."""
    run = jax.jit(functools.partial(blocks_cached, window=case.window, keys=keys, queries=queries))
    arrays = (jnp.asarray(x, jnp.float32) for x in (q, k, v))
    return run(*arrays, jnp.asarray(positions), None if case.ring is None else jnp.asarray(held))


@pytest.mark.parametrize("name", CASES)
def test_every_query_sees_what_it_may_and_nothing_else(name):
    case = CASES[name]
    inputs = drawn(case)
    np.testing.assert_allclose(small(case, *inputs), reference(*inputs, case.window), atol=2e-6)


def test_the_default_is_blocks_on_cpu_and_equals_xla():
    assert chosen_cached(platform="cpu").name == "blocks"
    assert chosen_cached(platform="gpu").name == chosen_cached(platform="tpu").name == "xla"
    case = Case((0, 100, 250), 130, 390)
    q, k, v, positions, _ = drawn(case)
    arrays = [jnp.asarray(x, jnp.float32) for x in (q, k, v)]
    found = cached_attention(*arrays, positions)
    np.testing.assert_allclose(found, cached_attention(*arrays, positions, implementation="xla"), atol=2e-6)
    half = cached_attention(*(x.astype(jnp.bfloat16) for x in arrays), positions)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), found, atol=0.03)


@pytest.mark.parametrize("implementation", ["blocks", "xla"])
@pytest.mark.parametrize("name", ["one query, ragged", "a chunk, ragged"])
def test_a_query_that_is_none_sees_nothing_and_changes_no_other(name, implementation):
    """As the rows of an engine that have ended, and the columns after a prompt's end."""
    q, k, v, positions, _ = drawn(CASES[name])
    arrays = [jnp.asarray(x, jnp.float32) for x in (q, k, v)]
    none = np.zeros(positions.shape, bool)
    none[0], none[-1, -1] = True, True
    run = jax.jit(functools.partial(cached_attention, implementation=implementation))
    found = run(*arrays, jnp.where(none, -1, positions))
    assert not found[none].any()
    np.testing.assert_array_equal(found[~none], run(*arrays, jnp.asarray(positions))[~none])


@pytest.mark.parametrize("name", ["one query, ragged", "a chunk, ragged"])
def test_no_bit_of_a_row_depends_on_how_far_its_neighbours_are(name):
    case = CASES[name]
    q, k, v, positions, held = drawn(case)
    whole = small(case, q, k, v, positions, held)
    order = np.arange(len(case.starts))[::-1]
    moved = small(case, *(x[order] for x in (q, k, v, positions, held)))
    np.testing.assert_array_equal(moved[order], whole)
    far = positions.copy()
    far[1:] = case.slots - case.steps + np.arange(case.steps)
    np.testing.assert_array_equal(small(case, q, k, v, far, held)[0], whole[0])
    # A longer cache is more slots that nobody sees.
    longer = [np.pad(x, ((0, 0), (0, 29), (0, 0), (0, 0)), constant_values=7.0) for x in (k, v)]
    np.testing.assert_array_equal(small(case, q, *longer, positions, held), whole)


def test_a_query_that_sees_nothing_returns_zeros():
    case = CASES["slots"]
    q, k, v, positions, held = drawn(case)
    held[1] = -1
    found = small(case, q, k, v, positions, held)
    assert not found[1].any()
    assert found[0].any()


def test_keys_that_no_query_has_reached_are_not_read():
    """A NaN there would spread to everything that it is multiplied with, by zero too."""
    case = Case((0, 9), 1, 64)
    q, k, v, positions, held = drawn(case)
    k[:, 16:], v[:, 16:] = np.nan, np.nan
    np.testing.assert_allclose(
        small(case, q, k, v, positions, held),
        reference(q, np.nan_to_num(k), np.nan_to_num(v), positions, held, None),
        atol=2e-6,
    )
    windowed = Case((60, 61), 1, 64, window=4)
    q, k, v, positions, held = drawn(windowed)
    k[:, :48], v[:, :48] = np.nan, np.nan
    assert np.isfinite(small(windowed, q, k, v, positions, held)).all()


def test_it_has_no_gradient_and_says_what_has():
    q, k = jnp.ones((1, 1, 2, WIDTH)), jnp.ones((1, 16, 1, WIDTH))
    with pytest.raises(BackendError, match='"blocks" has no gradient; take "xla", or attention over whole rows'):
        jax.grad(lambda q: cached_attention(q, k, k, jnp.ones((1, 1), int)).sum())(q)
    assert jax.grad(lambda q: cached_attention(q, k, k, jnp.ones((1, 1), int), implementation="xla").sum())(q).shape
