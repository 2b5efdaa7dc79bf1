"""RRPO against a float64 reference, its limits and the support of its gradients."""

import functools

import numpy as np
from losses.loss_checks import (
    check_against,
    check_bfloat16,
    check_extreme,
    check_vmap,
    jitted,
    sig,
    sp,
    value_and_grads,
)

from jaxpo import losses

N, T = 5, 8
LENGTHS = ((1, 4), (6, 2), (3, 3), (8, 1), (5, 0))
REAL = (0, 1, 2, 3, 4)
rrpo = jitted(losses.rrpo)


@functools.cache
def pair(seed=0):
    """The nine arguments; NaN and arbitrary phrase numbers off the responses."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((2, N, T), bool)
    for i, lengths in enumerate(LENGTHS):
        for side, length in enumerate(lengths):
            start = rng.integers(0, T - length + 1)
            masks[side, i, start : start + length] = True
    logps = [np.where(masks[k % 2], -2.0 + rng.standard_normal((N, T)), np.nan) for k in range(4)]
    kl = np.where(masks[0], rng.gamma(1.0, 0.5, (N, T)), np.nan)
    phrases = [rng.integers(0, 4, (N, T)).astype(np.int32) for _ in range(2)]
    return (*(x.astype(np.float32) for x in (*logps, kl)), *masks, *phrases)


def reference(beta, alpha):
    def loss(pw, pl, rw, rl, kw, mw, ml, fw, fl):
        out = []
        for i in range(len(mw)):
            ratio = lambda p, r, m, f, i=i: sum(  # noqa: E731
                float(p[i][t]) - float(r[i][t]) for t in range(m.shape[1]) if m[i][t] and f[i][t] != 0
            )
            u = ratio(np.asarray(pw), rw, mw, fw) - ratio(np.asarray(pl), rl, ml, fl)
            out.append(sp(-beta * u) + alpha * np.sum(np.asarray(kw, np.float64)[i][mw[i]]))
        return np.array(out)

    return loss


def test_value_and_gradient_on_the_marked_positions_alone():
    def loss(*a):
        return rrpo(*a, beta=0.6, alpha=0.2)

    args = pair()
    value, grads = check_against(loss, reference(0.6, 0.2), args, REAL)
    mw, ml, fw, fl = args[5:]
    marked_w, marked_l = mw & (fw > 0), ml & (fl > 0)
    for grad, marked in zip(grads[:4], (marked_w, marked_l) * 2, strict=True):
        np.testing.assert_array_equal(grad[~marked], 0.0)
        assert np.all(grad[marked] != 0)
    np.testing.assert_allclose(grads[4], np.where(mw, 0.2, 0.0), rtol=1e-6)  # KL: the whole chosen response
    reward = value - 0.2 * np.array([np.sum(k[m]) for k, m in zip(args[4], mw, strict=True)])
    slope = np.broadcast_to((-0.6 * (1 - np.exp(-reward)))[:, None], mw.shape)  # -beta sigmoid(-beta u)
    np.testing.assert_allclose(grads[0][marked_w], slope[marked_w], rtol=1e-4)
    np.testing.assert_allclose(grads[1][marked_l], -slope[marked_l], rtol=1e-4)
    check_bfloat16(loss, args, REAL)
    check_vmap(loss, args)


def test_every_token_marked_without_the_kl_is_dpo():
    args = pair()
    sums = [
        np.array([np.sum(x[m]) for x, m in zip(args[k], args[5 + k % 2], strict=True)], np.float32) for k in range(4)
    ]
    every = np.ones((N, T), np.int32)
    got = rrpo(*args[:7], every, 3 * every, beta=0.3, alpha=0.0)
    np.testing.assert_allclose(got, losses.dpo(*sums, beta=0.3), rtol=1e-5)


def test_without_a_marked_phrase_the_gradient_is_that_of_the_kl():
    args = pair()
    none = np.zeros((N, T), np.int32)
    value, grads = value_and_grads(lambda *a: rrpo(*a, none, none, beta=0.3, alpha=0.5), args[:7], REAL)
    kl = np.array([np.sum(k[m]) for k, m in zip(args[4], args[5], strict=True)])
    np.testing.assert_allclose(value, np.log(2) + 0.5 * kl, rtol=1e-5)
    assert all(not g.any() for g in grads[:4])
    assert grads[4].any()


def test_at_the_reference_the_loss_is_log_2():
    a, b, _, _, kl, *rest = pair()
    got = rrpo(a, b, a, b, 0.0 * kl, *rest)
    np.testing.assert_allclose(got, np.log(2), rtol=1e-6)


def test_shared_text_and_padding_do_not_enter_the_reward():
    args = [np.array(a) for a in pair()]
    before = rrpo(*args, alpha=0.0)
    rng = np.random.default_rng(9)
    for k in range(4):
        shared = args[5 + k % 2] & (args[7 + k % 2] == 0)
        args[k][shared] += rng.standard_normal(shared.sum()).astype(np.float32)
    for k in range(2):  # phrase numbers of padding
        args[7 + k][~args[5 + k]] = 7
    np.testing.assert_array_equal(rrpo(*args, alpha=0.0), before)


def test_only_the_total_over_phrases_counts_and_no_phrase_is_lost():
    args = pair()
    renumbered = [np.where(f > 0, 9 - f, 0).astype(np.int32) for f in args[7:]]
    np.testing.assert_array_equal(rrpo(*args[:7], *renumbered), rrpo(*args))
    # A batch without shared text: the released code would take phrase 1 for the unmarked text.
    one = np.ones((N, T), np.int32)
    _, (grad,) = value_and_grads(lambda *a: rrpo(*a, one, one), args[:7], (0,))
    assert np.all(grad[args[5]] != 0)


def test_absent_and_empty_rows_are_zero_whatever_they_hold():
    args = [np.array(a) for a in pair(1)]
    args[5][2], args[6][2] = False, False
    where = np.array([True, False, True, True, False])
    for i in REAL:
        args[i][1], args[i][4] = np.nan, np.inf
    value, grads = value_and_grads(lambda *a: rrpo(*a, where=where), args, REAL)
    np.testing.assert_array_equal(value[[1, 2, 4]], 0.0)
    for grad in grads:
        np.testing.assert_array_equal(grad[[1, 2, 4]], 0.0)
        assert np.all(np.isfinite(grad))
    kept = [a[[0, 3]] for a in args]
    np.testing.assert_allclose(value[[0, 3]], reference(0.1, 0.01)(*kept), rtol=1e-5)


def test_finite_at_extremes():
    args = list(pair())
    for sign in (1.0, -1.0):
        args[0], args[1] = np.full((N, T), sign * 1e4, np.float32), np.full((N, T), -sign * 1e4, np.float32)
        args[4] = np.full((N, T), 1e4, np.float32)
        _, grads = check_extreme(lambda *a: rrpo(*a, beta=1.0), args, REAL)
    marked = args[5] & (args[7] > 0)
    np.testing.assert_allclose(grads[0][marked], -sig(1e9), rtol=1e-6)  # sign = -1: the pair is fully misranked
