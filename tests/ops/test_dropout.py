"""Dropout: its rate, its mean, that a row's draw is the row's own, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.ops.dropout import dropout

KEYS = jax.random.split(jax.random.key(0), 6)
X = jnp.asarray(np.random.default_rng(0).standard_normal((6, 40, 50)), jnp.float32)
run = jax.jit(dropout, static_argnums=2)


def test_entries_are_zero_or_scaled_at_the_given_rate():
    y = np.asarray(run(X, KEYS, 0.1))
    dropped = y == 0
    np.testing.assert_allclose(y[~dropped], np.asarray(X)[~dropped] / 0.9, rtol=1e-6)
    # 12,000 draws: the standard deviation of the share is 0.0027.
    assert abs(dropped.mean() - 0.1) < 0.011
    assert abs(float(np.mean(run(jnp.ones_like(X), KEYS, 0.1))) - 1.0) < 0.0125


def test_a_row_draws_by_its_key_alone():
    whole = np.asarray(run(X, KEYS, 0.3))
    np.testing.assert_array_equal(whole[4:], run(X[4:], KEYS[4:], 0.3))
    assert not np.array_equal(whole[0] == 0, whole[1] == 0)


def test_rate_zero_is_the_identity_and_bfloat16_stays():
    assert dropout(X, KEYS, 0.0) is X
    assert run(X.astype(jnp.bfloat16), KEYS, 0.5).dtype == jnp.bfloat16


def test_the_gradient_is_the_mask():
    grad = jax.jit(jax.grad(lambda x: jnp.sum(dropout(x, KEYS, 0.25))))(X)
    np.testing.assert_allclose(grad, np.where(np.asarray(run(X, KEYS, 0.25)) == 0, 0.0, 1 / 0.75), rtol=1e-6)
    assert float(jnp.mean(grad == 0)) == pytest.approx(0.25, abs=0.02)
