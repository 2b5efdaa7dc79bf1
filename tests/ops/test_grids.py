"""Grids of few bits: laws of rounding, the scales of least error, gradients that go straight through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.errors import ConfigError
from jaxpo.ops.fake_quant import FakeQuant
from jaxpo.ops.grids import GRIDS, absmax_scales, best_scales, codes, grid, head_grid, rounded, rounded_activations
from jaxpo.ops.linear import einsum, linear, rows

RNG = np.random.default_rng(3)
W = (0.3 * RNG.standard_normal((6, 96))).astype(np.float32)
W[0, :32] = 0
W[1, 32:64] = np.abs(W[1, 32:64])
EVERY = [grid(name, group) for name in GRIDS for group in ((32,) if name == "q4_0" else (32, 16, 0))]


@pytest.mark.parametrize("to", EVERY, ids=str)
def test_laws(to):
    scales = absmax_scales(W, to)
    q = rounded(W, to)
    wide = np.repeat(scales, 96 // scales.shape[1], axis=1)
    # Of the spec: whole multiples of the scale, within range.
    k = np.divide(q, wide, out=np.zeros_like(q), where=wide != 0)
    assert np.array_equal(k, np.round(k))
    assert k.min() >= to.low
    assert k.max() <= to.high
    assert np.array_equal(k, codes(W, scales, to))
    # Half a step, but where Q4_0 cuts off the other sign's extreme, or the kept scale is a little small.
    slack = 1.0 if to.signed else 0.5 + to.high * 2.0 ** (-8 if to.stored == "bfloat16" else -11)
    assert (np.abs(W - q) <= slack * np.abs(wide) * (1 + 1e-6)).all()
    # Its own fixed point, and equivariant to powers of two, bit for bit.
    assert np.array_equal(rounded(q, to), q)
    assert np.array_equal(rounded(4 * W, to), 4 * q)
    if not to.signed and to.low == -to.high:
        assert np.array_equal(rounded(-W, to), -q)
    assert not q[0, :16].any()


@pytest.mark.parametrize("to", EVERY, ids=str)
def test_scales_of_least_error_are_never_worse_than_absmax(to):
    def error(scales):
        parts = ((W.astype(np.float64) - rounded(W, to, scales)) ** 2).reshape(*scales.shape, -1)
        return parts.sum(-1)

    plain, best = error(absmax_scales(W, to)), error(best_scales(W, to))
    assert (best <= plain * (1 + 1e-6) + 1e-12).all()
    if to.bits == 4:
        assert best.sum() < 0.99 * plain.sum()


def test_the_scale_of_a_hand_made_group():
    """Many small values and one large: the best scale cuts the large one, absmax all the others."""
    w = np.full((1, 32), 0.1, np.float32)
    w[0, 5] = 1.0
    to = grid("int4")
    assert absmax_scales(w, to)[0, 0] == np.float32(np.float16(1 / 7))
    tried = np.linspace(0.05, 0.2, 20001, dtype=np.float32)[:, None, None]
    error = min(float(((w - np.clip(np.round(w / s[0]), -7, 7) * s[0]) ** 2).sum()) for s in tried)
    found = float(((w - rounded(w, to, best_scales(w, to))) ** 2).sum())
    assert found <= 1.05 * error


def test_numpy_and_jax_agree():
    for to in EVERY:
        assert np.array_equal(rounded(W, to), np.asarray(rounded(jnp.asarray(W), to)))


def test_names_and_groups():
    assert grid("int4").bits == grid("q4_0").bits == 4
    assert head_grid(grid("q4_0")) == grid("int8")
    assert head_grid(grid("8da4w")) == grid("8da4w")
    with pytest.raises(ConfigError, match=r"there are int4.*Did you mean"):
        grid("int44")
    with pytest.raises(ConfigError, match="q4_0 has groups of 32"):
        grid("q4_0", 16)
    with pytest.raises(ValueError, match="no whole number of groups"):
        rounded(W, grid("int4", 64))


def test_activations_are_rounded_as_in_eight_bits_with_a_zero_point():
    x = np.array([[-1.0, 0.0, 0.25, 3.0], [2.0, 2.0, 2.0, 2.0], [0, 0, 0, 0]], np.float32)
    scale = np.array([4 / 255, 2 / 255, 1.0])[:, None]
    zero = np.round(-128 - np.array([-1.0, 0.0, 0.0])[:, None] / scale)
    wanted = (np.clip(np.round(x / scale) + zero, -128, 127) - zero) * scale
    np.testing.assert_allclose(rounded_activations(jnp.asarray(x)), wanted, atol=1e-6)


@pytest.mark.parametrize("name", GRIDS)
def test_the_gradient_goes_straight_through(name):
    """d/dw of f(x Q(w)) is f'(x Q(w)) at the rounded weight, as if the weight were it: against finite differences
    around Q(w), in float64."""
    to = grid(name)
    w, x = jnp.asarray(W.T), jnp.asarray(RNG.standard_normal((5, 96)), jnp.float32)
    leaf = FakeQuant(w, to, 0)
    q = rounded(W, to).T.astype(np.float64)
    assert np.array_equal(leaf.dense(), q.astype(np.float32))
    seen = np.asarray(rounded_activations(x) if to.activations else x, np.float64)

    def loss(leaf):
        return jnp.sum(jnp.sin(linear(x, leaf)))

    def exact(q):
        return np.sin(seen @ q).sum()

    np.testing.assert_allclose(loss(leaf), exact(q), rtol=1e-4, atol=1e-3)
    found = jax.grad(loss)(leaf).weight
    for i, j in ((0, 0), (3, 2), (95, 5), (40, 1)):
        step = np.zeros_like(q)
        step[i, j] = 1e-6
        slope = (exact(q + step) - exact(q - step)) / 2e-6
        np.testing.assert_allclose(found[i, j], slope, rtol=1e-3, atol=1e-4)
    # And to the inputs.
    back = jax.grad(lambda x: jnp.sum(jnp.sin(linear(x, leaf))))(x)
    np.testing.assert_allclose(back, np.cos(seen @ q) @ q.T, rtol=1e-3, atol=1e-4)


def test_every_way_in_which_a_weight_is_used():
    to = grid("int4")
    table = jnp.asarray(W)
    leaf = FakeQuant(table, to, -1)
    index = jnp.asarray([[0, 3], [5, 5]])
    q = rounded(table, to)
    assert np.array_equal(rows(leaf, index, jnp.float32), q[index])
    x = jnp.asarray(RNG.standard_normal((2, 96)), jnp.float32)
    np.testing.assert_allclose(einsum("bd,vd->bv", x, leaf), x @ q.T, rtol=1e-5, atol=1e-5)
    assert leaf.shape == table.shape
