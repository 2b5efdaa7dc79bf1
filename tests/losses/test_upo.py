"""UPO against its equations in float64, and every property that the specification lists."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import check_against, quad, sp, value_and_grads

from jaxpo import losses

A, LENGTH = np.float32([0.0, 0.1, 0.3, 0.5, 0.9, 0.2]), np.float32([3, 1, 7, 2, 5, 4])
ARGS = (*quad(0), A, LENGTH)
BETA, NLL = 0.3, 0.7


@functools.partial(jax.jit, static_argnames=("nll_weight",))
def upo(*arrays, nll_weight=NLL):
    return losses.upo(*arrays, beta=BETA, nll_weight=nll_weight)


def reference(p_w, p_l, r_w, r_l, a, n, nll=NLL):
    p_w, p_l, r_w, r_l, a, n = (np.asarray(x, np.float64) for x in (p_w, p_l, r_w, r_l, a, n))
    h = BETA * ((p_w - r_w) - (p_l - r_l))
    return (1 - a) * sp(-h) + a * sp(h) - nll * p_w / n


def test_the_loss_is_its_equation_and_the_smoothing_a_constant():
    check_against(upo, reference, ARGS, (0, 1, 2, 3))
    _, (through,) = value_and_grads(upo, ARGS, (4,))
    np.testing.assert_array_equal(through, 0.0)


def test_smoothing_of_none_all_and_half():
    four = ARGS[:4]
    dpo = losses.dpo(*four, beta=BETA)
    swapped = losses.dpo(four[1], four[0], four[3], four[2], beta=BETA)
    np.testing.assert_allclose(upo(*four, np.zeros(6), LENGTH, nll_weight=0.0), dpo, rtol=1e-6)
    np.testing.assert_allclose(upo(*four, np.ones(6), LENGTH, nll_weight=0.0), swapped, rtol=1e-6)
    flat = np.zeros(6, np.float32)
    _, (slope,) = value_and_grads(
        lambda *x: losses.upo(*x, beta=BETA, nll_weight=0.0), (flat, flat, flat, flat, flat + 0.5, LENGTH), (0,)
    )
    np.testing.assert_allclose(slope, 0.0, atol=1e-7)
    a = 0.2
    best = np.log((1 - a) / a) / BETA
    zero = jnp.zeros(1)
    slope = jax.grad(lambda h: losses.upo(h, zero, zero, zero, zero + a, zero + 1, beta=BETA, nll_weight=0.0)[0])
    np.testing.assert_allclose(slope(jnp.asarray([best], jnp.float32)), 0.0, atol=1e-6)


def test_information_gain():
    def entropy(p):
        p = np.clip(np.asarray(p, np.float64), 1e-300, 1 - 1e-16)
        return -p * np.log(p) - (1 - p) * np.log1p(-p)

    p = np.random.default_rng(0).uniform(0.01, 0.99, (5, 10))
    expected = entropy(p.mean(1)) - entropy(p).mean(1)
    np.testing.assert_allclose(losses.upo_information_gain(p), expected, atol=1e-6)
    np.testing.assert_allclose(losses.upo_information_gain(1 - p), expected, atol=1e-6)
    agreed = np.repeat(np.float32([[0.0], [0.5], [0.3], [1.0]]), 10, axis=1)
    np.testing.assert_allclose(losses.upo_information_gain(agreed), 0.0, atol=1e-6)
    torn = np.tile(np.float32([0, 1]), (1, 5))
    np.testing.assert_allclose(losses.upo_information_gain(torn), np.log(2), rtol=1e-6)


@pytest.mark.parametrize("mu", [0.0, 1.0, 8.0])
def test_weights(mu):
    gain = np.float32([0.0, 0.1, 0.3, 0.6, np.log(2)])
    w = np.asarray(losses.upo_sampling_weights(gain, mu=mu), np.float64)
    expected = (1 - gain.astype(np.float64)) ** mu
    np.testing.assert_allclose(w, expected / expected.sum(), rtol=1e-5)
    assert w.sum() == pytest.approx(1.0, abs=1e-6)
    assert np.all(np.diff(w) < 0) if mu else np.allclose(w, 0.2)


def test_the_smoothing_of_an_average_pair_is_a_tenth_and_the_printed_formula_turns_labels_round():
    w = losses.upo_sampling_weights(np.float32([0.2] * 4))
    np.testing.assert_allclose(losses.upo_smoothing(w), 0.1, rtol=1e-5)
    uneven = np.float32([0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(losses.upo_smoothing(uneven), 1 / (36 * uneven + 1), rtol=1e-6)
    assert np.all(np.diff(losses.upo_smoothing(uneven)) < 0)
    assert np.all(losses.upo_smoothing(uneven, c=1.0) >= 0.5)
    np.testing.assert_allclose(losses.upo_smoothing(uneven, c=1e9), 0.0, atol=1e-7)
