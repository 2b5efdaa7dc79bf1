"""Chunked attention against dense float64 numpy, and its cost against the length of the row."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ops.dense_attention import dense_attention

from jaxpo.errors import BackendError
from jaxpo.ops.attention import attention, cached_attention
from jaxpo.ops.attention_xla import xla_attention


@dataclass(frozen=True)
class Case:
    lengths: tuple[int, ...]  # segment lengths, 0 = one column of padding; the rest of the row is padding
    size: int
    chunk: int | None
    max_segment: int | None = None
    window: int | None = None
    causal: bool = True
    heads: tuple[int, int] = (4, 2)
    no_keys: bool = False  # some positions ask and are not asked


CASES = {
    "one chunk": Case((5, 0, 9, 1), 17, 32),
    "prefixes": Case((20, 7), 27, 8),
    "prefixes, S not a multiple": Case((20, 0, 10), 37, 8, max_segment=20),
    "windowed": Case((7, 1, 0, 6, 3, 7, 7, 2), 64, 4, max_segment=7),
    "windowed, S not a multiple": Case((6, 5, 6, 1, 1, 6, 6, 4, 6), 45, 5, max_segment=6),
    "reach inside one chunk": Case((3, 3, 2, 3, 1, 3), 30, 4, max_segment=3),
    "segments of one": Case((1,) * 12, 24, 2, max_segment=1),
    "default chunk": Case((30, 17, 31, 0, 5, 31), 400, None, max_segment=31),
    "sliding window": Case((40, 3), 48, 4, window=6),
    "sliding window, prefixes": Case((40, 3), 48, 16, window=30),
    "sliding window across and within segments": Case((20, 0, 3, 14, 17), 64, 4, max_segment=20, window=6),
    "segments shorter than the window": Case((7, 1, 0, 6, 3, 7, 7, 2), 64, 4, max_segment=7, window=9),
    "bidirectional": Case((7, 5, 0, 3), 16, 16, causal=False),
    "bidirectional, windowed": Case((7, 1, 0, 6, 3, 7, 7, 2), 64, 4, max_segment=7, causal=False),
    "bidirectional, sliding": Case((30,), 40, 4, window=3, causal=False),
    "one key head": Case((9, 4), 16, 4, max_segment=9, heads=(3, 1)),
    "no keys, one chunk": Case((9, 0, 7), 17, 32, no_keys=True),
    "no keys, prefixes": Case((20, 7), 29, 8, no_keys=True),
    "no keys, windowed": Case((7, 1, 0, 6, 3, 7, 7, 2), 64, 4, max_segment=7, no_keys=True),
    "no keys, bidirectional": Case((12, 9, 0, 3), 32, 8, causal=False, no_keys=True),
    "no keys, bidirectional, windowed": Case((7, 1, 0, 6, 3), 64, 4, max_segment=7, causal=False, no_keys=True),
    "ungrouped": Case((9, 4), 16, 4, heads=(2, 2)),
}


def _inputs(case, seed=0):
    rng = np.random.default_rng(seed)
    heads, groups = case.heads
    shape = lambda n: (2, case.size, n, 6)  # noqa: E731
    q, k, v, g = (1.5 * rng.standard_normal(shape(n)) for n in (heads, groups, groups, heads))
    segments = np.zeros((2, case.size), np.int32)
    for row, lengths in enumerate((case.lengths, case.lengths[::-1])):
        start, number = 0, 0
        for n in lengths:
            number += n > 0
            segments[row, start : start + n] = number
            start += max(n, 1)
    return q, k, v, g, segments


def _key_ids(case, segments):
    """Without every third position, and without any of the first row's last segment: its queries see nothing."""
    if not case.no_keys:
        return None
    hidden = (np.arange(case.size) % 3 == 1) | (segments == segments[:1].max()) & (np.arange(2) == 0)[:, None]
    return np.where(hidden, 0, segments)


def _dense(case, q, k, v, g, segments):
    """Output and gradients of `sum(out * g)`, in float64."""
    key_ids = segments if _key_ids(case, segments) is None else _key_ids(case, segments)
    return dense_attention(q, k, v, g, segments, key_ids, causal=case.causal, window=case.window)


# Others come close to these at the same borders.
SLOW = {
    "prefixes",
    "windowed",
    "reach inside one chunk",
    "segments shorter than the window",
    "sliding window, prefixes",
}
SLOW |= {
    "no keys, one chunk",
    "no keys, prefixes",
    "bidirectional, windowed",
    "ungrouped",
    "one key head",
    "sliding window",
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in CASES])
def test_values_and_gradients_equal_dense(name):
    case = CASES[name]
    q, k, v, g, segments = _inputs(case)
    expected = _dense(case, q, k, v, g, segments)

    @jax.jit
    def run(q, k, v):
        f = lambda q, k, v: xla_attention(  # noqa: E731
            q, k, v, jnp.asarray(segments), key_ids=_key_ids(case, segments), causal=case.causal,
            max_segment=case.max_segment, window=case.window, chunk=case.chunk,
        )  # fmt: skip
        out, pull = jax.vjp(f, q, k, v)
        return out, *pull(jnp.asarray(g, jnp.float32))

    got = run(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)))
    # The gradient of the keys vanishes where every query sees one key: it is zero to the rounding of the others.
    largest = max(np.abs(theirs).max() for theirs in expected)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * max(np.abs(theirs).max(), 0.05 * largest), rtol=0)
    np.testing.assert_array_equal(np.asarray(got[0])[segments == 0], 0)
    assert all(np.isfinite(x).all() for x in got)


def test_what_is_no_key_is_seen_by_nobody():
    """Whatever stands there, the others are as without it; it asks itself, and its key and value have no gradient."""
    case = CASES["no keys, bidirectional"]
    q, k, v, g, segments = _inputs(case)
    key_ids = _key_ids(case, segments)
    hidden = (key_ids == 0)[..., None, None]

    @jax.jit
    def run(q, k, v):
        out, pull = jax.vjp(lambda *x: attention(*x, segments, key_ids=key_ids, causal=False), q, k, v)
        return out, pull(jnp.asarray(g, jnp.float32))

    plain = [jnp.asarray(x, jnp.float32) for x in (q, k, v)]
    out, (dq, dk, dv) = run(*plain)
    wild, _ = run(plain[0], *(jnp.where(hidden, 1e3, x) for x in plain[1:]))
    np.testing.assert_array_equal(out, wild)
    np.testing.assert_array_equal(np.where(hidden, dk, 0), 0)
    np.testing.assert_array_equal(np.where(hidden, dv, 0), 0)
    asks = hidden[..., 0] & (segments > 0)[..., None] & (segments != segments[:1].max())[..., None]
    assert (np.abs(np.asarray(dq)).max(-1, where=asks[..., None], initial=0) > 0).any()


def test_bfloat16_keeps_its_type_and_float32_softmax():
    q, k, v, g, segments = _inputs(CASES["windowed"])
    expected = _dense(CASES["windowed"], q, k, v, g, segments)[0]
    half = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    out = attention(*half, jnp.asarray(segments), max_segment=7)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=0.05 * np.abs(expected).max())


def test_cache_gives_the_last_rows_of_dense():
    """Slots after a query's position hold garbage and must not matter."""
    case = Case((12,), 12, 12)
    q, k, v, g, segments = _inputs(case)
    expected = _dense(case, q, k, v, g, segments)[0]
    positions = np.array([[5, 6], [9, 10]])
    picked = np.take_along_axis(q, positions[..., None, None], 1)
    for row, last in enumerate((6, 10)):
        k[row, last + 1 :], v[row, last + 1 :] = 1e3, 1e3
    out = cached_attention(*(jnp.asarray(x, jnp.float32) for x in (picked, k, v)), jnp.asarray(positions))
    np.testing.assert_allclose(out, np.take_along_axis(expected, positions[..., None, None], 1), atol=1e-5)


def test_a_slot_without_a_position_is_no_key():
    """The same mask as `key_ids` 0, in a cache; a query all of whose slots are such returns zeros."""
    case = Case((12,), 12, 12, no_keys=True)
    q, k, v, g, segments = _inputs(case)
    slots = np.where(_key_ids(case, segments) > 0, np.arange(12), -1)
    positions = np.broadcast_to(np.arange(12), (2, 12))
    out = cached_attention(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)), positions, slots=jnp.asarray(slots))
    np.testing.assert_allclose(out, _dense(case, q, k, v, g, segments)[0], atol=1e-5)
    assert not out[0].any()


@pytest.mark.parametrize("window", [1, 3, 7])
def test_a_cache_of_the_last_positions_gives_the_last_rows_of_dense(window):
    """Slots hold the 6 positions before the queries and theirs; of a sequence that just began, fewer."""
    case = Case((12,), 12, 12, window=window)
    q, k, v, g, segments = _inputs(case)
    expected = _dense(case, q, k, v, g, segments)[0]
    positions = np.array([[9, 10], [2, 3]])
    slots = positions[:, :1] - 6 + np.arange(8)
    pick = lambda x, at: np.take_along_axis(x, at[..., None, None], 1)  # noqa: E731
    held = [np.where((slots < 0)[..., None, None], 1e3, pick(x, np.maximum(slots, 0))) for x in (k, v)]
    out = cached_attention(
        *(jnp.asarray(x, jnp.float32) for x in (pick(q, positions), *held)),
        jnp.asarray(positions),
        slots=jnp.asarray(slots),
        window=window,
    )
    np.testing.assert_allclose(out, pick(expected, positions), atol=1e-5)


@pytest.mark.parametrize("name", ["cudnn", "splash", "no_such_backend"])
def test_an_absent_backend_is_refused(name):
    q, k, v, _, segments = _inputs(CASES["one chunk"])
    with pytest.raises(BackendError, match=f"'{name}' is not available here; available: xla"):
        attention(q, k, v, segments, implementation=name)


def _work(closed):
    """Multiply-adds of a jaxpr with scan bodies counted as often as they run, and the largest scan carry."""
    flops, carry = 0, 0
    for eqn in closed.eqns:
        inner = [
            p.jaxpr if hasattr(p, "jaxpr") else p
            for p in eqn.params.values()
            if hasattr(p, "eqns") or hasattr(p, "jaxpr")
        ]
        times = eqn.params.get("length", 1)
        if eqn.primitive.name == "scan":
            # A carry keeps its shape from body to loop, a stacked output gains an axis; in every version of jax.
            outs = zip(eqn.outvars, inner[0].outvars, strict=True)
            carry = max([carry, *(out.aval.size for out, body in outs if out.aval.shape == body.aval.shape)])
        for jaxpr in inner:
            f, c = _work(jaxpr)
            flops, carry = flops + times * f, max(carry, c)
        if eqn.primitive.name == "dot_general":
            (contract, _), _ = eqn.params["dimension_numbers"]
            depth = np.prod([eqn.invars[0].aval.shape[i] for i in contract])
            flops += int(eqn.outvars[0].aval.size * depth)
    return flops, carry


def _gradient(size, max_segment):
    def f(q, k, v, segments):
        return jnp.sum(attention(q, k, v, segments, max_segment=max_segment) ** 2)

    shape = lambda n: jax.ShapeDtypeStruct((1, size, n, 16), jnp.float32)  # noqa: E731
    args = shape(4), shape(2), shape(2), jax.ShapeDtypeStruct((1, size), jnp.int32)
    return jax.jit(jax.grad(f, argnums=(0, 1, 2))), args


def test_work_and_memory_are_linear_in_the_row_at_a_fixed_segment():
    work, memory = [], []
    for size in (2048, 8192):
        gradient, args = _gradient(size, 128)
        flops, carry = _work(jax.make_jaxpr(gradient)(*args).jaxpr)
        work.append(flops)
        # A backward that adds each chunk's share to a full-size buffer is quadratic: it would carry that buffer.
        assert carry < 1024
        memory.append(gradient.lower(*args).compile().memory_analysis().temp_size_in_bytes)
    assert work[1] == 4 * work[0]
    assert memory[1] < 4.4 * memory[0]
    # forward 2 products, recomputed, and 4 of the backward; at most twice the 128 keys that a query can reach
    assert work[0] <= 8 * (2048 * 2 * 128) * 4 * 16


def test_full_attention_skips_the_hidden_triangle():
    gradient, args = _gradient(2048, None)
    flops, _ = _work(jax.make_jaxpr(gradient)(*args).jaxpr)
    everything = 8 * 2048 * 2048 * 4 * 16
    assert flops < 0.65 * everything
    scores = 4 * 2048 * 2048 * 4
    assert gradient.lower(*args).compile().memory_analysis().temp_size_in_bytes < scores / 2


@pytest.mark.parametrize("window", [0, -3])
def test_a_window_without_positions_is_refused(window):
    q, k = jnp.ones((1, 4, 4, 8)), jnp.ones((1, 4, 2, 8))
    with pytest.raises(ValueError, match=f"window is {window}; a query sees at least itself"):
        attention(q, k, k, jnp.ones((1, 4), int), window=window)
    with pytest.raises(ValueError, match=f"window is {window}; a query sees at least itself"):
        cached_attention(q, k, k, jnp.arange(4)[None], window=window)
