"""RPO in its three reductions against float64 references."""

import jax
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
rpo = jitted(losses.rpo)

ALL4 = (0, 1, 2, 3)
LENGTHS = np.array([1, 4, 9, 2, 30, 7], np.float32)
VARIANTS = ("sum", "average", "tokens")
SETTINGS = {"beta": 0.3, "eta": 0.4}
WEIGHTS = {"sum": 0.4 * 0.3, "average": 0.4 / LENGTHS.astype(np.float64), "tokens": 0.4}


def margin(pw, pl, rw, rl):
    return (np.asarray(pw, np.float64) - rw) - (np.asarray(pl, np.float64) - rl)


def both(variant, lengths=LENGTHS, **settings):
    return lambda *a: sum(rpo(*a, lengths, variant=variant, **(SETTINGS | settings)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_value_and_gradient(variant):
    def reference(pw, pl, rw, rl):
        return sp(-0.3 * margin(pw, pl, rw, rl)) - WEIGHTS[variant] * np.asarray(pw, np.float64)

    args = quad()
    _, grads = check_against(both(variant), reference, args, ALL4)
    closed = -0.3 * sig(-0.3 * margin(*args)) - WEIGHTS[variant]
    np.testing.assert_allclose(grads[0], closed, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_the_likelihood_it_is_dpo_and_with_it_exactly_the_likelihood_more(variant):
    args = quad()
    plain = dpo(*args, beta=0.3)
    np.testing.assert_allclose(both(variant, eta=0.0)(*args), plain, rtol=1e-6)
    prefer, sft = rpo(*args, LENGTHS, variant=variant, **SETTINGS)
    np.testing.assert_allclose(prefer, plain, rtol=1e-6)
    np.testing.assert_allclose(sft, -WEIGHTS[variant] * args[0].astype(np.float64), rtol=1e-5)


def test_at_the_reference_and_far_from_it():
    pw, pl, *_ = quad()
    value, grads = value_and_grads(both("sum"), (pw, pl, pw, pl), ALL4)
    np.testing.assert_allclose(value, np.log(2) - 0.4 * 0.3 * pw.astype(np.float64), rtol=1e-5)
    np.testing.assert_allclose(grads[0], -0.3 * (0.5 + 0.4), rtol=1e-5)
    _, grads = value_and_grads(both("sum"), (pw + 1e4, pl, pw, pl), ALL4)  # h -> infinity: only the likelihood pushes
    np.testing.assert_allclose(grads[0], -0.3 * 0.4, rtol=1e-5)
    np.testing.assert_allclose(grads[1], 0.0, atol=1e-7)


def test_equal_lengths_relate_the_three_reductions():
    args = quad()
    n = np.full(6, 8.0, np.float32)
    average = np.mean(np.asarray(both("average", n)(*args), np.float64))
    prefer, nll = rpo(*args, n, variant="tokens", **SETTINGS)
    recipe = np.mean(np.asarray(prefer, np.float64)) + np.sum(np.asarray(nll, np.float64)) / n.sum()
    np.testing.assert_allclose(recipe, average, rtol=1e-6)
    scaled = both("sum", n, eta=0.4 / (0.3 * 8.0))(*args)
    np.testing.assert_allclose(np.mean(np.asarray(scaled, np.float64)), average, rtol=1e-6)


def test_a_large_eta_is_sft():
    args = quad()
    _, grads = value_and_grads(both("sum", eta=1e6), args, ALL4)
    np.testing.assert_allclose(np.asarray(grads[0]) / (1e6 * 0.3), -1.0, rtol=1e-5)
    assert np.all(np.abs(grads[1]) <= 0.3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_extremes_precision_and_absent_rows(variant):
    loss = both(variant)
    check_extreme(both(variant, np.ones(4, np.float32), beta=1.0), EXTREME, ALL4)
    check_bfloat16(loss, quad(), ALL4)
    check_vmap(lambda *a: sum(rpo(*a, variant=variant, **SETTINGS)), (*quad(), LENGTHS))
    where = np.array([True, False, True, True, False, True])
    args = [a.copy() for a in (*quad(), LENGTHS)]
    for a in args:
        a[1], a[4] = np.nan, -np.inf

    def masked(*a):
        return sum(rpo(*a, variant=variant, where=where, **SETTINGS))

    value, grads = value_and_grads(masked, args, ALL4)
    np.testing.assert_array_equal(value[~where], 0.0)
    np.testing.assert_allclose(value[where], loss(*quad())[where], rtol=1e-6)
    for g in grads:
        np.testing.assert_array_equal(g[~where], 0.0)
        assert np.all(np.isfinite(g))


def test_an_empty_chosen_response_has_no_likelihood_per_token():
    zero = np.zeros(1, np.float32)
    value, grads = value_and_grads(both("average", zero), (zero, zero, zero, zero), ALL4)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    assert np.all(np.isfinite(grads[0]))


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="variant 'mean'"):
        jax.eval_shape(lambda *a: losses.rpo(*a, variant="mean"), *quad(), LENGTHS)
