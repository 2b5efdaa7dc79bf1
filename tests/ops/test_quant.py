"""Weights of eight bits: the products of the rounded values to float32's rounding, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpo.errors import BackendError
from jaxpo.ops.grouped import combine, dispatch, group_rows, grouped_matmul
from jaxpo.ops.linear import LowRank, einsum, linear, rows
from jaxpo.ops.quant import LONGEST, Quant, quantise

RNG = np.random.default_rng(0)
PRODUCT = jax.jit(lambda x, w: linear(x, quantise(w)))


def draw(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def emulated(x):
    """Rounded values in float64 and a scale per row, by numpy; float32 where the division decides the rounding."""
    scale = np.abs(x).max(-1, keepdims=True).astype(np.float32) / np.float32(127)
    return np.rint(x / np.where(scale > 0, scale, 1)).astype(np.float64), np.float64(scale)


def expected(x, w):
    """`x w` over the first axis of `w` as the same quantisation gives it in float64."""
    x, w = np.asarray(x, np.float32), np.asarray(w, np.float32)
    asked, own = emulated(x.reshape(-1, x.shape[-1]))
    columns, scales = emulated(w.reshape(w.shape[0], -1).T)
    return ((asked @ columns.T) * own * scales[:, 0]).reshape(*x.shape[:-1], *w.shape[1:])


@pytest.mark.parametrize("count", [1, 2, 3, 64, 65])
@pytest.mark.parametrize("outputs", [(6,), (3, 4)])
def test_a_product_is_that_of_the_rounded_values(count, outputs):
    x, w = draw(count, 5), draw(5, *outputs)
    y = jax.jit(linear)(x, quantise(w))
    np.testing.assert_allclose(y, expected(x, w), rtol=1e-6, atol=1e-7)
    # The rounding of both factors, not an error of the product.
    assert 1e-4 < np.abs(y - np.tensordot(x, w, axes=1)).max() < 0.1


@settings(max_examples=40, deadline=None)
@given(
    # A program per shape.
    st.sampled_from([1, 3]),
    st.sampled_from([1, 37]),
    st.sampled_from([1, 4]),
    st.integers(0, 2**16),
    st.sampled_from([1e-20, 1, 1e20]),
)
def test_any_shape_and_size_of_values(count, inner, outer, seed, size):
    rng = np.random.default_rng(seed)
    x = np.float32(rng.standard_normal((count, inner)) * size)
    w = np.float32(rng.standard_normal((inner, outer)))
    # A row and a column of zeros stay so, whatever else there is.
    x[rng.integers(count)] = 0
    w[:, rng.integers(outer)] = 0
    y = PRODUCT(jnp.asarray(x), jnp.asarray(w))
    np.testing.assert_allclose(y, expected(x, w), rtol=1e-5, atol=1e-6 * size)
    assert not y[~x.any(1)].any()
    assert not y[:, ~w.any(0)].any()


def test_a_row_is_the_same_bit_for_bit_in_every_batch():
    """One row is padded, few lie as columns, many as rows: the integer sums are exact, the scaling is the same."""
    x, w = draw(80, 33), quantise(draw(33, 7))
    whole = jax.jit(linear)(x, w)
    for first, count in ((0, 1), (5, 2), (5, 7), (10, 64), (2, 70)):
        np.testing.assert_array_equal(jax.jit(linear)(x[first : first + count], w), whole[first : first + count])


def test_the_rounding_error_is_at_most_half_a_step():
    w = draw(50, 9)
    q = quantise(w)
    assert q.values.dtype == jnp.int8
    assert q.shape == (50, 9)
    assert np.abs(q.values).max() == 127
    assert (np.abs(q.dense() - w) <= 0.5001 * np.asarray(q.scales)).all()
    np.testing.assert_array_equal(quantise(q.dense()).values, q.values)


def test_the_largest_sum_fits_and_a_longer_one_is_refused():
    ones = jnp.ones((LONGEST, 1), jnp.float32)
    np.testing.assert_allclose(linear(ones.T, quantise(ones)), LONGEST, rtol=1e-6)
    assert LONGEST * 127**2 < 2**31 <= (LONGEST + 1) * 127**2
    with pytest.raises(ValueError, match="133,145 products of int8 values may overflow int32; at most 133,144 cannot"):
        quantise(jnp.ones((LONGEST + 1, 1), jnp.float32))


def test_an_output_matrix_is_contracted_over_its_last_axis_and_looked_up():
    hidden, w = draw(3, 2, 5), draw(11, 5)
    q = quantise(w, -1)
    assert q.shape == (11, 5)
    logits = einsum("bsd,vd->bsv", hidden.astype(jnp.bfloat16), q, out_dtype=jnp.float32)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected(hidden.astype(jnp.bfloat16), w.T), rtol=1e-6, atol=1e-6)
    ids = jnp.array([[0, 10], [3, 99]])
    looked = rows(q, ids, jnp.float32)
    np.testing.assert_array_equal(looked, q.dense()[jnp.minimum(ids, 10)])
    assert rows(q, ids, jnp.bfloat16).dtype == jnp.bfloat16
    np.testing.assert_array_equal(rows(w, ids, jnp.float32), w[jnp.minimum(ids, 10)])


def test_what_is_not_a_number_stays_so_in_its_own_row():
    x = draw(3, 5).at[1, 2].set(jnp.nan)
    y = linear(x, quantise(draw(5, 4)))
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[jnp.array([0, 2])]).all()


def test_experts_multiply_their_own_rows():
    x, w, chosen = draw(9, 5), draw(4, 5, 6), jnp.asarray(RNG.integers(0, 4, (9, 2)))
    groups = group_rows(chosen, 4, block=2)
    q = quantise(w, 1)
    assert q.shape == w.shape
    y = grouped_matmul(dispatch(x, groups), q, groups)
    np.testing.assert_allclose(
        combine(y, jnp.ones((9, 2)), groups),
        sum(np.stack([expected(x[i], w[e]) for i, e in enumerate(chosen[:, k])]) for k in (0, 1)),
        rtol=1e-5,
        atol=1e-6,
    )
    with pytest.raises(BackendError, match="'ragged_dot' does not multiply quantised experts"):
        grouped_matmul(dispatch(x, groups), q, groups, implementation="ragged_dot")


def test_an_adapter_over_a_quantised_weight():
    x, base = draw(3, 5), quantise(draw(5, 4))
    w = LowRank(base, draw(5, 2), draw(2, 4), 0.5)
    np.testing.assert_allclose(linear(x, w), linear(x, base) + 0.5 * (x @ w.a) @ w.b, rtol=1e-6)
    np.testing.assert_allclose(einsum("bi,io->bo", x, w), linear(x, w), rtol=1e-6)
    with pytest.raises(TypeError, match="an adapter over a Quant has no dense weight"):
        w.merged()


def test_there_is_no_gradient():
    with pytest.raises(TypeError, match="a quantised model does not train; train the float model"):
        jax.grad(lambda x: linear(x, quantise(draw(5, 4))).sum())(draw(3, 5))


@pytest.mark.parametrize("spec", ["bi,oi->bo", "ebi,eio->ebo", "ib,io->bo", "bi,ijk->bkj"])
def test_other_contractions_are_refused(spec):
    w = quantise(draw(4, 4, 4) if "jk" in spec or "eio" in spec else draw(4, 4))
    with pytest.raises(ValueError, match="a quantised weight is contracted over axis 0 and no other"):
        einsum(spec, draw(4, 4), w)


def test_uses_that_its_layout_does_not_have_are_refused():
    with pytest.raises(ValueError, match="contracted over its axis -1 has no product over its first"):
        linear(draw(3, 5), quantise(draw(4, 5), -1))
    with pytest.raises(ValueError, match="whose first axis is contracted share no scale"):
        rows(quantise(draw(4, 5)), jnp.array([1]), jnp.float32)


def test_it_is_a_pytree_whose_axis_is_static():
    q = quantise(draw(4, 5), -1)
    leaves, form = jax.tree.flatten(q)
    assert [x.dtype for x in leaves] == [jnp.int8, jnp.float32]
    assert isinstance(jax.tree.unflatten(form, leaves), Quant)
    assert jax.tree.unflatten(form, leaves).axis == -1
