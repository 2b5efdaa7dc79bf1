"""AOT and BCO against float64 references: losses that see the whole batch, and the state they carry."""

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

aot = jitted(losses.aot)
aot_unpaired = jitted(losses.aot_unpaired)
bco = jitted(losses.bco)
bco_shift = jitted(losses.bco_shift)
bco_stats = jitted(losses.bco_stats)
dpo = jitted(losses.dpo)
update_bco_shift = jitted(losses.update_bco_shift)
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
    np.testing.assert_allclose(aot(pw, pl, rw[order], rl[order], beta=1.0), base, rtol=1e-5)
    base = aot_unpaired(pw, pl, rw, rl, beta=1.0)
    np.testing.assert_allclose(aot_unpaired(pw[order], pl, rw[order], rl, beta=1.0), base, rtol=1e-5)
    np.testing.assert_allclose(aot_unpaired(pw, pl[order], rw, rl[order], beta=1.0), base, rtol=1e-5)
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
