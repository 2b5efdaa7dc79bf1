"""RRPO against a float64 reference, its limits and the support of its gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from losses.loss_checks import check_against, check_bfloat16, check_vmap, sp

from jaxpo import losses

N, T = 5, 8
LENGTHS = ((1, 4), (6, 2), (3, 3), (8, 1), (5, 0))
REAL = (0, 1, 2, 3, 4)

HERE = np.ones(N, bool)


@jax.jit
def evaluate(args, beta, alpha, where):
    """Loss per pair and the gradients of its sum in REAL, one program for every setting."""

    def total(real):
        loss = losses.rrpo(*real, *args[5:], beta=beta, alpha=alpha, where=where)
        return jnp.sum(loss), loss

    grads, loss = jax.grad(total, has_aux=True)(args[:5])
    return loss, grads


def rrpo(*args, beta=0.1, alpha=0.01, where=HERE):
    loss, grads = evaluate(tuple(args), beta, alpha, where)
    return np.asarray(loss), [np.asarray(g) for g in grads]


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
        return losses.rrpo(*a, beta=0.6, alpha=0.2)

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
    p_w, p_l, r_w, r_l = (
        np.array([np.sum(x[m], dtype=float) for x, m in zip(args[k], args[5 + k % 2], strict=True)]) for k in range(4)
    )
    every = np.ones((N, T), np.int32)
    got, _ = rrpo(*args[:7], every, 3 * every, beta=0.3, alpha=0.0)
    np.testing.assert_allclose(got, sp(-0.3 * (p_w - r_w - p_l + r_l)), rtol=1e-5)


def test_without_a_marked_phrase_the_gradient_is_that_of_the_kl():
    args = pair()
    none = np.zeros((N, T), np.int32)
    value, grads = rrpo(*args[:7], none, none, beta=0.3, alpha=0.5)
    kl = np.array([np.sum(k[m]) for k, m in zip(args[4], args[5], strict=True)])
    np.testing.assert_allclose(value, np.log(2) + 0.5 * kl, rtol=1e-5)
    assert all(not g.any() for g in grads[:4])
    assert grads[4].any()


def test_at_the_reference_the_loss_is_log_2():
    a, b, _, _, kl, *rest = pair()
    got, _ = rrpo(a, b, a, b, 0.0 * kl, *rest)
    np.testing.assert_allclose(got, np.log(2), rtol=1e-6)


def test_shared_text_and_padding_do_not_enter_the_reward():
    args = [np.array(a) for a in pair()]
    before, _ = rrpo(*args, alpha=0.0)
    rng = np.random.default_rng(9)
    for k in range(4):
        shared = args[5 + k % 2] & (args[7 + k % 2] == 0)
        args[k][shared] += rng.standard_normal(shared.sum()).astype(np.float32)
    for k in range(2):  # phrase numbers of padding
        args[7 + k][~args[5 + k]] = 7
    np.testing.assert_array_equal(rrpo(*args, alpha=0.0)[0], before)


def test_only_the_total_over_phrases_counts_and_no_phrase_is_lost():
    args = pair()
    renumbered = [np.where(f > 0, 9 - f, 0).astype(np.int32) for f in args[7:]]
    np.testing.assert_array_equal(rrpo(*args[:7], *renumbered)[0], rrpo(*args)[0])
    # A batch without shared text: the released code would take phrase 1 for the unmarked text.
    one = np.ones((N, T), np.int32)
    _, grads = rrpo(*args[:7], one, one)
    assert np.all(grads[0][args[5]] != 0)


def test_absent_and_empty_rows_are_zero_whatever_they_hold():
    args = [np.array(a) for a in pair(1)]
    args[5][2], args[6][2] = False, False
    where = np.array([True, False, True, True, False])
    for i in REAL:
        args[i][1], args[i][4] = np.nan, np.inf
    value, grads = rrpo(*args, where=where)
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
        value, grads = rrpo(*args, beta=1.0)
        assert np.all(np.isfinite(value))
        assert all(np.all(np.isfinite(g)) for g in grads)
    marked = args[5] & (args[7] > 0)
    np.testing.assert_allclose(grads[0][marked], -1.0, rtol=1e-6)  # sign = -1: the pair is fully misranked
