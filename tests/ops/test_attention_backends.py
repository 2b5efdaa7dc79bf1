"""The kernels for NVIDIA and TPU against dense float64 numpy: on a CPU, in interpret mode, which runs the same kernels.

A program takes seconds to compile and milliseconds to run, so the rows of one batch are the cases.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ops.dense_attention import dense_attention

from jaxpo.errors import BackendError
from jaxpo.ops.attention import cached_attention
from jaxpo.ops.attention_decode import pallas_cached
from jaxpo.ops.attention_mesh import on_mesh
from jaxpo.ops.attention_pallas import Blocks, pallas_attention
from jaxpo.ops.attention_reach import asking, reachable, span
from jaxpo.ops.attention_splash import splash_attention
from jaxpo.ops.attention_xla import xla_attention
from jaxpo.sharding import make_mesh, use_mesh

# Segment lengths of a row, 0 = one column of padding; what is left is padding.
ROWS = {
    "one segment": (77,),
    "segments that end inside, at and behind a block": (16, 15, 0, 1, 20, 12, 8),
    "segments of one": (1,) * 30,
    "padding on both sides": (0, 0, 0, 40),
    "nothing": (),
}
SIZE = 77  # no multiple of a block


@dataclass(frozen=True)
class Rule:
    causal: bool = True
    window: int | None = None
    max_segment: int | None = None
    heads: tuple[int, int] = (4, 2)
    width: int = 8
    dtype: str = "float32"


QUICK = {
    "causal": Rule(),
    "both sides, window, one key head": Rule(causal=False, window=6, heads=(3, 1)),
}
SLOW = {
    "causal, window, ungrouped": Rule(window=20, heads=(2, 2)),
    "window of one": Rule(window=1),
    "both sides": Rule(causal=False),
    "window longer than the row": Rule(window=500),
    "max_segment": Rule(max_segment=SIZE),
    "width that is no power of two": Rule(width=20),
    "bfloat16": Rule(dtype="bfloat16"),
    "bfloat16, both sides": Rule(causal=False, dtype="bfloat16", width=64),
    "heads of 64": Rule(width=64, heads=(4, 1)),
}
RULES = {name: pytest.param(r, id=name) for name, r in QUICK.items()} | {
    name: pytest.param(r, id=name, marks=pytest.mark.slow) for name, r in SLOW.items()
}
BACKENDS = {
    "pallas": functools.partial(pallas_attention, blocks=Blocks(32, 16, 16, 32), interpret=True),
    "splash": functools.partial(splash_attention, interpret=True),
}


def ids():
    """Segments of every row of `ROWS`, once numbered upwards and once not, and what is asked as a key of each."""
    segments = np.zeros((2 * len(ROWS), SIZE), np.int32)
    for row, lengths in enumerate(ROWS.values()):
        start, number = 0, 0
        for n in lengths:
            number += n > 0
            segments[2 * row, start : start + n] = number
            segments[2 * row + 1, start : start + n] = (number * 7) % 31 + 1
            start += max(n, 1)
    # Of the second numbering every third position is no key, nor is any of what was numbered first.
    hidden = (np.arange(SIZE) % 3 == 1) | (segments == 8)
    return segments, np.where(hidden & (np.arange(len(segments)) % 2 == 1)[:, None], 0, segments)


def inputs(rule, rows, seed=0):
    rng = np.random.default_rng(seed)
    heads, groups = rule.heads
    shape = lambda n: (rows, SIZE, n, rule.width)  # noqa: E731
    return tuple(1.5 * rng.standard_normal(shape(n)) for n in (heads, groups, groups, heads))


@pytest.mark.parametrize("rule", RULES.values())
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_and_gradients_equal_dense(backend, rule):
    segments, key_ids = ids()
    q, k, v, g = (np.asarray(jnp.asarray(x, rule.dtype), np.float64) for x in inputs(rule, len(segments)))
    expected = dense_attention(q, k, v, g, segments, key_ids, causal=rule.causal, window=rule.window)

    @jax.jit
    def run(q, k, v, g):
        f = functools.partial(
            BACKENDS[backend],
            segment_ids=jnp.asarray(segments),
            key_ids=jnp.asarray(key_ids),
            causal=rule.causal,
            max_segment=rule.max_segment,
            window=rule.window,
        )
        out, pull = jax.vjp(f, q, k, v)
        return out, *pull(g)

    got = run(*(jnp.asarray(x, rule.dtype) for x in (q, k, v, g)))
    # bfloat16 rounds weights and scores' cotangents before their products, as the dense form does not.
    tolerance = 2e-5 if rule.dtype == "float32" else 0.03
    largest = max(np.abs(theirs).max() for theirs in expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == jnp.dtype(rule.dtype)
        bound = tolerance * max(np.abs(theirs).max(), 0.05 * largest)
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, atol=bound, rtol=0)
    out, dq, dk, dv = (np.asarray(x, np.float64) for x in got)
    blind = ~(expected[0].any((2, 3)))
    assert blind.sum() > (segments == 0).sum(), "some queries of segments see nothing"
    assert not out[blind].any()
    assert not dq[blind].any()
    assert not dk[key_ids == 0].any()
    assert not dv[key_ids == 0].any()


@pytest.mark.scale
@pytest.mark.parametrize("rule", QUICK.values(), ids=QUICK)
@pytest.mark.parametrize("backend", [*BACKENDS, "xla"])
def test_queries_of_some_positions_among_the_keys_of_more(backend, rule):
    """As on one of several devices that share a row: those of positions 30 to 54 against the keys of 0 to 77."""
    own = slice(30, 54)
    attend = (BACKENDS | {"xla": xla_attention})[backend]
    segments, key_ids = ids()
    q, k, v, g = inputs(rule, len(segments))
    asks = np.where((np.arange(SIZE) >= own.start) & (np.arange(SIZE) < own.stop), segments, 0)
    expected = dense_attention(q, k, v, g, asks, key_ids, causal=rule.causal, window=rule.window)

    @jax.jit
    def run(q, k, v, g):
        options = {"key_ids": jnp.asarray(key_ids), "causal": rule.causal, "window": rule.window, "before": own.start}
        out, pull = jax.vjp(lambda *x: attend(*x, jnp.asarray(segments[:, own]), **options), q, k, v)
        return out, *pull(g)

    got = run(*(jnp.asarray(x, jnp.float32) for x in (q[:, own], k, v, g[:, own])))
    for ours, theirs in zip(got, (expected[0][:, own], expected[1][:, own], *expected[2:]), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())


def test_blocks_that_are_not_visited_hold_nothing_to_see():
    """The spans against every pair; for ids that grow along the row they are as narrow as the pairs allow."""
    segments, key_ids = ids()
    segments, key_ids = segments[:, :64], key_ids[:, :64]
    at = np.arange(64)
    for m, n, causal, window in ((16, 8, True, None), (8, 16, False, 9)):
        distance = at[:, None] - at[None, :]
        allowed = (distance >= 0) | (not causal)
        if window:
            allowed &= abs(distance) < window
        seen = allowed & (segments[:, :, None] == key_ids[:, None, :]) & (segments > 0)[:, :, None]
        blocks = seen.reshape(len(seen), 64 // m, m, 64 // n, n).any((2, 4))
        find = jax.jit(functools.partial(reachable, blocks=(m, n), causal=causal, window=window))
        meet = np.asarray(find(asking(segments), key_ids))
        assert not (blocks & ~meet).any()
        for pairs, said in ((blocks, meet), (blocks.swapaxes(1, 2), meet.swapaxes(1, 2))):
            first, end = (np.asarray(x) for x in jax.jit(span)(said))
            j = np.arange(pairs.shape[2])
            assert not (pairs & ~((first[..., None] <= j) & (j < end[..., None]))).any()
        grows = np.arange(0, len(segments), 2)
        # Blocks that only touch at their borders in time may be met without a pair: one on each side at most.
        assert (meet[grows].sum(2) <= np.maximum(blocks[grows].sum(2), 0) + 2).all()


def test_on_a_mesh_each_device_attends_its_rows_and_heads():
    """Values and gradients as on one device, rows over four devices and heads over two, and no row leaves its own."""
    rule = Rule()
    segments, key_ids = (jnp.asarray(x[:8]) for x in ids())
    q, k, v, g = (jnp.asarray(x, jnp.float32) for x in inputs(rule, 8))
    local = lambda *arrays: BACKENDS["pallas"](*arrays[:4], key_ids=arrays[4])  # noqa: E731

    def run(attend, q, k, v, segments, key_ids):
        out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, segments, key_ids), q, k, v)
        return out, *pull(g)

    alone = jax.jit(functools.partial(run, local))(q, k, v, segments, key_ids)
    with use_mesh(make_mesh({"fsdp": 4, "tensor": 2})):
        divided = jax.jit(functools.partial(run, functools.partial(on_mesh, local)))
        compiled = divided.lower(q, k, v, segments, key_ids).compile()
        for ours, theirs in zip(compiled(q, k, v, segments, key_ids), alone, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
            assert ours.sharding.shard_shape(ours.shape)[::2] == (2, ours.shape[2] // 2)
        odd = jax.eval_shape(
            functools.partial(on_mesh, local), q[:3, :, :3], k[:3, :, :1], v[:3, :, :1], segments[:3], None
        )
        assert odd.shape == (3, SIZE, 3, 8), "what the devices do not divide is whole on each"


@dataclass(frozen=True)
class Cached:
    positions: tuple[tuple[int, ...], ...]
    slots: bool = False  # the last positions only, some of them no keys
    window: int | None = None
    heads: tuple[int, int] = (4, 2)
    splits: int | None = None


CACHED = {
    "one query": Cached(((49,), (3,), (0,))),
    "three queries, a window, three shares": Cached(((20, 21, 22), (0, 1, 2), (47, 48, 49)), window=7, splits=3),
    "slots": Cached(((60, 61), (5, 6), (30, 31)), slots=True, window=40, heads=(3, 1)),
}


@pytest.mark.parametrize("name", CACHED)
def test_a_cache_is_read_by_the_kernel_as_by_xla(name):
    """Later slots hold huge values; the cache is no multiple of a block; the row that sees nothing returns zeros."""
    case = CACHED[name]
    rng = np.random.default_rng(1)
    positions = np.array(case.positions)
    heads, groups = case.heads
    q = jnp.asarray(rng.standard_normal((3, positions.shape[1], heads, 16)), jnp.float32)
    k, v = (rng.standard_normal((3, 50, groups, 16)) for _ in range(2))
    slots = np.broadcast_to(np.arange(50), (3, 50))
    if case.slots:
        slots = positions[:, :1] - 48 + np.arange(50)
        slots = np.where((np.arange(50) % 3 == 1) | (np.arange(3) == 2)[:, None], -1, slots)
    later = (slots > positions.max(1, keepdims=True)) | (slots < 0)
    k, v = (jnp.asarray(np.where(later[..., None, None], 1e3, x), jnp.float32) for x in (k, v))
    options = {"window": case.window}
    given = jnp.asarray(slots) if case.slots else None
    expected = cached_attention(q, k, v, jnp.asarray(positions), slots=given, **options)
    kernel = functools.partial(pallas_cached, keys=16, splits=case.splits, interpret=True, **options)
    out = jax.jit(kernel)(q, k, v, jnp.asarray(positions), given)
    np.testing.assert_allclose(out, expected, atol=2e-6)
    assert out.any()
    if case.slots:
        assert not out[2].any()


def test_the_cache_kernel_refuses_a_gradient():
    q, k = jnp.ones((1, 1, 2, 16)), jnp.ones((1, 16, 1, 16))
    with pytest.raises(BackendError, match='cached_attention implementation "pallas" has no gradient; take "xla"'):
        jax.grad(lambda q: pallas_cached(q, k, k, jnp.ones((1, 1), int), None, interpret=True).sum())(q)
