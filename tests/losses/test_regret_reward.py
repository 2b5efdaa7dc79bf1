"""Preferences by regret: loss and statistics of segments against float64 numpy, gradients by differences, limits."""

import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import check_against, jitted, sp

from jaxpo import losses

N, H, P, D = 5, 3, 4, 3
RNG = np.random.default_rng(3)
ONE, TWO = RNG.normal(size=(2, N)).astype(np.float32) * 3
LABELS = np.float32([1.0, 0.0, 0.5, 1.0, 0.0])
loss = jitted(losses.regret_reward)


def reference(one, two, y):
    p = 1 / (1 + np.exp(two - one))
    return -y * np.log(p) - (1 - y) * np.log(1 - p)


def test_value_and_gradient():
    check_against(
        lambda a, b: loss(a, b, LABELS), lambda a, b: reference(a, b, LABELS.astype(float)), (ONE, TWO), (0, 1)
    )


def test_the_loss_is_symmetric_and_least_at_equal_statistics_where_neither_is_preferred():
    half = np.full(N, 0.5, np.float32)
    np.testing.assert_allclose(loss(ONE, TWO, half), loss(TWO, ONE, half), rtol=1e-6)
    np.testing.assert_allclose(loss(ONE, ONE, half), np.log(2), rtol=1e-6)
    assert np.all(loss(ONE, TWO, half) > np.log(2))
    np.testing.assert_allclose(loss(ONE, TWO, LABELS), loss(TWO, ONE, 1 - LABELS), rtol=1e-6)
    both = np.exp(-loss(ONE, TWO, np.ones(N))) + np.exp(-loss(TWO, ONE, np.ones(N)))
    np.testing.assert_allclose(both, 1, rtol=1e-5)
    np.testing.assert_allclose(loss(ONE * 1e4, TWO, np.ones(N)), sp(TWO - ONE.astype(float) * 1e4), rtol=1e-5)


def test_statistics_of_segments():
    phi, w = RNG.normal(size=(N, D)), RNG.normal(size=D)
    g = losses.partial_returns(phi, w)
    np.testing.assert_allclose(g, phi @ w, rtol=1e-5)
    start, end = RNG.normal(size=(2, N))
    np.testing.assert_allclose(losses.deterministic_regret(g, start, end), start - phi @ w - end, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(losses.deterministic_regret(g, np.zeros(N), np.zeros(N)), -g)
    q = RNG.normal(size=(N, H, 2))
    chosen, v = q[..., 0], q.max(-1)
    mask = np.arange(H)[None] < np.asarray([3, 1, 0, 2, 3])[:, None]
    expected = np.sum(np.where(mask, v - chosen, 0), -1)
    np.testing.assert_allclose(losses.segment_regret(v, chosen, mask), expected, rtol=1e-5, atol=1e-6)
    assert np.all(np.asarray(losses.segment_regret(v, chosen)) >= 0)
    np.testing.assert_array_equal(losses.segment_regret(v, v), 0)


def improved(psi, w, temperature):
    each = psi @ w
    e = np.exp((each - each.max(0)) / temperature)
    return np.sum(e / e.sum(0) * each, 0)


@pytest.mark.parametrize("temperature", [0.1, 2.0])
def test_the_value_of_several_policies(temperature):
    psi, w = RNG.normal(size=(P, N, D)).astype(np.float32), RNG.normal(size=D).astype(np.float32)
    own = jitted(losses.improved_values)
    check_against(
        lambda w: own(psi, w, temperature=temperature),
        lambda w: improved(psi.astype(float), w, temperature),
        (w,),
        (0,),
    )


def test_the_value_of_several_policies_is_the_best_ones_at_no_temperature_and_their_mean_at_any():
    psi, w = RNG.normal(size=(P, N, D)), RNG.normal(size=D)
    np.testing.assert_allclose(losses.improved_values(psi, w, temperature=1e-5), (psi @ w).max(0), rtol=1e-4)
    np.testing.assert_allclose(losses.improved_values(psi, w, temperature=1e6), (psi @ w).mean(0), rtol=1e-3, atol=1e-4)


def test_preferences_without_noise():
    got = losses.noiseless_preference(jnp.asarray([1.0, 2.0, 3.0]), jnp.asarray([2.0, 2.0 + 1e-9, 1.0]))
    np.testing.assert_array_equal(got, [0.0, 0.5, 1.0])
