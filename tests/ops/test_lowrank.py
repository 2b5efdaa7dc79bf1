"""Low-rank weights: values and gradients against the dense product, types, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.ops.linear import LowRank, einsum, linear

RNG = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def low_rank(outputs, rank=2, scale=0.7):
    return LowRank(draw(5, *outputs), draw(5, rank), draw(rank, *outputs), scale)


def dense(w):
    """`base + scale a b` in float64, by numpy."""
    base, a, b = (np.asarray(x, np.float64) for x in (w.base, w.a, w.b))
    return base + w.scale * np.tensordot(a, b, axes=1)


@pytest.mark.parametrize("outputs", [(4,), (3, 4)])
def test_products_are_those_of_the_dense_weight(outputs):
    w, x = low_rank(outputs), draw(2, 3, 5)
    expected = np.tensordot(np.asarray(x, np.float64), dense(w), axes=1)
    letters = "jk"[: len(outputs)]
    for y in (linear(x, w), einsum(f"abi,i{letters}->ab{letters}", x, w)):
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(w.merged(), dense(w), rtol=1e-6, atol=1e-6)
    assert w.shape == w.merged().shape == (5, *outputs)


def test_gradients_are_the_chain_rule_through_the_product():
    w, x, g = low_rank((3, 4)), draw(6, 5), draw(6, 3, 4)
    dx, dw = jax.jit(lambda x, w: jax.vjp(linear, x, w)[1](g))(x, w)
    wide = lambda z: np.asarray(z, np.float64)  # noqa: E731
    update = np.tensordot(wide(x), wide(g), axes=(0, 0))  # gradient of the dense weight, [5, 3, 4]
    np.testing.assert_allclose(dw.base, update, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dw.a, w.scale * np.tensordot(update, wide(w.b), axes=((1, 2), (1, 2))), atol=1e-5)
    np.testing.assert_allclose(dw.b, w.scale * np.tensordot(wide(w.a), update, axes=(0, 0)), atol=1e-5)
    np.testing.assert_allclose(dx, np.tensordot(wide(g), dense(w), axes=((1, 2), (1, 2))), atol=1e-4)


def test_the_dense_update_is_never_formed():
    wide = LowRank(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((300, 500), (300, 2), (2, 500))), 1.0)
    x = jax.ShapeDtypeStruct((4, 300), jnp.float32)

    def loss(adapter, x, base):
        return jnp.sum(linear(x, LowRank(base, *adapter, 1.0)))

    made = jax.make_jaxpr(jax.grad(loss))((wide.a, wide.b), x, wide.base)
    shapes = [v.aval.shape for eqn in made.jaxpr.eqns for v in eqn.outvars if eqn.primitive.name == "dot_general"]
    assert (4, 500) in shapes
    assert (300, 500) not in shapes


def test_weights_are_cast_at_use_and_gradients_stay_float32():
    w, x = low_rank((3, 4)), draw(2, 5).astype(jnp.bfloat16)
    y, pull = jax.vjp(linear, x, w)
    assert y.dtype == jnp.bfloat16
    dx, dw = pull(y)
    assert dx.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(dw)} == {jnp.dtype("float32")}
    assert einsum("bi,ijk->bjk", x, w, out_dtype=jnp.float32).dtype == jnp.float32


def test_a_zero_update_leaves_the_base_bit_for_bit():
    w, x = low_rank((4,)), draw(2, 3, 5)
    still = LowRank(w.base, w.a, jnp.zeros_like(w.b), w.scale)
    np.testing.assert_array_equal(linear(x, still), linear(x, w.base))
    np.testing.assert_array_equal(still.merged(), w.base)


def test_it_is_a_pytree_whose_scale_is_static():
    w = low_rank((4,))
    assert len(jax.tree.leaves(w)) == 3
    doubled = jax.tree.map(lambda x: 2 * x, w)
    assert isinstance(doubled, LowRank)
    assert doubled.scale == w.scale
    xs = draw(3, 2, 5)
    np.testing.assert_allclose(jax.vmap(linear, (0, None))(xs, w), linear(xs, w), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spec", ["bd,vd->bv", "ebi,eio->ebo", "bi,io->bio"])
def test_other_contractions_are_refused(spec):
    w = LowRank(draw(5, 4), draw(5, 2), draw(2, 4), 1.0)
    with pytest.raises(ValueError, match="a low-rank weight is contracted over its first axis and no other"):
        einsum(spec, draw(2, 4), w)
