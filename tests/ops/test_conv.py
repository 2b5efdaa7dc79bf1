"""The short convolution against its definition, written as loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.ops.conv import short_conv, short_conv_step

SEGMENTS = np.array([[1, 1, 1, 2, 3, 3, 3, 3, 0, 0], [0, 0, 1, 1, 1, 1, 1, 1, 2, 2]], np.int32)


def _inputs(taps):
    rng = np.random.default_rng(taps)
    return rng.standard_normal((2, 10, 5)), rng.standard_normal((taps, 5)), rng.standard_normal((2, 10, 5))


def _loops(u, kernel, g, causal):
    """`z`, and the gradients of `sum(z * g)`."""
    taps = len(kernel)
    z, du, dw = np.zeros_like(u), np.zeros_like(u), np.zeros_like(kernel)
    for r in range(u.shape[0]):
        for t in range(u.shape[1]):
            for j in range(taps):
                s = t - (taps - 1) + j if causal else t - taps // 2 + j
                if 0 <= s < u.shape[1] and SEGMENTS[r, s] == SEGMENTS[r, t]:
                    z[r, t] += kernel[j] * u[r, s]
                    du[r, s] += kernel[j] * g[r, t]
                    dw[j] += u[r, s] * g[r, t]
    return z, du, dw


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("taps", [1, 2, 3, 7])
def test_values_and_gradients_with_segments(taps, causal):
    u, kernel, g = _inputs(taps)
    f = lambda u, w: short_conv(u, w, jnp.asarray(SEGMENTS), causal=causal)  # noqa: E731
    z, pull = jax.vjp(f, jnp.asarray(u, jnp.float32), jnp.asarray(kernel, jnp.float32))
    got = z, *pull(jnp.asarray(g, jnp.float32))
    for ours, theirs in zip(got, _loops(u, kernel, g, causal), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_impulse_gives_the_kernel_reversed_in_time():
    """Cross-correlation: an impulse at t meets the newest tap first."""
    kernel = jnp.array([[1.0], [10.0], [100.0]])
    u = jnp.zeros((1, 6, 1)).at[0, 2, 0].set(1.0)
    z = short_conv(u, kernel, jnp.ones((1, 6), jnp.int32))
    np.testing.assert_array_equal(z[0, :, 0], [0, 0, 100, 10, 1, 0])


@pytest.mark.parametrize("taps", [1, 3, 7])
@pytest.mark.parametrize("chunks", [(10,), (1,) * 10, (1, 2, 4, 3), (6, 1, 1, 2)])
def test_any_chunking_continues_the_sequence(taps, chunks):
    u, kernel, _ = _inputs(taps)
    u, kernel = jnp.asarray(u, jnp.float32), jnp.asarray(kernel, jnp.float32)
    whole = short_conv(u, kernel, jnp.ones((2, 10), jnp.int32))
    columns, start, outs = jnp.zeros((2, taps - 1, 5)), 0, []
    for n in chunks:
        z, columns = short_conv_step(u[:, start : start + n], kernel, columns, jnp.array([n, n]))
        outs.append(z)
        start += n
    np.testing.assert_allclose(jnp.concatenate(outs, 1), whole, atol=1e-6)


def test_columns_that_are_not_real_leave_no_trace():
    u, kernel, _ = _inputs(3)
    u, kernel = jnp.asarray(u, jnp.float32), jnp.asarray(kernel, jnp.float32)
    before = jnp.asarray(np.random.default_rng(1).standard_normal((2, 2, 5)), jnp.float32)
    _, columns = short_conv_step(u[:, :4], kernel, before, jnp.array([0, 1]))
    np.testing.assert_array_equal(columns[0], before[0])
    np.testing.assert_array_equal(columns[1], jnp.stack([before[1, 1], u[1, 0]]))
