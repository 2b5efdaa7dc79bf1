"""RDPO, RORPO and RSimPO against float64 references, and what the rationale term does and does not touch."""

import numpy as np
import pytest
from losses.loss_checks import (
    EXTREME,
    check_against,
    check_bfloat16,
    check_extreme,
    check_vmap,
    jitted,
    logps,
    quad,
    sig,
    sp,
    value_and_grads,
)

from jaxpo import losses

rationales = jitted(losses.rationales)
dpo = jitted(losses.dpo)
orpo = jitted(losses.orpo)
simpo = jitted(losses.simpo)
N_W = np.array([1, 4, 9, 1, 30, 7], np.float32)
N_L = np.array([7, 3, 1, 12, 8, 1], np.float32)
N_R = np.array([5, 1, 20, 3, 8, 2], np.float32)
R = logps(np.random.default_rng(9), 6)
BASES = ("dpo", "orpo", "simpo")
FORMS = ("linear", "sigmoid")
WRT = {"dpo": (0, 1, 2, 3, 4), "orpo": (0, 1, 4), "simpo": (0, 1, 4)}


def total(pw, pl, rw, rl, r, where=None, n_r=N_R, **settings):
    return sum(rationales(pw, pl, rw, rl, N_W[: len(pw)], N_L[: len(pw)], r, n_r[: len(pw)], where=where, **settings))


def log_odds(a):
    return a - np.log1p(-np.exp(a))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("base", BASES)
def test_value_and_gradient(base, form):
    beta, gamma, m = 0.3, 0.2, 0.5

    def reference(pw, pl, rw, rl, r):
        pw, pl, rw, rl, r = (np.asarray(x, np.float64) for x in (pw, pl, rw, rl, r))
        a = r if base == "dpo" else r / N_R
        explain = -gamma * a if form == "linear" else sp(-gamma * a)
        if base == "dpo":
            return sp(-beta * ((pw - rw) - (pl - rl))) + explain
        if base == "simpo":
            return sp(-(beta * (pw / N_W - pl / N_L) - m)) + explain
        return -pw + beta * sp(-(log_odds(pw / N_W) - log_odds(pl / N_L))) + explain

    def loss(*a):
        return total(*a, base=base, form=form, beta=beta, gamma=gamma, simpo_gamma=m)

    args = (*quad(), R)
    check_against(loss, reference, args, WRT[base])
    if (base, form) == ("orpo", "sigmoid"):
        check_bfloat16(loss, args, WRT[base])
        check_vmap(loss, args)


def test_gamma_zero_is_the_base_and_log_2_more_in_the_sigmoid_form():
    args = quad()
    plain = dpo(*args)
    np.testing.assert_allclose(total(*args, R, gamma=0.0), plain, rtol=1e-6)
    np.testing.assert_allclose(total(*args, R, gamma=0.0, form="sigmoid"), plain + np.log(2), rtol=1e-6)
    pair = (args[0], args[1], N_W, N_L)
    np.testing.assert_allclose(total(*args, R, base="orpo", gamma=0.0), sum(orpo(*pair)), rtol=1e-6)
    np.testing.assert_allclose(
        total(*args, R, base="simpo", gamma=0.0, beta=2.0), simpo(*pair, beta=2.0, gamma=0.5), rtol=1e-6
    )


@pytest.mark.parametrize("form", FORMS)
def test_rows_without_a_rationale_are_dpo_whatever_lies_there(form):
    args = quad()
    gone = np.array([True, False, True, False, False, True])
    r, n_r = np.where(gone, np.nan, R).astype(np.float32), np.where(gone, 0, N_R).astype(np.float32)
    value, grads = value_and_grads(lambda *a: total(*a, n_r=n_r, form=form), (*args, r), (0, 4))
    np.testing.assert_allclose(value[gone], np.asarray(dpo(*args))[gone], rtol=1e-6)
    assert np.all(value[~gone] > np.asarray(dpo(*args))[~gone])
    np.testing.assert_array_equal(grads[1][gone], 0.0)
    assert np.all(grads[1][~gone] < 0)
    assert np.all(np.isfinite(grads[0]))


def test_slope_of_the_sigmoid_form_is_half_of_the_linear_one_for_small_gamma_and_meets_it_for_large():
    args = quad()
    slope = {}
    for form in FORMS:
        for gamma in (1e-5, 10.0):
            _, (grad,) = value_and_grads(lambda *a: total(*a, form=form, gamma=gamma), (*args, R), (4,))  # noqa: B023
            slope[form, gamma] = grad
    np.testing.assert_allclose(slope["sigmoid", 1e-5], 0.5 * slope["linear", 1e-5], rtol=1e-3)
    np.testing.assert_allclose(slope["sigmoid", 10.0], slope["linear", 10.0], rtol=1e-5)
    np.testing.assert_allclose(slope["linear", 10.0], -10.0, rtol=1e-6)
    np.testing.assert_allclose(slope["sigmoid", 1e-5], -1e-5 * sig(-1e-5 * R.astype(np.float64)), rtol=1e-4)


def test_the_loss_falls_when_the_rationale_gets_likelier_and_never_reads_a_reference_for_it():
    args = quad()
    for base in BASES:
        for form in FORMS:
            assert np.all(total(*args, R + 1, base=base, form=form) < total(*args, R, base=base, form=form))
        *_, term = rationales(*args, N_W, N_L, R, N_R, base=base)
        *_, other = rationales(*args[:2], args[2] - 5, args[3] + 3, N_W, N_L, R, N_R, base=base)
        np.testing.assert_array_equal(term, other)


def test_odds_ratio_is_zero_at_equal_means_antisymmetric_and_finite_near_probability_1():
    p = -N_W
    prefer, nll, _ = rationales(p, -N_L, p, p, N_W, N_L, R, N_R, base="orpo", beta=1.0)
    np.testing.assert_allclose(prefer, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(nll, N_W)

    def ratio(pw, pl, nw, nl):
        return np.log(np.expm1(np.asarray(rationales(pl, pw, p, p, nl, nw, R, N_R, base="orpo", beta=1.0)[0], float)))

    pw, pl = 0.2 * quad()[0], 0.2 * quad()[1]
    np.testing.assert_allclose(ratio(pw, pl, N_W, N_L), -ratio(pl, pw, N_L, N_W), rtol=1e-3, atol=1e-4)
    certain = np.array([0.0, -1e-9, -1e-4, 0.0], np.float32)
    unlikely = np.array([-1e-3, -50.0, -1e4, -1.0], np.float32)
    flat = np.zeros(4, np.float32)
    for pair in ((certain, unlikely), (unlikely, certain)):
        check_extreme(lambda *a: total(*a, base="orpo"), (*pair, flat, flat, unlikely), (0, 1, 4))


@pytest.mark.parametrize(("base", "form"), [*((b, "linear") for b in BASES), ("dpo", "sigmoid")])
def test_extremes_and_absent_rows(base, form):
    r = np.array([-1e4, 0.0, -1e4, 0.0], np.float32)
    check_extreme(lambda *a: total(*a, base=base, form=form, beta=1.0), (*EXTREME, r), WRT[base])
    where = np.array([True, False, True, False, True, True])
    args = [np.array(a) for a in (*quad(), R)]
    for a in args:
        a[1], a[3] = np.nan, -np.inf
    value, grads = value_and_grads(lambda *a: total(*a, where=where, base=base, form=form), args, WRT[base])
    np.testing.assert_array_equal(value[~where], 0.0)
    kept = [a[where] for a in args]
    dense = rationales(*kept[:4], N_W[where], N_L[where], kept[4], N_R[where], base=base, form=form)
    np.testing.assert_allclose(value[where], sum(dense), rtol=1e-6)
    for g in grads:
        assert np.all(np.isfinite(g))
        np.testing.assert_array_equal(g[~where], 0.0)
    assert not np.any(total(*args, where=np.zeros(6, bool), base=base, form=form))
