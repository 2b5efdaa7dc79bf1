"""The short convolution against its definition, written as loops in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.ops.conv import gated_short_conv, short_conv_step

SEGMENTS = np.array([[1, 1, 1, 2, 3, 3, 3, 3, 0, 0], [0, 0, 1, 1, 1, 1, 1, 1, 2, 2]], np.int32)


def _inputs(taps):
    rng = np.random.default_rng(taps)
    return rng.standard_normal((2, 10, 3, 5)), rng.standard_normal((taps, 5)), rng.standard_normal((2, 10, 5))


def _loops(gates, kernel, g, causal):
    """`c * conv(b * x)`, and the gradients of its sum with `g`."""
    taps, (b, c, x) = len(kernel), np.moveaxis(gates, 2, 0)
    z, du, dw = np.zeros_like(g), np.zeros_like(g), np.zeros_like(kernel)
    for r in range(g.shape[0]):
        for t in range(g.shape[1]):
            for j in range(taps):
                s = t - (taps - 1) + j if causal else t - taps // 2 + j
                if 0 <= s < g.shape[1] and SEGMENTS[r, s] == SEGMENTS[r, t]:
                    z[r, t] += kernel[j] * b[r, s] * x[r, s]
                    du[r, s] += kernel[j] * g[r, t] * c[r, t]
                    dw[j] += b[r, s] * x[r, s] * g[r, t] * c[r, t]
    return c * z, np.stack([du * x, g * z, du * b], axis=2), dw


@functools.partial(jax.jit, static_argnums=3)
def _value_and_gradients(gates, kernel, g, causal):
    y, pull = jax.vjp(lambda gates, kernel: gated_short_conv(gates, kernel, SEGMENTS, causal), gates, kernel)
    return y, *pull(g)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("taps", [1, 2, 3, 7])
def test_values_and_gradients_with_segments(taps, causal):
    inputs = _inputs(taps)
    got = _value_and_gradients(*(jnp.asarray(a, jnp.float32) for a in inputs), causal)
    for ours, theirs in zip(got, _loops(*inputs, causal), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_gradients_in_bfloat16_are_those_in_float32_rounded():
    gates, kernel, g = (jnp.asarray(a, jnp.bfloat16) for a in _inputs(3))
    exact = _value_and_gradients(*(a.astype(jnp.float32) for a in (gates, kernel, g)), True)
    for ours, theirs in zip(_value_and_gradients(gates, kernel, g, True), exact, strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, rtol=0.02, atol=0.05)


def test_impulse_gives_the_kernel_reversed_in_time():
    """Cross-correlation: an impulse at t meets the newest tap first."""
    kernel = jnp.array([[1.0], [10.0], [100.0]])
    gates = jnp.ones((1, 6, 3, 1)).at[0, :, 2, 0].set(jnp.zeros(6).at[2].set(1.0))
    y = gated_short_conv(gates, kernel, jnp.ones((1, 6), jnp.int32))
    np.testing.assert_array_equal(y[0, :, 0], [0, 0, 100, 10, 1, 0])


@pytest.mark.parametrize("taps", [1, 3, 7])
@pytest.mark.parametrize("chunks", [(10,), (1,) * 10, (1, 2, 4, 3), (6, 1, 1, 2)])
def test_any_chunking_continues_the_sequence(taps, chunks):
    u, kernel = (jnp.asarray(a, jnp.float32) for a in (_inputs(taps)[2], _inputs(taps)[1]))
    open_gates = jnp.stack([jnp.ones_like(u), jnp.ones_like(u), u], axis=2)
    whole = gated_short_conv(open_gates, kernel, jnp.ones((2, 10), jnp.int32))
    columns, start, outs = jnp.zeros((2, taps - 1, 5)), 0, []
    for n in chunks:
        z, columns = short_conv_step(u[:, start : start + n], kernel, columns, jnp.array([n, n]))
        outs.append(z)
        start += n
    np.testing.assert_allclose(jnp.concatenate(outs, 1), whole, atol=1e-6)


def test_columns_that_are_not_real_leave_no_trace():
    u, kernel = (jnp.asarray(a, jnp.float32) for a in (_inputs(3)[2], _inputs(3)[1]))
    before = jnp.asarray(np.random.default_rng(1).standard_normal((2, 2, 5)), jnp.float32)
    _, columns = short_conv_step(u[:, :4], kernel, before, jnp.array([0, 1]))
    np.testing.assert_array_equal(columns[0], before[0])
    np.testing.assert_array_equal(columns[1], jnp.stack([before[1, 1], u[1, 0]]))
