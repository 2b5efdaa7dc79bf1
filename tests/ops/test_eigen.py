"""A weight multiplied by Eigen: the product and its gradients are the array's, and XLA makes no convolution of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.ops.eigen import Eigen
from jaxpo.ops.linear import einsum, linear, rows

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("leading", [(1,), (8,), (2, 3)])
@pytest.mark.parametrize("outputs", [(6,), (3, 4)])
def test_the_product_is_that_of_the_array(leading, outputs):
    x = RNG.standard_normal((*leading, 5)).astype(np.float32)
    w = RNG.standard_normal((5, *outputs)).astype(np.float32)
    found = jax.jit(linear)(x, Eigen(w))
    np.testing.assert_allclose(found, np.tensordot(np.float64(x), w, axes=1), rtol=1e-5, atol=1e-6)
    assert found.shape == (*leading, *outputs)


def test_other_uses_are_those_of_the_array():
    w = RNG.standard_normal((5, 4)).astype(np.float32)
    x = RNG.standard_normal((3, 5)).astype(np.float32)
    assert Eigen(w).shape == (5, 4)
    np.testing.assert_array_equal(rows(Eigen(jnp.asarray(w)), jnp.array([3, 0]), jnp.float32), w[[3, 0]])
    np.testing.assert_allclose(einsum("bi,io->bo", x, Eigen(w)), x @ w, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="Eigen is XLA's library for CPUs")
@pytest.mark.parametrize("count", [1, 8, 128])
def test_xla_makes_it_a_plain_product_in_loops_too(count):
    """As a convolution it would be far slower than what it replaces."""
    x, into, out = jnp.ones((count, 1, 64)), Eigen(jnp.ones((64, 2, 64))), Eigen(jnp.ones((128, 64)))

    def once(x):
        return jnp.tanh(linear(linear(x, into).reshape(count, 1, 128), out))

    def often(x):
        return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, once(c[1])), (0, x))

    for program in (once, often):
        text = jax.jit(program).lower(x).compile().as_text()
        assert " convolution(" not in text
        assert " dot(" in text or "custom-call" in text
        assert "ynn" not in text
