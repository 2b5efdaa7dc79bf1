"""Small ops: types in and out, and float64 references."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.ops.linear import einsum, linear
from jaxpo.ops.norm import rms_norm
from jaxpo.ops.rope import apply_rope, rope_table


def test_weights_are_cast_at_use_and_their_gradient_stays_float32():
    x = jnp.ones((2, 3, 4), jnp.bfloat16)
    w = jnp.ones((4, 3, 5), jnp.float32)
    y, pull = jax.vjp(linear, x, w)
    assert y.shape == (2, 3, 3, 5)
    assert y.dtype == jnp.bfloat16
    dx, dw = pull(y)
    assert (dx.dtype, dw.dtype) == (jnp.bfloat16, jnp.float32)
    z = einsum("abi,ijk->abjk", x, w, out_dtype=jnp.float32)
    assert z.dtype == jnp.float32
    np.testing.assert_array_equal(z, y.astype(jnp.float32))


def test_linear_is_a_matrix_product():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 4)), rng.standard_normal((4, 6))
    np.testing.assert_allclose(linear(jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32)), x @ w, atol=1e-5)


def test_rms_norm_values_and_gradients():
    rng = np.random.default_rng(0)
    x, w, g = rng.standard_normal((3, 7)) * 5, rng.standard_normal(7), rng.standard_normal((3, 7))
    scale = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-2)
    y, pull = jax.vjp(lambda x, w: rms_norm(x, w, 1e-2), jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32))
    dx, dw = pull(jnp.asarray(g, jnp.float32))
    np.testing.assert_allclose(y, w * x * scale, atol=1e-5)
    np.testing.assert_allclose(dw, (g * x * scale).sum(0), atol=1e-5)
    np.testing.assert_allclose(dx, scale * g * w - x * scale**3 * (g * w * x).mean(-1, keepdims=True), atol=1e-5)


def test_rms_norm_statistics_are_float32():
    """256 values of 1 and one of 16 in bfloat16: a bfloat16 sum of squares would stop at 256."""
    x = jnp.concatenate([jnp.full((1,), 16.0), jnp.ones((512,))]).astype(jnp.bfloat16)
    y = rms_norm(x, jnp.ones(513), 1e-5)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y[1].astype(jnp.float32), 1 / np.sqrt((256 + 512) / 513), rtol=4e-3)


def test_rope_pairs_halves_and_depends_on_distance_only():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 4, 1, 8)).astype(np.float32)
    positions = np.array([[0, 1, 7, 1000]])
    angle = positions[0][:, None] * 1e4 ** (-np.arange(4) / 4)
    turned = (x[0, :, 0, :4] + 1j * x[0, :, 0, 4:]) * np.exp(1j * angle)
    rope = rope_table(jnp.asarray(positions), 8, 1e4)
    got = apply_rope(jnp.asarray(x), rope)
    np.testing.assert_allclose(got[0, :, 0], np.concatenate([turned.real, turned.imag], -1), atol=2e-4)
    np.testing.assert_array_equal(got[0, 0], x[0, 0])
    shifted = apply_rope(jnp.asarray(x), rope_table(jnp.asarray(positions + 31), 8, 1e4))
    np.testing.assert_allclose(got[0, 1, 0] @ got[0, 2, 0], shifted[0, 1, 0] @ shifted[0, 2, 0], atol=1e-4)


def test_rope_table_is_float32_at_long_positions():
    rope = rope_table(jnp.array([[100_001]]), 64, 1e6)
    assert rope.cos.dtype == jnp.float32
    np.testing.assert_allclose(rope.cos[0, 0], np.cos(100_001 * 1e6 ** (-np.arange(32) / 32)), atol=2e-2)
