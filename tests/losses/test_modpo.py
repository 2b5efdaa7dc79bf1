"""MODPO against a float64 reference, its limits, and the fixed point on a bandit."""

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

modpo = jitted(losses.modpo)
dpo = jitted(losses.dpo)
ALL4 = (0, 1, 2, 3)
N = 6


def rewards(columns=2, seed=1):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(N, columns)).astype(np.float32) for _ in range(2))


def margin(args, weights, beta):
    pw, pl, rw, rl, mw, ml = (np.asarray(a, np.float64) for a in args)
    frozen = sum(w * (mw[:, k] - ml[:, k]) for k, w in enumerate(weights[1:]))
    return (beta * ((pw - rw) - (pl - rl)) - frozen) / weights[0]


@pytest.mark.parametrize("form", ["logistic", "hinge"])
def test_value_and_gradient(form):
    weights, args = (0.4, 0.5, 0.1), (*quad(), *rewards())

    def reference(*a):
        h = margin(a, weights, 0.3)
        return sp(-h) if form == "logistic" else np.maximum(0.0, 1.0 - h)

    def loss(*a):
        return modpo(*a, weights=weights, beta=0.3, form=form)

    _, grads = check_against(loss, reference, args, ALL4)
    if form == "logistic":
        np.testing.assert_allclose(grads[0], -(0.3 / 0.4) * sig(-margin(args, weights, 0.3)), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(grads[1], -grads[0], rtol=1e-6)
        check_bfloat16(loss, args, (*ALL4, 4, 5))
        check_vmap(loss, args)


def test_the_frozen_rewards_take_no_gradient():
    _, grads = value_and_grads(lambda *a: modpo(*a, weights=(0.5, 0.2, 0.3)), (*quad(), *rewards()), (4, 5))
    for g in grads:
        np.testing.assert_array_equal(g, 0.0)


def test_all_weight_on_the_pairs_is_dpo():
    args = quad()
    got = modpo(*args, *rewards(), weights=(1.0, 0.0, 0.0), beta=0.2)
    np.testing.assert_allclose(got, dpo(*args, beta=0.2), rtol=1e-6)


def test_equal_rewards_on_both_sides_are_dpo_at_beta_over_w0():
    args, (mw, _) = quad(), rewards()
    got = modpo(*args, mw, mw, weights=(0.25, 0.5, 0.25), beta=0.1)
    np.testing.assert_allclose(got, dpo(*args, beta=0.4), rtol=1e-5)


def test_a_constant_of_the_prompt_in_both_rewards_changes_nothing():
    args, (mw, ml) = quad(), rewards()
    shift = np.float32(2.0) * np.arange(N, dtype=np.float32)[:, None]
    got = modpo(*args, mw + shift, ml + shift, weights=(0.5, 0.3, 0.2))
    np.testing.assert_allclose(got, modpo(*args, mw, ml, weights=(0.5, 0.3, 0.2)), rtol=2e-5)


def test_two_equal_weights():
    args, (mw, ml) = quad(), rewards(1)
    delta = np.asarray(args[0] - args[2] - (args[1] - args[3]), np.float64)
    h = 2 * 0.1 * delta - (mw[:, 0] - ml[:, 0]).astype(np.float64)
    np.testing.assert_allclose(modpo(*args, mw, ml, weights=(0.5, 0.5), beta=0.1), sp(-h), rtol=1e-5)


def test_at_the_optimal_policy_the_margin_is_the_true_gap_of_objective_0():
    rng = np.random.default_rng(5)
    prior, r0, r1 = (rng.normal(size=20) for _ in range(3))
    ref = prior - np.log(np.sum(np.exp(prior)))
    beta, w = 0.2, (0.3, 0.7)
    tilted = ref + (w[0] * r0 + w[1] * r1) / beta
    policy = tilted - np.log(np.sum(np.exp(tilted)))
    a, b = rng.permutation(20)[:N], rng.permutation(20)[:N]
    logps = [x.astype(np.float32) for x in (policy[a], policy[b], ref[a], ref[b])]
    got = modpo(*logps, *(r1[i][:, None].astype(np.float32) for i in (a, b)), weights=w, beta=beta)
    np.testing.assert_allclose(got, sp(-(r0[a] - r0[b])), rtol=1e-4, atol=1e-5)
    reward = losses.modpo_reward(policy, ref, r1[:, None], weights=w, beta=beta)
    np.testing.assert_allclose(reward - reward[0], r0 - r0[0], rtol=1e-3, atol=1e-3)


def test_the_reward_is_computed_in_float32_and_freezes_the_other_objectives():
    p, r, (m, _) = *quad()[:2], rewards()
    weights = (0.4, 0.5, 0.1)
    reward = lambda *a: losses.modpo_reward(*a, weights=weights, beta=0.3)  # noqa: E731
    check_bfloat16(reward, (p, r, m), (0, 1, 2))
    value, grads = value_and_grads(reward, (p, r, m), (0, 2))
    expected = (0.3 * (p.astype(np.float64) - r) - m.astype(np.float64) @ np.array(weights[1:])) / 0.4
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(grads[0], 0.3 / 0.4, rtol=1e-6)
    np.testing.assert_array_equal(grads[1], 0.0)


def test_logits_grow_as_one_over_w0():
    args, same = quad(), np.zeros((N, 1), np.float32)

    def h(w0):
        return np.log(np.expm1(np.asarray(modpo(*args, same, same, weights=(w0, 0.5), beta=0.01), np.float64)))

    np.testing.assert_allclose(h(0.1), 5 * h(0.5), rtol=1e-3, atol=1e-3)


def test_weights_must_fit_the_rewards():
    with pytest.raises(ValueError, match="2 weights for 1 \\+ 2 objectives"):
        losses.modpo(*quad(), *rewards(), weights=(0.5, 0.5))


@pytest.mark.parametrize("form", ["logistic", "hinge"])
def test_finite_at_extremes_and_nothing_from_absent_rows(form):
    flat = np.zeros((4, 1), np.float32)
    check_extreme(lambda *a: modpo(*a, flat, flat, beta=1.0, form=form), EXTREME, ALL4)
    big = np.array([[1e4], [-1e4], [1e4], [-1e4]], np.float32)
    check_extreme(lambda *a: modpo(*a, big, -big, beta=1.0, form=form), EXTREME, ALL4)
    where = np.array([True, False, True, False, True, True])
    args = [np.array(a) for a in (*quad(), *rewards(1))]
    for a in args:
        a[1], a[3] = np.nan, np.inf
    value, grads = value_and_grads(lambda *a: modpo(*a, form=form, where=where), args, ALL4)
    np.testing.assert_array_equal(value[~where], 0.0)
    np.testing.assert_allclose(value[where], modpo(*(a[where] for a in args), form=form), rtol=1e-6)
    for g in grads:
        assert np.all(np.isfinite(g))
        np.testing.assert_array_equal(g[~where], 0.0)
    assert not np.any(modpo(*args, form=form, where=np.zeros(N, bool)))
