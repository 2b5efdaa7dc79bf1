"""The estimates of the KL: what they are in expectation, exactly, by enumeration of a vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.rollout_arrays import MASK, NEW, REF, program, slopes, spoiled

from jaxpo import losses

V = 7
Z, ZR = (np.random.default_rng(s).standard_normal(V) for s in (1, 2))
FORMULAS = {
    "kl_k1": lambda p, r: p - r,
    "kl_k2": lambda p, r: 0.5 * (p - r) ** 2,
    "kl_k3": lambda p, r: np.exp(r - p) - (r - p) - 1,
}


def log_softmax(z):
    return z - np.log(np.sum(np.exp(z)))


def kl(z, zr):
    p, r = log_softmax(z), log_softmax(zr)
    return np.sum(np.exp(p) * (p - r))


def expected(estimate, z, weight):
    """Expectation over all tokens, with the probabilities held, differentiable in the logits."""
    return jnp.sum(weight * estimate(jax.nn.log_softmax(z), jnp.float32(log_softmax(ZR))))


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("by", [np.nan, np.inf])
def test_value_and_gradient(name, by):
    def loss(p, r, mask):
        return getattr(losses, name)(p, r, where=mask)

    terms, grad = program(loss)(spoiled(NEW, by=by), spoiled(REF, by=-by), MASK)
    reference = lambda p: np.where(MASK, FORMULAS[name](p, REF), 0.0)  # noqa: E731
    np.testing.assert_allclose(terms, reference(NEW), rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(grad, slopes(reference, NEW), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["kl_k1", "kl_k3"])
def test_the_unbiased_ones_have_the_kl_as_expectation(name):
    weight = np.exp(log_softmax(Z))
    got = expected(getattr(losses, name), jnp.float32(Z), jnp.float32(weight))
    np.testing.assert_allclose(got, kl(Z, ZR), rtol=1e-5)


@pytest.mark.parametrize(("name", "of"), [("kl_k1", "nothing"), ("kl_k2", "reverse"), ("kl_k3", "forward")])
def test_expected_gradients(name, of):
    """k1's is 0, k2's that of KL(pi || ref), k3's that of KL(ref || pi)."""
    weight = jnp.float32(np.exp(log_softmax(Z)))
    got = jax.grad(lambda z: expected(getattr(losses, name), z, weight))(jnp.float32(Z))
    exact = {"nothing": 0 * Z, "reverse": slopes(lambda z: kl(z, ZR), Z), "forward": slopes(lambda z: kl(ZR, z), Z)}
    np.testing.assert_allclose(got, exact[of], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_straight_through_has_the_value_of_one_and_the_gradient_of_k2(estimator):
    def loss(p, r, mask):
        return losses.kl_straight_through(p, r, estimator=estimator, where=mask)

    terms, grad = program(loss)(spoiled(NEW), spoiled(REF), MASK)
    np.testing.assert_allclose(terms, np.where(MASK, FORMULAS[f"kl_{estimator}"](NEW, REF), 0), rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(grad, np.where(MASK, NEW - REF, 0), rtol=2e-5, atol=1e-6)
    weight = jnp.float32(np.exp(log_softmax(Z)))
    whole = jax.grad(lambda z: expected(lambda p, r: losses.kl_straight_through(p, r, estimator=estimator), z, weight))(
        jnp.float32(Z)
    )
    np.testing.assert_allclose(whole, slopes(lambda z: kl(z, ZR), Z), rtol=1e-4, atol=2e-6)


def test_an_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="estimator 'kl'"):
        losses.kl_straight_through(NEW, REF, estimator="kl")


def test_k3_is_never_negative_not_even_where_the_two_all_but_agree():
    d = np.concatenate([np.linspace(-60, 60, 401), np.logspace(-12, 0, 50), -np.logspace(-12, 0, 50)])
    value = np.asarray(losses.kl_k3(jnp.zeros(d.shape), jnp.float32(d)))
    assert np.all(value >= 0)
    assert np.all(np.isfinite(value))
    small = np.abs(d) < 1e-2
    np.testing.assert_allclose(value[small], d[small] ** 2 / 2 + d[small] ** 3 / 6, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("size", [50.0, 1e4])
def test_large_log_ratios_are_finite_and_the_bounds_hold(size):
    for name in FORMULAS:
        for sign in (1, -1):
            terms, grad = program(getattr(losses, name))(NEW + sign * size, NEW)
            assert np.all(np.isfinite(terms))
            assert np.all(np.isfinite(grad))
    capped = losses.kl_k3(jnp.float32([-50.0, -2.0]), jnp.float32([0.0, 0.0]), cap=10.0)
    np.testing.assert_allclose(capped, [10.0, np.exp(2) - 3], rtol=1e-6)


def test_fixed_and_adaptive_weights():
    assert losses.fixed_kl(0.05, 99.0) == np.float32(0.05)
    for kl_now, error in ((6.0, 0.0), (6.6, 0.1), (60.0, 0.2), (0.0, -0.2)):
        got = losses.adaptive_kl(0.3, kl_now, target=6.0, horizon=1000.0, answers=64)
        np.testing.assert_allclose(got, 0.3 * (1 + error * 64 / 1000), rtol=1e-6)
    step = jax.jit(lambda c: losses.adaptive_kl(c, 1.0 / c, target=4.0, horizon=1000.0, answers=64))
    settled = jax.lax.fori_loop(0, 2000, lambda _, c: step(c), jnp.float32(0.01))
    np.testing.assert_allclose(settled, 0.25, rtol=1e-3)  # a KL of 1 / c ends at its target
