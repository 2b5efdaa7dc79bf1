"""Robust DPO against float64 references: unbiased under flips of a known rate."""

import numpy as np
import pytest
from losses.loss_checks import (
    EXTREME,
    check_against,
    check_bfloat16,
    check_extreme,
    check_vmap,
    jitted,
    quad,
    sig,
    sp,
    value_and_grads,
)

from jaxpo import losses

dpo = jitted(losses.dpo)
rdpo_robust = jitted(losses.rdpo_robust)

ALL4 = (0, 1, 2, 3)
BETA = 0.3


def h64(pw, pl, rw, rl, beta=BETA):
    return beta * ((np.asarray(pw, np.float64) - rw) - (np.asarray(pl, np.float64) - rl))


def robust64(h, e):
    return ((1 - e) * sp(-h) - e * sp(h)) / (1 - 2 * e)


def swapped(pw, pl, rw, rl):
    return pl, pw, rl, rw


@pytest.mark.parametrize("e", [0.0, 0.1, 0.4])
def test_value_and_gradient(e):
    def loss(*a):
        return rdpo_robust(*a, beta=BETA, label_smoothing=e)

    args = quad()
    _, grads = check_against(loss, lambda *a: robust64(h64(*a), e), args, ALL4)
    h = h64(*args)
    zeta = ((1 - e) * sig(-h) + e * sig(h)) / (1 - 2 * e)
    np.testing.assert_allclose(grads[0], -BETA * zeta, rtol=1e-4, atol=1e-7)
    assert np.all(grads[0] < 0)
    np.testing.assert_allclose(grads[1], -grads[0], rtol=1e-6)


def test_cdpo_turns_around_where_robust_dpo_does_not():
    e = 0.2
    h = np.array([np.log(0.8 / 0.2), 3.0, 0.5], np.float32)  # sigmoid(h) = 1 - e; beyond; before
    zero = np.zeros_like(h)
    _, smoothed = value_and_grads(lambda p: dpo(p, zero, zero, zero, beta=1.0, label_smoothing=e), (h,), (0,))
    np.testing.assert_allclose(smoothed[0][0], 0.0, atol=1e-6)
    assert smoothed[0][1] > 0 > smoothed[0][2]
    _, robust = value_and_grads(lambda p: rdpo_robust(p, zero, zero, zero, beta=1.0, label_smoothing=e), (h,), (0,))
    assert np.all(robust[0] < 0)


def test_identities():
    args, e = quad(), 0.2
    here = rdpo_robust(*args, beta=BETA, label_smoothing=e)
    there = rdpo_robust(*swapped(*args), beta=BETA, label_smoothing=e)
    plain = dpo(*args, beta=BETA)
    np.testing.assert_allclose(rdpo_robust(*args, beta=BETA, label_smoothing=0.0), plain, rtol=1e-6)
    np.testing.assert_allclose((1 - e) * here + e * there, plain, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(here - there, -h64(*args) / (1 - 2 * e), rtol=1e-4, atol=1e-5)
    smoothed = dpo(*args, beta=BETA, label_smoothing=e)
    np.testing.assert_allclose((1 - 2 * e) * here + 2 * e * sp(h64(*args)), smoothed, rtol=1e-4, atol=1e-5)


def test_it_falls_for_ever():
    e = 0.1
    h = np.linspace(-50, 1e4, 400).astype(np.float32)
    zero = np.zeros_like(h)

    def loss(p):
        return rdpo_robust(p, zero, zero, zero, beta=1.0, label_smoothing=e)

    value, (slope,) = value_and_grads(loss, (h,), (0,))
    assert np.all(np.diff(value) < 0)
    np.testing.assert_allclose(value[-1], -1e4 * e / (1 - 2 * e), rtol=1e-5)
    np.testing.assert_allclose(slope[-1], -e / (1 - 2 * e), rtol=1e-5)


@pytest.mark.parametrize(("f", "e"), [(0.6, 0.1), (0.3, 0.2), (0.75, 0.2)])
def test_population_minimisers_have_one_sign_and_the_clean_magnitude(f, e):
    """Labels say y1 > y2 with frequency f: the slopes of the expected losses vanish at these logits."""
    logit = lambda p: np.log(p / (1 - p))  # noqa: E731
    clean, smoothed = (f - e) / (1 - 2 * e), (1 - e) * f + e * (1 - f)
    assert np.sign(logit(clean)) == np.sign(logit(f)) == np.sign(logit(smoothed))

    def slope(loss, h):
        p, zero = np.array([h], np.float32), np.zeros(1, np.float32)
        mean = lambda p: f * loss(p, zero, zero, zero) + (1 - f) * loss(zero, p, zero, zero)  # noqa: E731
        return value_and_grads(mean, (p,), (0,))[1][0][0]

    robust = lambda *a: rdpo_robust(*a, beta=1.0, label_smoothing=e)  # noqa: E731
    np.testing.assert_allclose(slope(robust, logit(clean)), 0.0, atol=1e-6)
    np.testing.assert_allclose(slope(lambda *a: dpo(*a, beta=1.0), logit(f)), 0.0, atol=1e-6)
    cdpo = lambda *a: dpo(*a, beta=1.0, label_smoothing=e)  # noqa: E731
    np.testing.assert_allclose(slope(cdpo, logit(smoothed)), 0.0, atol=1e-6)


@pytest.mark.parametrize(("f", "e"), [(0.95, 0.1), (0.85, 0.2), (1.0, 0.05)])
def test_the_population_minimiser_is_infinite_where_labels_agree_more_than_the_rate_allows(f, e):
    """f > 1 - e: the expected loss falls for ever, at slope (1 - e - f) / (1 - 2e); f < e mirrors it; cDPO's turns."""
    h = np.concatenate([np.linspace(-50, 50, 401), [1e3, 1e4]]).astype(np.float32)
    zero = np.zeros_like(h)

    def mean(loss, f):
        return lambda p: f * loss(p, zero, zero, zero) + (1 - f) * loss(zero, p, zero, zero)

    robust = lambda *a: rdpo_robust(*a, beta=1.0, label_smoothing=e)  # noqa: E731
    value, (slope,) = value_and_grads(mean(robust, f), (h,), (0,))
    far = (1 - e - f) / (1 - 2 * e)
    assert np.all(slope < 0)
    assert np.all(np.diff(value) < 0)
    np.testing.assert_allclose(slope[-1], far, rtol=1e-4)
    np.testing.assert_allclose(value[-1], 1e4 * far, rtol=1e-3)
    _, (mirrored,) = value_and_grads(mean(robust, 1 - f), (h,), (0,))
    assert np.all(mirrored > 0)
    _, (smoothed,) = value_and_grads(mean(lambda *a: dpo(*a, beta=1.0, label_smoothing=e), f), (h,), (0,))
    assert smoothed[0] < 0 < smoothed[-1]
    # Just below 1 - e the slope turns at the clean logit.
    below = 1 - e - 0.01
    clean = np.log((below - e) / (1 - e - below))
    _, (turns,) = value_and_grads(mean(robust, below), (h,), (0,))
    assert np.all(turns[h < clean - 0.1] < 0)
    assert np.all(turns[h > clean + 0.1] > 0)


def test_a_rate_for_each_pair():
    args = quad()
    rates = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.45], np.float32)
    got = losses.rdpo_robust(*args, beta=BETA, label_smoothing=rates)
    np.testing.assert_allclose(got, robust64(h64(*args), rates.astype(np.float64)), rtol=1e-4, atol=1e-5)
    where = np.array([True, True, False, True, True, True])
    rates[2] = np.nan
    masked = losses.rdpo_robust(*args, beta=BETA, label_smoothing=rates, where=where)
    assert masked[2] == 0.0
    assert np.all(np.isfinite(masked))


def test_the_correction_is_unbiased_for_any_loss():
    rng = np.random.default_rng(0)
    given, flipped = (rng.normal(size=7).astype(np.float32) for _ in range(2))
    e = 0.3
    here = losses.unbiased_under_flips(given, flipped, label_smoothing=e)
    there = losses.unbiased_under_flips(flipped, given, label_smoothing=e)
    assert here.dtype == np.float32
    np.testing.assert_allclose((1 - e) * here + e * there, given, rtol=1e-4, atol=1e-5)
    args = quad()
    both = dpo(*args, beta=BETA), dpo(*swapped(*args), beta=BETA)
    got = losses.unbiased_under_flips(*both, label_smoothing=e)
    np.testing.assert_allclose(got, rdpo_robust(*args, beta=BETA, label_smoothing=e), rtol=1e-4, atol=1e-5)


def test_extremes_precision_and_absent_rows():
    loss = lambda *a: rdpo_robust(*a, beta=1.0)  # noqa: E731
    check_extreme(loss, EXTREME, ALL4)
    check_bfloat16(loss, quad(), ALL4)
    check_vmap(loss, quad())
    args = [a.copy() for a in quad()]
    where = np.array([True, False, True, True, False, True])
    for a in args:
        a[1], a[4] = np.nan, np.inf
    value, grads = value_and_grads(lambda *a: rdpo_robust(*a, beta=1.0, where=where), args, ALL4)
    np.testing.assert_array_equal(value[~where], 0.0)
    np.testing.assert_allclose(value[where], np.asarray(loss(*quad()))[where], rtol=1e-6)
    for g in grads:
        np.testing.assert_array_equal(g[~where], 0.0)
        assert np.all(np.isfinite(g))
