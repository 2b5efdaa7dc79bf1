"""LCPO against float64 references: the weighted loss, the reliabilities it carries, and EM over a data set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import (
    EXTREME,
    check_bfloat16,
    check_extreme,
    check_vmap,
    jitted,
    numeric_gradient,
    quad,
    sig,
    sp,
    value_and_grads,
)

from jaxpo import losses

dpo = jitted(losses.dpo)
lcpo = jitted(losses.lcpo)
lcpo_em = jitted(losses.lcpo_em)
lcpo_margin_cpo = jitted(losses.lcpo_margin_cpo)
lcpo_margin_dpo = jitted(losses.lcpo_margin_dpo)
lcpo_margin_ipo = jitted(losses.lcpo_margin_ipo)
lcpo_margin_simpo = jitted(losses.lcpo_margin_simpo)
lcpo_stats = jitted(losses.lcpo_stats)
simpo = jitted(losses.simpo)
MARGINS = {"dpo": lcpo_margin_dpo, "ipo": lcpo_margin_ipo, "simpo": lcpo_margin_simpo, "cpo": lcpo_margin_cpo}
update_reliability = jitted(losses.update_reliability)


def test_lcpo_value_and_gradient_against_the_marginal():
    rng = np.random.default_rng(0)
    s = rng.normal(0, 3, 8).astype(np.float32)
    eta = np.array([0.9, 0.55, 0.2, 0.99, 0.7, 0.5, 0.3, 0.8], np.float32)

    def marginal(s, eta):
        p, e = sig(s), np.asarray(eta, np.float64)
        return -np.log(p * e + (1 - p) * (1 - e))

    s64, e64 = s.astype(np.float64), eta.astype(np.float64)
    w = sig(s64) * e64 / (sig(s64) * e64 + sig(-s64) * (1 - e64))
    (value, posterior), pull = jax.vjp(lambda s: lcpo(s, eta), s)
    np.testing.assert_allclose(posterior, w, rtol=1e-5)
    np.testing.assert_allclose(value, w * sp(-s64) + (1 - w) * sp(s64), rtol=1e-5)
    (grad,) = pull((np.ones(8, np.float32), np.zeros(8, np.float32)))
    np.testing.assert_allclose(grad, sig(s64) - w, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(grad, numeric_gradient(marginal, (s, eta), 0), rtol=1e-3, atol=1e-5)
    assert np.all(np.asarray(grad)[eta > 0.5] <= 0)
    assert np.all(np.asarray(grad)[eta < 0.5] >= 0)
    np.testing.assert_allclose(np.asarray(grad)[eta == 0.5], 0.0, atol=1e-6)
    assert jax.grad(lambda e: jnp.sum(lcpo(s, e)[0]))(eta).tolist() == [0.0] * 8


def test_lcpo_limits():
    zero = np.zeros(3, np.float32)
    eta = np.array([0.9, 0.6, 0.3], np.float32)
    value, posterior = lcpo(zero, eta)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(posterior, eta, rtol=1e-6)
    args = quad()
    sure, posterior = lcpo(lcpo_margin_dpo(*args, beta=0.1), np.ones(6, np.float32))
    np.testing.assert_allclose(posterior, 1.0, atol=2e-4)
    np.testing.assert_allclose(sure, dpo(*args, beta=0.1), rtol=1e-3)
    s = lcpo_margin_dpo(*args, beta=0.1)
    e = 1 - np.asarray(lcpo(s, np.full(6, 0.8, np.float32))[1])
    smoothed = [dpo(*(a[i : i + 1] for a in args), beta=0.1, label_smoothing=float(e[i]))[0] for i in range(6)]
    np.testing.assert_allclose(lcpo(s, np.full(6, 0.8, np.float32))[0], smoothed, rtol=1e-5)


def test_posterior_is_a_probability_monotone_in_margin_and_reliability():
    s = np.linspace(-1e4, 1e4, 41).astype(np.float32)
    for eta in (0.0, 0.5, 0.9, 1.0):
        value, posterior = lcpo(s, np.full_like(s, eta))
        assert np.all(np.isfinite(value))
        assert np.all((posterior >= 0) & (posterior <= 1))
        assert np.all(np.diff(posterior) >= 0)
    etas = np.linspace(0, 1, 21).astype(np.float32)
    assert np.all(np.diff(lcpo(np.full_like(etas, 0.7), etas)[1]) >= 0)
    check_extreme(lambda s: lcpo(s, np.full(41, 0.9, np.float32))[0], (s,), (0,))
    check_bfloat16(lambda s: lcpo(s, np.full(41, 0.9, np.float32))[0], (s / 1e3,), (0,))
    check_vmap(lambda s: lcpo(s, np.full(41, 0.9, np.float32))[1], (s / 1e3,))


def test_margins_are_the_differences_of_the_base_losses_in_both_orders():
    pw, pl, rw, rl = (x.astype(np.float64) for x in quad())
    delta = (pw - rw) - (pl - rl)
    np.testing.assert_allclose(lcpo_margin_dpo(pw, pl, rw, rl, beta=0.2), sp(0.2 * delta) - sp(-0.2 * delta), rtol=1e-4)
    ipo = (-delta - 1 / 0.6) ** 2 - (delta - 1 / 0.6) ** 2
    np.testing.assert_allclose(lcpo_margin_ipo(pw, pl, rw, rl, beta=0.3), ipo, rtol=1e-4)
    n_w, n_l = np.array([3, 1, 7, 2, 5, 9.0]), np.array([1, 4, 4, 8, 5, 2.0])
    hyper = {"beta": 2.5, "gamma": 0.4}
    flipped, given = simpo(pl, pw, n_l, n_w, **hyper), simpo(pw, pl, n_w, n_l, **hyper)
    np.testing.assert_allclose(lcpo_margin_simpo(pw, pl, n_w, n_l, **hyper), flipped - given, rtol=1e-4, atol=1e-5)

    def cpo64(a, b):
        return sp(-0.2 * (a - b)) - a

    np.testing.assert_allclose(lcpo_margin_cpo(pw, pl, beta=0.2), cpo64(pl, pw) - cpo64(pw, pl), rtol=1e-4)


@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo", "cpo"])
def test_margins_of_absent_pairs_are_zero_and_pass_no_nan_back(name):
    count = 2 if name in ("simpo", "cpo") else 4
    args = [*quad()[:count], *[np.full(6, 3.0, np.float32)] * (2 if name == "simpo" else 0)]
    margin, where = MARGINS[name], np.array([True, False, True, True, False, True])
    whole, wrt = np.asarray(margin(*args)), tuple(range(count))
    args = [np.where(where, a, np.float32(np.nan)) for a in args]
    loss = lambda *a: lcpo(margin(*a, where=where), np.full(6, 0.8, np.float32), where=where)[0]  # noqa: E731
    np.testing.assert_allclose(margin(*args, where=where), np.where(where, whole, 0.0), rtol=1e-6)
    value, grads = value_and_grads(loss, args, wrt)
    np.testing.assert_array_equal(value[~where], 0.0)
    for g in grads:
        assert np.all(np.isfinite(g))
        np.testing.assert_array_equal(g[~where], 0.0)


@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo", "cpo"])
def test_margins_in_bfloat16_and_at_extremes(name):
    wrt = (0, 1) if name in ("simpo", "cpo") else (0, 1, 2, 3)
    one = [np.ones(6, np.float32)] * 2 if name == "simpo" else []  # of one token each
    check_bfloat16(MARGINS[name], (*quad()[: len(wrt)], *one), wrt)
    check_extreme(MARGINS[name], (*EXTREME[: len(wrt)], *(x[:4] for x in one)), wrt)


def test_absent_pairs_count_for_nothing():
    s = np.array([1.0, np.nan, -2.0, np.inf], np.float32)
    where = np.array([True, False, True, False])
    eta = np.full(4, 0.8, np.float32)
    value, grads = value_and_grads(lambda s: lcpo(s, eta, where=where)[0], (s,), (0,))
    assert np.all(value[where] > 0)
    np.testing.assert_array_equal(value[~where], 0.0)
    np.testing.assert_array_equal(grads[0][~where], 0.0)
    _, posterior = lcpo(s, eta, where=where)
    stats = lcpo_stats(posterior, np.array([0, 1, 1, 0]), 3, where=where)
    np.testing.assert_array_equal(stats["count"], [1, 1, 0])
    np.testing.assert_allclose(stats["total"], [posterior[0], posterior[2], 0.0])


def test_reliability_update_is_per_annotator_and_additive():
    rng = np.random.default_rng(2)
    w, who = rng.random(20).astype(np.float32), rng.integers(0, 3, 20)
    eta = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    stats = lcpo_stats(w, who, 4)
    parts = [lcpo_stats(w[s], who[s], 4) for s in (slice(0, 7), slice(7, 20))]
    np.testing.assert_allclose(stats["total"], parts[0]["total"] + parts[1]["total"], rtol=1e-6)
    means = np.array([w[who == k].mean() for k in range(3)])
    np.testing.assert_allclose(update_reliability(eta, stats, alpha=1.0)[:3], means, rtol=1e-5)
    np.testing.assert_allclose(update_reliability(eta, stats, alpha=0.1)[:3], 0.9 * eta[:3] + 0.1 * means, rtol=1e-5)
    assert update_reliability(eta, stats)[3] == eta[3]


def test_reliabilities_converge_to_the_truth_from_any_start():
    rng = np.random.default_rng(0)
    n, truth = 40_000, np.array([0.95, 0.6, 0.2])
    s = rng.normal(0, 2.5, n).astype(np.float32)
    who = rng.integers(0, 3, n)
    clean = rng.random(n) < sig(s)  # whether the pair as listed is the true order
    right = rng.random(n) < truth[who]
    margin = np.where(clean == right, s, -s).astype(np.float32)  # the order the annotator gave
    run = jax.jit(lambda eta: update_reliability(eta, lcpo_stats(lcpo(margin, eta[who])[1], who, 3), alpha=1.0))
    for start in (0.9, 0.55):
        eta = np.full(3, start, np.float32)
        for _ in range(60):
            eta = run(eta)
        np.testing.assert_allclose(eta, truth, atol=0.02)


def test_an_implausible_label_fades_and_turns_around_only_against_a_frozen_weight():
    s = np.array([-1.0, -4.0, -12.0, -40.0, -1e4], np.float32)
    eta = np.full_like(s, 0.9)
    _, (grad,) = value_and_grads(lambda s: lcpo(s, eta)[0], (s,), (0,))
    assert np.all(grad <= 0)
    assert np.all(np.diff(np.abs(grad)) <= 0)
    np.testing.assert_allclose(grad[-2:], 0.0, atol=1e-7)
    np.testing.assert_allclose(lcpo(s, eta)[1][-2:], 0.0, atol=1e-7)
    # An old weight of 0.1, kept while the margin rises above its logit, pushes the other way.
    w = 0.1

    def frozen(s):
        return w * jax.nn.softplus(-s) + (1 - w) * jax.nn.softplus(s)

    _, (grad,) = value_and_grads(frozen, (np.array([0.0, 2.0], np.float32),), (0,))
    np.testing.assert_allclose(grad, sig(np.array([0.0, 2.0])) - w, rtol=1e-5)
    assert np.all(grad > 0)


def test_an_annotator_who_guesses_leaves_the_model_as_it_is():
    s = np.linspace(-8, 8, 9).astype(np.float32)
    half = np.full_like(s, 0.5)
    np.testing.assert_allclose(lcpo(s, half)[1], sig(s), rtol=1e-5)
    _, (grad,) = value_and_grads(lambda s: lcpo(s, half)[0], (s,), (0,))
    np.testing.assert_allclose(grad, 0.0, atol=1e-6)


# --- EM over a data set ---


def labelled(seed, n, truth, scale=2.5):
    """Calibrated margins of pairs whose labels are right with their annotator's probability."""
    rng = np.random.default_rng(seed)
    s = rng.normal(0, scale, n)
    who = rng.integers(0, len(truth), n)
    clean = rng.random(n) < sig(s)
    right = rng.random(n) < np.asarray(truth)[who]
    return np.where(clean == right, s, -s).astype(np.float32), who.astype(np.int32)


def em64(s, who, k, eta, iterations):
    """Plain EM in float64; also the log-likelihood after each iteration."""
    s, found, log = s.astype(np.float64), np.full(k, eta), []
    for _ in range(iterations):
        odds = np.log(found / (1 - found))[who]
        w = sig(s + odds)
        found = np.array([w[who == j].mean() if np.any(who == j) else found[j] for j in range(k)])
        e = found[who]
        log.append(np.sum(np.log(sig(s) * e + sig(-s) * (1 - e))))
    return found, w, np.asarray(log)


def test_em_is_plain_em_and_raises_the_likelihood():
    s, who = labelled(0, 300, (0.9, 0.6, 0.3))
    who[who == 1] = 3  # annotator 1 of 4 has no pair
    posterior, found, iterations = lcpo_em(s, who, 4)
    expected, _, log = em64(s, who, 4, 0.9, int(iterations))
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert found[1] == np.float32(0.9)
    odds = np.log(np.asarray(found, np.float64) / (1 - np.asarray(found, np.float64)))
    np.testing.assert_allclose(posterior, sig(s.astype(np.float64) + odds[who]), rtol=1e-4, atol=1e-6)
    assert np.all(np.diff(log) > -1e-9)
    fixed = np.array([np.asarray(posterior)[who == j].mean() for j in (0, 2, 3)])
    np.testing.assert_allclose(np.asarray(found)[[0, 2, 3]], fixed, atol=1e-5)


def test_em_finds_the_same_truth_from_any_start():
    truth = (0.95, 0.6, 0.2)
    s, who = labelled(1, 40_000, truth)  # ten blocks of the blocked sums
    ends = [np.asarray(lcpo_em(s, who, 3, eta=eta)[1]) for eta in (0.9, 0.55, 0.1)]
    np.testing.assert_allclose(ends[0], truth, atol=0.02)
    for end in ends[1:]:
        np.testing.assert_allclose(end, ends[0], atol=1e-3)


def test_em_counts_its_iterations_and_stops_when_told():
    s, who = labelled(2, 50, (0.8,))
    _, _, iterations = lcpo_em(s, who, 1)
    assert 1 < iterations < 10_000
    _, found, cut = lcpo_em(s, who, 1, max_iterations=3)
    assert cut == 3
    np.testing.assert_allclose(found, em64(s, who, 1, 0.9, 3)[0], rtol=1e-5)


def test_em_leaves_absent_pairs_out():
    s, who = labelled(3, 50, (0.9, 0.4))
    where = np.arange(50) % 5 != 0
    dirty = np.where(where, s, np.nan).astype(np.float32)
    posterior, found, _ = lcpo_em(dirty, who, 2, where=where)
    dense, expected, _ = lcpo_em(s[where], who[where], 2)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.asarray(posterior)[where], dense, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(posterior)[~where], 0.0)
    posterior, found, _ = lcpo_em(dirty, who, 2, where=np.zeros(50, bool))
    np.testing.assert_array_equal(posterior, 0.0)
    np.testing.assert_allclose(found, 0.9, rtol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e4])
def test_em_on_margins_that_say_nothing_or_everything(size):
    s, who = np.full(8, size, np.float32), np.zeros(8, np.int32)
    posterior, found, _ = lcpo_em(s, who, 1)
    np.testing.assert_allclose(found, 1 - 1e-4 if size else 0.9, rtol=1e-5)
    np.testing.assert_allclose(posterior, 1.0 if size else 0.9, rtol=1e-5)
