"""Segments that continue a prefix: convolution and attention by their definitions in float64, and who refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.errors import BackendError
from jaxpo.ops.attention import attention, chosen
from jaxpo.ops.attention_xla import xla_attention
from jaxpo.ops.conv import gated_short_conv
from jaxpo.ops.prefix import continued_conv, prefix_of

# Three that continue 1, one by itself, two that continue 6 (of one position); and a row without any.
LENGTHS = [[4, 3, 1, 5, 4, 1, 2, 2], [9, 8, 0, 0, 0, 0, 0, 0]]
CONTINUES = np.asarray([[0, 1, 1, 1, 0, 0, 6, 6], [0] * 8], np.int32)
ROW = 24
SEGMENTS = np.stack([np.pad(np.repeat(np.arange(1, len(n) + 1), n), (0, ROW - sum(n))) for n in LENGTHS]).astype(
    np.int32
)


def context(r, t):
    """The positions that a position's text is made of, up to itself, in order."""
    own = SEGMENTS[r] == SEGMENTS[r, t]
    before = CONTINUES[r, SEGMENTS[r, t] - 1]
    return [*np.flatnonzero(SEGMENTS[r] == before)] * int(before > 0) + [s for s in np.flatnonzero(own) if s <= t]


def conv_by_loops(gates, kernel, g):
    """Values, and the gradients of their sum with `g`."""
    taps, (b, c, x) = len(kernel), np.moveaxis(gates, 2, 0)
    z, du, dw = np.zeros_like(g), np.zeros_like(g), np.zeros_like(kernel)
    for r, t in zip(*np.nonzero(SEGMENTS), strict=True):
        for back, s in enumerate(context(r, t)[::-1][:taps]):
            tap = kernel[taps - 1 - back]
            z[r, t] += tap * b[r, s] * x[r, s]
            du[r, s] += tap * g[r, t] * c[r, t]
            dw[taps - 1 - back] += b[r, s] * x[r, s] * g[r, t] * c[r, t]
    return c * z, np.stack([du * x, g * z, du * b], axis=2), dw


@jax.jit
def conv_and_gradients(gates, kernel, g):
    def continued(gates, kernel):
        y = gated_short_conv(gates, kernel, SEGMENTS)
        return continued_conv(y, gates, kernel, SEGMENTS, prefix_of(jnp.asarray(SEGMENTS), jnp.asarray(CONTINUES)))

    y, pull = jax.vjp(continued, gates, kernel)
    return y, *pull(g)


@pytest.mark.parametrize("taps", [1, 2, 3, 6])
def test_a_convolution_goes_on_from_the_end_of_what_its_segment_continues(taps):
    rng = np.random.default_rng(taps)
    real = (SEGMENTS > 0)[..., None]
    arrays = (
        rng.standard_normal((2, ROW, 3, 5)),
        rng.standard_normal((taps, 5)),
        rng.standard_normal((2, ROW, 5)) * real,
    )
    got = conv_and_gradients(*(jnp.asarray(a, jnp.float32) for a in arrays))
    for ours, theirs in zip(got, conv_by_loops(*arrays), strict=True):
        ours = np.where(real, ours, 0) if ours.ndim == 3 else ours
        np.testing.assert_allclose(ours, theirs, atol=3e-5)


def attention_by_rows(q, k, v):
    out = np.zeros_like(q)
    for r, t in zip(*np.nonzero(SEGMENTS), strict=True):
        seen = context(r, t)
        for h in range(q.shape[2]):
            scores = k[r, seen, h // 2] @ q[r, t, h] * q.shape[-1] ** -0.5
            weights = np.exp(scores - scores.max())
            out[r, t, h] = weights / weights.sum() @ v[r, seen, h // 2]
    return out


@pytest.mark.parametrize(
    "how", [{"chunk": 24}, {"chunk": 4}, {"chunk": 2, "max_segment": 13}], ids=["one", "bands", "reach"]
)
def test_attention_sees_what_its_segment_continues_and_no_one_else_who_does(how):
    rng = np.random.default_rng(0)
    q, k, v, g = (rng.standard_normal((2, ROW, heads, 4)) for heads in (4, 2, 2, 4))
    prefix = prefix_of(jnp.asarray(SEGMENTS), jnp.asarray(CONTINUES)).ids

    def attend(q, k, v):
        return xla_attention(q, k, v, jnp.asarray(SEGMENTS), prefix_ids=prefix, **how)

    with jax.enable_x64(True):
        out, pull = jax.vjp(jax.jit(attend), *map(jnp.asarray, (q, k, v)))
        got = [np.asarray(d) for d in pull(jnp.asarray(g))]
    np.testing.assert_allclose(out, attention_by_rows(q, k, v), atol=1e-6)
    ways = [rng.standard_normal(x.shape) for x in (q, k, v)]
    step = 1e-6
    ahead, behind = (
        np.sum(g * attention_by_rows(*(x + sign * step * way for x, way in zip((q, k, v), ways, strict=True))))
        for sign in (1, -1)
    )
    assert sum(np.sum(d * way) for d, way in zip(got, ways, strict=True)) == pytest.approx(
        (ahead - behind) / (2 * step), rel=1e-5
    )


def test_only_plain_xla_does_it_and_not_over_spread_positions_or_with_a_window():
    assert {chosen(platform=p, prefix=True).name for p in ("cpu", "gpu", "tpu")} == {"xla"}
    for name, platform in (("pallas", "gpu"), ("cudnn", "gpu"), ("splash", "tpu")):
        with pytest.raises(BackendError, match="share a prefix"):
            chosen(name, platform=platform, prefix=True)
    with pytest.raises(BackendError, match="positions lie on 2 devices"):
        chosen(platform="gpu", prefix=True, sequence=2)
    x, ids = jnp.zeros((1, 4, 1, 4)), jnp.ones((1, 4), jnp.int32)
    with pytest.raises(BackendError, match="a window counts positions"):
        attention(x, x, x, ids, window=2, prefix_ids=ids * 0)
