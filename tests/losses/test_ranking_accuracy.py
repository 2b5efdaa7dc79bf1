"""Ranking accuracy, its idealised value and difficulty, and DPO with a scaled reference, against float64 references."""

import jax
import jax.numpy as jnp
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

difficulty = jitted(losses.difficulty)
dpo = jitted(losses.dpo)
dpo_gamma = jitted(losses.dpo_gamma)
dpo_threshold = jitted(losses.dpo_threshold)
idealised_log_ratio = jitted(losses.idealised_log_ratio)
idealised_ranking_accuracy = jitted(losses.idealised_ranking_accuracy)
ipo_threshold = jitted(losses.ipo_threshold)
ranking_accuracy = jitted(losses.ranking_accuracy)
ranking_accuracy_list = jitted(losses.ranking_accuracy_list)
ranking_accuracy_norm = jitted(losses.ranking_accuracy_norm)

ALL4 = (0, 1, 2, 3)


def f32(*x):
    return np.array(x, np.float32)


# --- R and R~ ---


def test_a_pair_is_right_when_the_chosen_is_at_least_as_likely():
    np.testing.assert_array_equal(ranking_accuracy(f32(-1, -2, -3), f32(-2, -2, -1)), [1, 1, 0])


def test_ranking_accuracy_is_not_reward_accuracy():
    pw, pl, rw, rl = f32(-10), f32(-8), f32(-14), f32(-6)
    assert dpo(pw, pl, rw, rl)[0] < np.log(2)
    assert ranking_accuracy(pw, pl)[0] == 0.0


def test_votes_turn_the_order_around_and_ties_ask_for_closeness():
    pw, pl = np.log(f32(0.5, 0.5, 0.5, 0.505, 0.3, 0.3)), np.log(f32(0.4, 0.4, 0.4, 0.5, 0.3, 0.3))
    share = f32(0.8, 0.2, 0.5, 0.5, 0.8, 0.2)
    # With votes the comparison is strict: equal likelihoods rank nothing.
    np.testing.assert_array_equal(ranking_accuracy(pw, pl, share), [1, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(ranking_accuracy(pw, pl, share, tie_epsilon=0.2)[2], 1)


def test_the_normalised_accuracy_compares_means_per_token():
    pw, pl, nw, nl = f32(-10, -10), f32(-6, -6), f32(10, 10), f32(3, 12)
    np.testing.assert_array_equal(ranking_accuracy(pw, pl), [0, 0])
    np.testing.assert_array_equal(ranking_accuracy_norm(pw, pl, nw, nl), [1, 0])
    share = f32(0.2, 0.2)
    np.testing.assert_array_equal(ranking_accuracy_norm(pw, pl, nw, nl, share), [0, 1])
    one = f32(1, 1)
    np.testing.assert_array_equal(ranking_accuracy_norm(pw, pl, one, one), ranking_accuracy(pw, pl))
    np.testing.assert_array_equal(ranking_accuracy_norm(f32(0), f32(0), f32(0), f32(0)), [1])


def test_absent_pairs_are_zero():
    bad, where = f32(np.nan, np.inf, -1), np.array([False, False, True])
    ok = f32(-1, -1, -2)
    np.testing.assert_array_equal(ranking_accuracy(bad, ok, where=where), [0, 0, 1])
    np.testing.assert_array_equal(ranking_accuracy(bad, ok, bad, where=where), [0, 0, 0])
    np.testing.assert_array_equal(ranking_accuracy_norm(bad, ok, bad, ok, where=where), [0, 0, 1])
    np.testing.assert_array_equal(difficulty(bad, ok, where=where), [0, 0, -1])
    share = f32(np.nan, 0.5, 0.9)
    np.testing.assert_array_equal(idealised_ranking_accuracy(bad, ok, share, where=where), [0, 0, 1])
    assert np.all(np.isfinite(idealised_log_ratio(bad, ok, share, where=where)))


def test_a_list_is_right_when_every_ordered_pair_is():
    labels = f32([3, 2, 1, 0], [3, 2, 2, 0], [3, 2, 2, 0], [1, 1, 1, 9], [1, 1, 1, 9])
    p = f32([-1, -2, -3, -4], [-1, -3, -2, -4], [-1, -3, -2, -2.5], [-1, -2, -3, -9], [np.nan, np.nan, -3, np.inf])
    where = np.ones((5, 4), bool)
    where[3, 3] = False  # the only response with another label
    where[4, :2] = where[4, 3] = False
    np.testing.assert_array_equal(ranking_accuracy_list(p, labels, where), [1, 1, 0, 1, 1])


def test_a_list_of_two_is_a_pair():
    pw, pl, *_ = quad()
    two, labels = np.stack([pw, pl], 1), np.tile(f32(1, 0), (6, 1))
    got = ranking_accuracy_list(two, labels, np.ones((6, 2), bool))
    np.testing.assert_array_equal(got, ranking_accuracy(pw, pl))


# --- R* ---


@pytest.mark.parametrize("beta", [0.05, 1.0, 5.0])
def test_the_idealised_ratio_is_the_stationary_point_of_the_expected_dpo_loss(beta):
    _, _, rw, rl = quad()
    share = f32(0.1, 0.3, 0.5, 0.6, 0.9, 0.99)
    ratio = idealised_log_ratio(rw, rl, share, beta=beta)
    expected = (rw.astype(np.float64) - rl) + np.log(share / (1 - share.astype(np.float64))) / beta
    np.testing.assert_allclose(ratio, expected, rtol=1e-4, atol=1e-4)

    def slope(ratio):
        zero = jnp.zeros_like(ratio)

        def expected_loss(p):
            return jnp.sum(
                share * losses.dpo(p, zero, rw, rl, beta=beta) + (1 - share) * losses.dpo(zero, p, rl, rw, beta=beta)
            )

        return jax.grad(expected_loss)(ratio)

    np.testing.assert_allclose(jax.jit(slope)(ratio) / beta, 0.0, atol=1e-5)


def test_a_unanimous_vote_counts_as_one_thousand_to_one():
    zero = f32(0, 0)
    np.testing.assert_allclose(
        idealised_log_ratio(zero, zero, f32(1, 0), beta=1.0), f32(1, -1) * np.log(1000), rtol=1e-5
    )
    sharper = idealised_log_ratio(zero, zero, f32(1, 0), beta=0.5, epsilon=0.01)
    np.testing.assert_allclose(sharper, f32(1, -1) * 2 * np.log(100), rtol=1e-5)


def test_limits_of_the_idealised_accuracy_in_beta():
    _, _, rw, rl = quad(seed=4, n=50)
    share = f32(*np.random.default_rng(0).uniform(0.55, 1.0, 50))
    before = ranking_accuracy(rw, rl)
    assert 0 < before.mean() < 1
    np.testing.assert_array_equal(idealised_ranking_accuracy(rw, rl, share, beta=1e6), before)
    np.testing.assert_array_equal(idealised_ranking_accuracy(rw, rl, share, beta=1e-6), 1.0)
    # The majority decides, whichever side is called chosen; a tie belongs into no mean.
    np.testing.assert_array_equal(idealised_ranking_accuracy(rl, rw, 1 - share, beta=1e-6), 1.0)
    np.testing.assert_array_equal(idealised_ranking_accuracy(rw, rl, np.full(50, 0.5, np.float32)), 0.0)


def test_length_normalised_reference_gives_the_normalised_ideal():
    rw, rl, nw, nl = f32(-40), f32(-10), f32(40), f32(5)
    got = idealised_log_ratio(rw / nw, rl / nl, f32(0.75), beta=2.0)
    np.testing.assert_allclose(got, [-1 + 2 + np.log(3) / 2], rtol=1e-5)


# --- difficulty ---


def test_a_pair_is_ranked_correctly_exactly_below_its_threshold():
    pw, pl, rw, rl = quad(seed=7, n=2000)
    for beta in (0.1, 1.0):
        c = difficulty(rw, rl)
        np.testing.assert_allclose(c, rl.astype(np.float64) - rw, rtol=1e-5, atol=1e-5)
        below = np.asarray(dpo(pw, pl, rw, rl, beta=beta)) <= np.asarray(dpo_threshold(c, beta=beta))
        decided = np.abs(pw - pl) > 1e-3  # float32 rounding decides closer ones
        assert decided.sum() > 1900
        np.testing.assert_array_equal(below[decided], np.asarray(ranking_accuracy(pw, pl))[decided] > 0)


def test_threshold_of_dpo():
    c = f32(-1e4, -3, 0, 2, 50, 1e4)
    value = np.asarray(dpo_threshold(c, beta=0.5))
    np.testing.assert_allclose(value, sp(-0.5 * c.astype(np.float64)), rtol=1e-5)
    np.testing.assert_allclose(value[2], np.log(2), rtol=1e-6)
    assert np.all(np.diff(value) <= 0)
    np.testing.assert_allclose(value[4], np.exp(-25), rtol=1e-4)  # exponentially small in c
    # A pair that the reference ranks correctly stays so at a loss of 0.6.
    assert np.all(np.asarray(dpo_threshold(f32(-5, -1e-3, 0))) > 0.6)


def test_threshold_of_ipo_is_sufficient():
    pw, pl, rw, rl = quad(seed=9, n=4000)
    tau = 0.1
    c = difficulty(rw, rl)
    loss = (((pw - rw) - (pl - rl)) - 1 / (2 * tau)) ** 2
    threshold = np.asarray(ipo_threshold(c, tau=tau))
    below = loss < threshold - 1e-3
    right = np.asarray(ranking_accuracy(pw, pl)) > 0
    assert below.sum() > 100
    assert np.all(right[below])
    assert np.any(right & ~below)  # not necessary
    # Beyond c = 1/(2 tau) even a loss of 0 is the wrong ranking: Delta = 5 leaves P_w - P_l = 5 - c < 0.
    np.testing.assert_array_equal(ipo_threshold(f32(5.1, 100.0), tau=tau), [-np.inf, -np.inf])
    np.testing.assert_allclose(ipo_threshold(f32(5.0, 2.0, -5.0), tau=tau), [0.0, 9.0, 100.0], rtol=1e-5)


# --- DPO with a scaled reference ---


def test_dpo_gamma_value_and_gradient():
    def loss(*a):
        return dpo_gamma(*a, beta=0.3, gamma=0.25)

    def reference(pw, pl, rw, rl):
        pw, pl, rw, rl = (np.asarray(x, np.float64) for x in (pw, pl, rw, rl))
        return sp(-0.3 * ((pw - pl) - 0.25 * (rw - rl)))

    args = quad()
    value, grads = check_against(loss, reference, args, ALL4)
    slope = 0.3 * (1 - np.exp(-value.astype(np.float64)))
    np.testing.assert_allclose(grads[0], -slope, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(grads[2], 0.25 * slope, rtol=1e-4, atol=1e-6)
    check_bfloat16(loss, args, ALL4)
    check_vmap(loss, args)
    check_extreme(lambda *a: dpo_gamma(*a, beta=1.0, gamma=2.0), EXTREME, ALL4)


def test_dpo_gamma_limits():
    args = quad()
    zero = np.zeros(6, np.float32)
    np.testing.assert_allclose(dpo_gamma(*args, gamma=1.0), dpo(*args), rtol=1e-6)
    free = dpo_gamma(*args, gamma=0.0)
    np.testing.assert_allclose(free, dpo(*args[:2], zero, zero), rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(free) < np.log(2), np.asarray(ranking_accuracy(*args[:2])) > 0)
    np.testing.assert_allclose(1 - np.exp(-np.asarray(free)), sig(-0.1 * (args[0] - args[1])), rtol=1e-4)


def test_dpo_gamma_leaves_absent_rows_alone():
    args = [a.copy() for a in quad()]
    where = np.array([True, False, True, True, False, True])
    for a in args:
        a[1], a[4] = np.nan, np.inf
    value, grads = value_and_grads(lambda *a: dpo_gamma(*a, gamma=0.5, where=where), args, ALL4)
    np.testing.assert_array_equal(value[~where], 0.0)
    np.testing.assert_allclose(value[where], np.asarray(dpo_gamma(*quad(), gamma=0.5))[where], rtol=1e-6)
    for g in grads:
        np.testing.assert_array_equal(g[~where], 0.0)
        assert np.all(np.isfinite(g))
