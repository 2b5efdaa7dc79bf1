"""Losses of diffusion models against their equations in float64: values, gradients and every listed limit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import check_against, check_extreme, sp, value_and_grads

from jaxpo import losses

RNG = np.random.default_rng(0)
N = 6
ERRORS = tuple((0.02 + 0.002 * RNG.standard_normal(N)).astype(np.float32) for _ in range(4))
BARS = np.float32([0.99915, 0.9, 0.5, 0.2, 0.0466, 0.00466])
KINDS = ("noise", "velocity", "x0", "flow")


def test_the_error_is_the_mean_over_all_dimensions_but_the_first():
    p, q = RNG.standard_normal((2, 3, 2, 2, 4)).astype(np.float32)
    expected = lambda a, b: np.mean((a - b) ** 2, axis=(1, 2, 3))  # noqa: E731
    check_against(losses.squared_error, expected, (p, q), (0, 1))
    where = np.array([True, False, True])
    p[1] = np.nan
    (_, grad) = jax.value_and_grad(lambda x: jnp.sum(losses.squared_error(x, q, where=where)))(p)
    np.testing.assert_array_equal(grad[1], 0.0)
    assert np.all(np.isfinite(grad))


@pytest.mark.parametrize("kind", KINDS)
def test_min_snr_is_the_same_function_of_the_error_of_x0_for_all(kind):
    bars = BARS.astype(np.float64)
    snr, s = bars / (1 - bars), np.sqrt(1 - bars)
    of_x0 = 0.7  # squared error of x0, and what it is of the output
    if kind == "flow":
        s = s / (np.sqrt(bars) + s)
    output = {"noise": of_x0 * snr, "velocity": of_x0 / (1 - bars), "x0": of_x0, "flow": of_x0 / s**2}[kind]
    weights = losses.min_snr_weights(BARS, parameterisation=kind)
    np.testing.assert_allclose(weights * output, np.minimum(snr, 5.0) * of_x0, rtol=2e-4)
    if kind != "flow":
        plain = {
            "noise": np.minimum(snr, 5) / snr,
            "velocity": np.minimum(snr, 5) / (snr + 1),
            "x0": np.minimum(snr, 5),
        }
        np.testing.assert_allclose(weights, plain[kind], rtol=2e-4)


@pytest.mark.parametrize(("kind", "expected"), [("noise", 1.0), ("velocity", 0.0), ("x0", 0.0), ("flow", 0.0)])
def test_min_snr_at_the_ends_is_its_limit(kind, expected):
    at = losses.min_snr_weights(np.float32([0.0, 1.0]), parameterisation=kind)
    np.testing.assert_allclose(at, [expected, 5.0 if kind == "x0" else 0.0], atol=1e-6)


def test_denoising_is_the_weighted_error():
    e = np.abs(ERRORS[0])
    check_against(losses.denoising, lambda e, _: np.asarray(e), (e, BARS), (0,))
    weighted = functools.partial(losses.denoising, parameterisation="velocity", snr_limit=5.0)
    reference = lambda e, b: np.minimum(b / (1 - b), 5.0) / (b / (1 - b) + 1) * e  # noqa: E731
    check_against(weighted, reference, (e, BARS), (0,), rtol=1e-4)
    unlimited = losses.denoising(e, BARS, snr_limit=1e9)
    np.testing.assert_allclose(unlimited, e, rtol=1e-4)


def dpo_reference(e_w, e_l, r_w, r_l, weights=1.0, *, scale):
    return sp(scale * weights * ((e_w - r_w) - (e_l - r_l)))


@pytest.mark.parametrize(("beta", "factor"), [(2000.0, 0.5), (5000.0, 0.5), (500.0, 1.0)])
def test_diffusion_dpo_is_its_equation(beta, factor):
    loss = functools.partial(losses.diffusion_dpo, beta=beta, factor=factor)
    value, grads = value_and_grads(loss, ERRORS, (0, 1, 2, 3))
    arrays = [a.astype(np.float64) for a in ERRORS]
    np.testing.assert_allclose(value, dpo_reference(*arrays, scale=beta * factor), rtol=2e-5, atol=2e-6)
    # By finite differences in units of 1 / beta, in which the loss is smooth.
    for i, sign in ((0, 1), (1, -1)):
        moved = [list(arrays), list(arrays)]
        for k, off in enumerate((1e-5, -1e-5)):
            moved[k][i] = arrays[i] + off / beta
        up, down = (dpo_reference(*m, scale=beta * factor) for m in moved)
        np.testing.assert_allclose(grads[i] / beta, (up - down) / 2e-5, rtol=1e-3, atol=1e-6)
        assert np.all(np.sign(grads[i]) == sign)
    np.testing.assert_array_equal(grads[2], 0.0)  # the reference is a constant
    np.testing.assert_array_equal(grads[3], 0.0)


def test_the_two_published_factors_are_one_loss():
    half = losses.diffusion_dpo(*ERRORS, beta=1000.0)
    whole = losses.diffusion_dpo(*ERRORS, beta=500.0, factor=1.0)
    np.testing.assert_array_equal(half, whole)


def test_the_weight_of_a_time_multiplies_the_logit():
    weights = np.float32([0.0, 0.5, 1.0, 2.0, 3.0, 1.0])
    found = losses.diffusion_dpo(*ERRORS, weights, beta=2000.0)
    arrays = [a.astype(np.float64) for a in ERRORS]
    np.testing.assert_allclose(found, dpo_reference(*arrays, weights, scale=1000.0), rtol=2e-5)


def test_at_the_reference_it_is_log_2_and_a_swap_negates_the_logit():
    e_w, e_l, r_w, r_l = ERRORS
    same = losses.diffusion_dpo(e_w, e_l, e_w, e_l)
    np.testing.assert_array_equal(same, np.float32(np.log(2.0)))
    one, other = losses.diffusion_dpo(e_w, e_l, r_w, r_l), losses.diffusion_dpo(e_l, e_w, r_l, r_w)
    np.testing.assert_allclose(np.exp(-one) + np.exp(-other), 1.0, rtol=1e-5)


def test_errors_of_any_size_are_finite():
    large = tuple(np.array(x, np.float32) for x in ([1e4, 0, 0], [0, 1e4, 0], [0, 0, 1e4], [0, 0, 0]))
    check_extreme(losses.diffusion_dpo, large, (0, 1))
