"""MAPL's three terms against float64 references, and what each is invariant to."""

import jax
import numpy as np
from losses.loss_checks import (
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

mapl = jax.jit(losses.mapl, static_argnames=("intra_weight", "inter_weight"))
intra = jitted(losses.mapl_intra)
inter = jitted(losses.mapl_inter)
dpo = jitted(losses.dpo)
SIGN = np.array([1, -1, 1, -1, 1, 1], np.float32)


def scores(seed=0):
    """`q_w, q_l, q_plus [6, 2], q_minus [6, 2], q'_w, q'_l`."""
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(scale=2.0, size=s).astype(np.float32) for s in (6, 6, (6, 2), (6, 2), 6, 6))


def test_value_and_gradient_of_the_whole():
    def reference(qw, ql, plus, minus, iw, il):
        qw, ql, plus, minus, iw, il = (np.asarray(x, np.float64) for x in (qw, ql, plus, minus, iw, il))
        fits = sp(minus - plus).mean(-1)
        return sp(ql - qw) + 0.7 * fits + 0.4 * sp(-SIGN * ((iw - il) - (qw - ql)))

    def loss(*a):
        return mapl(*a, SIGN, intra_weight=0.7, inter_weight=0.4)

    args = scores()
    _, grads = check_against(loss, reference, args, (0, 1, 2, 3, 4, 5))
    closed = -0.35 * sig(args[3].astype(np.float64) - args[2])
    np.testing.assert_allclose(grads[2], closed, rtol=1e-4, atol=1e-6)
    check_bfloat16(loss, args, (0, 1, 2, 3, 4, 5))
    check_vmap(loss, args)


def test_without_the_two_terms_it_is_bradley_terry_and_dpo():
    qw, ql, *rest = scores()
    plain = mapl(qw, ql, *rest, SIGN, intra_weight=0.0, inter_weight=0.0)
    np.testing.assert_allclose(plain, sp(ql.astype(np.float64) - qw), rtol=1e-6)
    pw, pl, rw, rl = quad()
    implicit = mapl(0.1 * (pw - rw), 0.1 * (pl - rl), *rest, SIGN, intra_weight=0.0, inter_weight=0.0)
    np.testing.assert_allclose(implicit, dpo(pw, pl, rw, rl, beta=0.1), rtol=1e-5)


def test_inter_limits():
    qw, ql, _, _, iw, il = scores()
    np.testing.assert_allclose(inter(qw, ql, qw, ql, SIGN), np.log(2), rtol=1e-6)
    one = np.ones_like(qw)
    np.testing.assert_allclose(inter(qw, qw, iw, il, one), sp(il.astype(np.float64) - iw), rtol=1e-5)
    np.testing.assert_allclose(inter(qw, ql, iw, il, SIGN), inter(iw, il, qw, ql, -SIGN), rtol=1e-5)


def test_inter_ignores_a_constant_of_either_prompt_and_intra_does_not():
    qw, ql, plus, minus, iw, il = scores()
    base = inter(qw, ql, iw, il, SIGN)
    np.testing.assert_allclose(inter(qw + 3, ql + 3, iw, il, SIGN), base, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(inter(qw, ql, iw - 2, il - 2, SIGN), base, rtol=1e-5, atol=1e-6)
    shifted = np.asarray(intra(plus + 3, minus)) - np.asarray(intra(plus, minus))
    assert np.all(shifted < -1e-3)


def test_the_sign_says_which_way_the_gap_should_move():
    args = scores()
    _, grads = value_and_grads(lambda *a: inter(*a, SIGN), (args[0], args[1], args[4], args[5]), (2, 3))
    np.testing.assert_array_equal(np.sign(grads[0]), -SIGN)
    np.testing.assert_array_equal(grads[1], -grads[0])


def test_a_row_takes_the_mean_over_the_prompt_pairs_it_has():
    qw, ql, plus, minus, iw, il = scores()
    here = np.array([[1, 1], [1, 0], [0, 1], [0, 0], [1, 1], [1, 0]], bool)
    plus, minus = (np.where(here, x, np.nan).astype(np.float32) for x in (plus, minus))
    second = np.array([1, 1, 0, 1, 0, 1], bool)
    iw, il = (np.where(second, x, np.inf).astype(np.float32) for x in (iw, il))
    sign = np.where(second, SIGN, np.nan).astype(np.float32)

    def loss(*a):
        return mapl(*a, sign, intra_weight=1.0, inter_weight=1.0, where_intra=here, where_inter=second)

    args = (qw, ql, plus, minus, iw, il)
    value, grads = value_and_grads(loss, args, (0, 1, 2, 3, 4, 5))
    expected = sp(ql.astype(np.float64) - qw)
    for i in range(6):
        fits = [float(sp(float(minus[i, k]) - float(plus[i, k]))) for k in range(2) if here[i, k]]
        expected[i] += np.mean(fits) if fits else 0.0
        if second[i]:
            expected[i] += sp(-SIGN[i] * ((float(iw[i]) - il[i]) - (float(qw[i]) - ql[i])))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert all(np.all(np.isfinite(g)) for g in grads)
    for g in grads[2:4]:
        np.testing.assert_array_equal(g[~here], 0.0)


def test_extremes_absent_rows_and_no_row_at_all():
    def run(*a):
        return mapl(*a, SIGN[:4])

    for size in (50.0, 1e4):
        big = size * np.array([1, -1, 1, -1], np.float32)
        two = np.stack([big, -big], axis=1)
        check_extreme(run, (big, -big, two, -two, -big, big), (0, 1, 2, 3, 4, 5))
    where = np.array([True, False, True, False, True, True])
    args = [np.array(a) for a in scores()]
    for a in args:
        a[1], a[3] = np.nan, np.inf
    value, grads = value_and_grads(lambda *a: mapl(*a, SIGN, where=where), args, (0, 1, 2, 3, 4, 5))
    np.testing.assert_array_equal(value[~where], 0.0)
    np.testing.assert_allclose(value[where], mapl(*(a[where] for a in args), SIGN[where]), rtol=1e-6)
    for g in grads:
        assert np.all(np.isfinite(g))
        np.testing.assert_array_equal(g[~where], 0.0)
    assert not np.any(mapl(*args, SIGN, where=np.zeros(6, bool)))
