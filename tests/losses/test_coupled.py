"""AOT, BCO and LCPO against float64 references: losses that see the whole batch, and the state they carry."""

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
    numeric_gradient,
    quad,
    sig,
    sp,
    value_and_grads,
)

from jaxpo import losses

aot = jitted(losses.aot)
aot_unpaired = jitted(losses.aot_unpaired)
bco = jitted(losses.bco)
bco_shift = jitted(losses.bco_shift)
bco_stats = jitted(losses.bco_stats)
dpo = jitted(losses.dpo)
lcpo = jitted(losses.lcpo)
lcpo_margin_cpo = jitted(losses.lcpo_margin_cpo)
lcpo_margin_dpo = jitted(losses.lcpo_margin_dpo)
lcpo_margin_ipo = jitted(losses.lcpo_margin_ipo)
lcpo_margin_simpo = jitted(losses.lcpo_margin_simpo)
lcpo_stats = jitted(losses.lcpo_stats)
simpo = jitted(losses.simpo)
update_bco_shift = jitted(losses.update_bco_shift)
update_reliability = jitted(losses.update_reliability)
init_bco_state = losses.init_bco_state

ALL4 = (0, 1, 2, 3)


# --- AOT ---


def aot_reference(beta, eps, paired):
    def reference(pw, pl, rw, rl):
        pw, pl, rw, rl = (np.asarray(x, np.float64) for x in (pw, pl, rw, rl))
        u, v = (pw - pl, rw - rl) if paired else (pw - rw, pl - rl)
        h = beta * (np.sort(u) - np.sort(v))
        return (1 - eps) * sp(-h) + eps * sp(h)

    return reference


@pytest.mark.parametrize(("loss", "paired"), [(aot, True), (aot_unpaired, False)])
@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_aot_value_and_gradient(loss, paired, eps):
    def f(*a):
        return loss(*a, beta=0.7, label_smoothing=eps)

    check_against(f, aot_reference(0.7, eps, paired), quad(seed=8), ALL4)


@pytest.mark.parametrize("loss", [aot, aot_unpaired])
def test_aot_on_one_pair_is_dpo(loss):
    args = quad(n=1)
    np.testing.assert_allclose(loss(*args, beta=0.3), dpo(*args, beta=0.3), rtol=1e-6)
    check_extreme(lambda *a: loss(*a, beta=1.0), EXTREME, ALL4)
    check_bfloat16(loss, quad(), ALL4)
    check_vmap(loss, quad())


def test_aot_does_not_see_how_its_two_sides_are_matched():
    pw, pl, rw, rl = quad()
    order = np.array([3, 0, 5, 1, 4, 2])
    base = aot(pw, pl, rw, rl, beta=1.0)
    np.testing.assert_allclose(aot(pw[order], pl[order], rw, rl, beta=1.0), base, rtol=1e-5)
    base = aot_unpaired(pw, pl, rw, rl, beta=1.0)
    np.testing.assert_allclose(aot_unpaired(pw[order], pl, rw[order], rl, beta=1.0), base, rtol=1e-5)
    assert np.abs(np.asarray(aot(pw[order], pl, rw[order], rl, beta=1.0) - aot(pw, pl, rw, rl, beta=1.0))).max() > 1e-2


@pytest.mark.parametrize("loss", [aot, aot_unpaired])
def test_aot_leaves_absent_rows_out_of_the_sort(loss):
    args = [a.copy() for a in quad(n=7)]
    where = np.array([True, False, True, True, False, True, True])
    for a in args:
        a[1], a[4] = np.nan, -np.inf
    value, grads = value_and_grads(lambda *a: loss(*a, beta=1.0, where=where), args, ALL4)
    dense, dense_grads = value_and_grads(lambda *a: loss(*a, beta=1.0), [a[where] for a in args], ALL4)
    np.testing.assert_allclose(value[:5], dense, rtol=1e-6)
    np.testing.assert_array_equal(value[5:], 0.0)
    for g, d in zip(grads, dense_grads, strict=True):
        np.testing.assert_allclose(g[where], d, rtol=1e-6)
        np.testing.assert_array_equal(g[~where], 0.0)
    nobody, grads = value_and_grads(lambda *a: loss(*a, where=np.zeros(7, bool)), args, ALL4)
    np.testing.assert_array_equal(nobody, 0.0)
    assert not any(np.any(g) for g in grads)


# --- BCO ---

LABEL = np.array([True, False, True, True, False, True])


def test_bco_value_gradient_and_importance_weights():
    p, r, *_ = quad()
    w = np.array([9.0, 0.5, 9.0, 9.0, 2.0, 9.0], np.float32)

    def reference(p, r):
        z = 0.4 * (np.asarray(p, np.float64) - r) - 0.3
        return np.where(LABEL, sp(-z), w * sp(z))

    def loss(*a):
        return bco(*a, LABEL, 0.3, beta=0.4, weight=w)

    _, grads = check_against(loss, reference, (p, r), (0, 1))
    assert np.all(grads[0][LABEL] < 0)
    assert np.all(grads[0][~LABEL] > 0)
    check_bfloat16(loss, (p, r), (0, 1))
    check_vmap(lambda *a: bco(*a, 0.3), (p, r, LABEL))
    check_extreme(lambda *a: bco(*a, LABEL[:4], 0.0, beta=1.0), (EXTREME[0], EXTREME[2]), (0, 1))


def test_no_gradient_passes_through_the_shift():
    p, r, *_ = quad()
    assert jax.grad(lambda d: jnp.sum(bco(p, r, LABEL, d)))(0.1) == 0.0
    through = jax.grad(lambda p: bco_shift(update_bco_shift(init_bco_state(), bco_stats(p, r, LABEL))))(p)
    np.testing.assert_array_equal(through, 0.0)


def test_bco_pair_identity_and_bound():
    rng = np.random.default_rng(0)
    rw, rl = (rng.normal(0, 4, 20).astype(np.float32) for _ in range(2))
    zero = np.zeros_like(rw)
    for d in (-2.0, 0.0, 1.5):
        good = np.asarray(bco(rw, zero, np.ones(20, bool), d, beta=1.0), np.float64)
        bad = np.asarray(bco(rl, zero, np.zeros(20, bool), d, beta=1.0), np.float64)
        w64, l64 = rw.astype(np.float64), rl.astype(np.float64)
        closed = np.log(1 + np.exp(-(w64 - l64)) + np.exp(-(w64 - d)) + np.exp(l64 - d))
        np.testing.assert_allclose(good + bad, closed, rtol=1e-5)
        assert np.all(good + bad > sp(-(w64 - l64)))
    best = (rw + rl).astype(np.float64) / 2
    excess = np.exp(-(rw - best)) + np.exp(rl - best)
    np.testing.assert_allclose(excess, 2 * np.exp(-(rw.astype(np.float64) - rl) / 2), rtol=1e-5)


def test_bco_is_shift_invariant_when_the_shift_follows():
    p, r, *_ = quad()

    def loss(offset):
        moved = p + np.float32(offset)
        state = update_bco_shift(init_bco_state(), bco_stats(moved, r, LABEL, beta=0.5))
        return np.asarray(bco(moved, r, LABEL, bco_shift(state), beta=0.5))

    np.testing.assert_allclose(loss(7.0), loss(0.0), rtol=1e-4)
    fixed = [np.asarray(bco(p + np.float32(c), r, LABEL, 0.0, beta=0.5)) for c in (0.0, 7.0)]
    assert np.abs(fixed[1] - fixed[0]).max() > 0.5


def test_zero_shift_and_unit_weight_is_binary_cross_entropy():
    p, r, *_ = quad()
    q = sig(0.2 * (p.astype(np.float64) - r))
    np.testing.assert_allclose(bco(p, r, LABEL, 0.0, beta=0.2), -np.log(np.where(LABEL, q, 1 - q)), rtol=1e-5)


def test_running_shift_is_balanced_over_classes_and_keeps_an_absent_class():
    p, r, *_ = quad(n=6)
    reward = 0.1 * (p.astype(np.float64) - r)
    state = update_bco_shift(init_bco_state(), bco_stats(p, r, LABEL))
    means = np.array([reward[~LABEL].mean(), reward[LABEL].mean()])
    np.testing.assert_allclose(state["mean"], means, rtol=1e-5)
    np.testing.assert_allclose(bco_shift(state), means.mean(), rtol=1e-5)
    again = update_bco_shift(state, bco_stats(p[LABEL], r[LABEL], LABEL[LABEL]), momentum=0.5)
    np.testing.assert_array_equal(again["mean"][0], state["mean"][0])
    moved = update_bco_shift(state, bco_stats(p + 10, r, LABEL), momentum=0.75)
    np.testing.assert_allclose(moved["mean"], 0.75 * means + 0.25 * (means + 1.0), rtol=1e-5)
    only_good = update_bco_shift(init_bco_state(), bco_stats(p[LABEL], r[LABEL], LABEL[LABEL]))
    np.testing.assert_allclose(bco_shift(only_good), means[1] / 2, rtol=1e-5)


def test_bco_stats_add_and_skip_absent_rows():
    p, r, *_ = quad()
    where = np.array([True, True, False, True, True, True])
    p[2] = np.nan
    whole = bco_stats(p, r, LABEL, where=where)
    halves = [bco_stats(p[s], r[s], LABEL[s], where=where[s]) for s in (slice(0, 3), slice(3, 6))]
    for name in whole:
        np.testing.assert_allclose(whole[name], halves[0][name] + halves[1][name], rtol=1e-6)
    np.testing.assert_array_equal(whole["count"], [2, 3])
    value, grads = value_and_grads(lambda *a: bco(*a, LABEL, 0.0, where=where), (p, r), (0, 1))
    assert value[2] == 0.0
    assert grads[0][2] == 0.0
    assert np.all(np.isfinite(grads[0]))


# --- LCPO ---


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
