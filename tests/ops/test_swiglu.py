"""The gate against float64 numpy, and what its gradient keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.ops.swiglu import swiglu


def expected(gate, up, d_hidden):
    """Value and both gradients in float64."""
    with np.errstate(over="ignore"):
        s = 1.0 / (1.0 + np.exp(-gate))
        slope = s + gate * s / (1.0 + np.exp(gate))
    return gate * s * up, d_hidden * up * slope, d_hidden * gate * s


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)])
def test_value_and_gradient(dtype, tolerance):
    rng = np.random.default_rng(0)
    far = np.array([-1e4, -80.0, -20.0, -17.0, -8.0, 0.0, 20.0, 90.0, 1e4])
    gate = jnp.asarray(np.concatenate([far, 4 * rng.standard_normal(55)]), dtype)
    up, d_hidden = (jnp.asarray(rng.standard_normal(64), dtype) for _ in range(2))
    value, back = jax.vjp(swiglu, gate, up)
    found = (value, *back(d_hidden))
    wanted = expected(*(np.asarray(x, np.float64) for x in (gate, up, d_hidden)))
    for got, want in zip(found, wanted, strict=True):
        assert got.dtype == dtype
        # Relative also where the gate is all but closed (below the smallest normal number it is 0); near -1.28, where
        # the slope passes through 0, it can only be absolute.
        off = np.abs(np.asarray(got, np.float64) - want) - tolerance * np.abs(want)
        assert (off <= np.where(np.abs(np.asarray(gate, np.float64)) < 4, tolerance, 1e-36)).all()


def test_only_the_inputs_are_kept():
    x = jnp.ones((4, 8))
    saved = jax.tree.leaves(jax.eval_shape(lambda g, u: jax.vjp(lambda *a: swiglu(*a), g, u)[1], x, x))
    assert sum(leaf.size for leaf in saved) == 2 * x.size
