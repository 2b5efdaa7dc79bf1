"""DPO, SimPO, CPO, TDPO2, LD-DPO, DOVE and the length-normalised family against float64 references."""

import subprocess
import sys

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
from jaxpo.losses.length_normalized import apo_down_term, apo_zero_term, hinged, squared

cpo = jitted(losses.cpo)
dove = jitted(losses.dove)
dpo = jitted(losses.dpo)
lddpo = jitted(losses.lddpo)
length_normalized = jitted(losses.length_normalized)
sigmoid_norm = jitted(losses.sigmoid_norm)
simpo = jitted(losses.simpo)
tdpo2 = jitted(losses.tdpo2)

ALL4 = (0, 1, 2, 3)


def margin(pw, pl, rw, rl):
    return (np.asarray(pw, np.float64) - rw) - (np.asarray(pl, np.float64) - rl)


# --- DPO ---


@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_dpo_value_and_gradient(eps):
    def reference(pw, pl, rw, rl):
        h = 0.3 * margin(pw, pl, rw, rl)
        return (1 - eps) * sp(-h) + eps * sp(h)

    def loss(*a):
        return dpo(*a, beta=0.3, label_smoothing=eps)

    args = quad()
    _, grads = check_against(loss, reference, args, ALL4)
    h = 0.3 * margin(*args)
    closed = -0.3 * ((1 - eps) * sig(-h) - eps * sig(h))
    np.testing.assert_allclose(grads[0], closed, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(grads[1], -grads[0], rtol=1e-6)
    check_bfloat16(loss, args, ALL4)
    check_vmap(loss, args)


def test_dpo_at_the_reference_is_log_2_with_slope_half_beta():
    p = quad()[0]
    value, grads = value_and_grads(lambda *a: dpo(*a, beta=0.1), (p, p, p, p), ALL4)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(grads[0], -0.05, rtol=1e-6)


def test_half_label_smoothing_is_symmetric_under_a_swap():
    pw, pl, rw, rl = quad()
    there = dpo(pw, pl, rw, rl, label_smoothing=0.5)
    back = dpo(pl, pw, rl, rw, label_smoothing=0.5)
    np.testing.assert_allclose(there, back, rtol=1e-6)


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_dpo_is_finite_at_extreme_log_ratios(eps):
    value, grads = check_extreme(lambda *a: dpo(*a, beta=1.0, label_smoothing=eps), EXTREME, ALL4)
    np.testing.assert_allclose(value, [eps * 1e4, (1 - eps) * 1e4, (1 - eps) * 1e4, eps * 1e4])
    np.testing.assert_allclose(grads[0], [eps, eps - 1, eps - 1, eps], atol=1e-7)


PAIRWISE = {
    "dpo": (lambda a, w: dpo(*a[:4], where=w), ALL4),
    "simpo": (lambda a, w: simpo(a[0], a[1], a[4], a[5], where=w), (0, 1)),
    "cpo": (lambda a, w: sum(cpo(a[0], a[1], where=w)), (0, 1)),
    "tdpo2": (lambda a, w: tdpo2(*a, where=w), ALL4),
    "sigmoid_norm": (lambda a, w: sigmoid_norm(*a, where=w), ALL4),
}


@pytest.mark.parametrize("name", PAIRWISE)
def test_absent_rows_give_zero_loss_and_gradient_whatever_they_hold(name):
    f, wrt = PAIRWISE[name]
    ones = np.full(6, 5.0, np.float32)
    args = [a.copy() for a in (*quad(), ones, ones)]
    where = np.array([True, False, True, False, True, True])
    for a in args:
        a[1], a[3] = np.nan, np.inf
    value, grads = value_and_grads(lambda *a: f(a, where), args, wrt)
    dense, dense_grads = value_and_grads(lambda *a: f(a, None), [a[where] for a in args], wrt)
    np.testing.assert_array_equal(value[~where], 0.0)
    np.testing.assert_allclose(value[where], dense, rtol=1e-6)
    for g, d in zip(grads, dense_grads, strict=True):
        np.testing.assert_array_equal(g[~where], 0.0)
        np.testing.assert_allclose(g[where], d, rtol=1e-6)


# --- SimPO, CPO ---


def test_simpo_value_gradient_and_one_token_responses():
    def reference(pw, pl, nw, nl):
        h = 2.5 * (pw / nw - pl / nl) - 0.7
        return 0.9 * sp(-h) + 0.1 * sp(h)

    def loss(*a):
        return simpo(*a, beta=2.5, gamma=0.7, label_smoothing=0.1)

    pw, pl, *_ = quad()
    n = np.array([1, 4, 9, 1, 30, 7], np.float32)
    check_against(loss, reference, (pw, pl, n, n[::-1].copy()), (0, 1))
    check_bfloat16(loss, (pw, pl, n, n), (0, 1))
    check_vmap(loss, (pw, pl, n, n))
    check_extreme(loss, (*EXTREME[:2], np.ones(4, np.float32), np.ones(4, np.float32)), (0, 1))


def test_simpo_without_a_token_is_zero():
    zero = np.zeros(2, np.float32)
    value, grads = value_and_grads(simpo, (zero, zero, zero, zero), (0, 1))
    np.testing.assert_array_equal(value, 0.0)
    np.testing.assert_array_equal(grads[0], 0.0)


def test_cpo_terms_and_limits():
    pw, pl, *_ = quad()

    def reference(pw, pl):
        h = 0.2 * (np.asarray(pw, np.float64) - pl)
        return 0.8 * sp(-h) + 0.2 * sp(h) - 1.5 * np.asarray(pw, np.float64)

    check_against(lambda *a: sum(cpo(*a, beta=0.2, alpha=1.5, label_smoothing=0.2)), reference, (pw, pl), (0, 1))
    prefer, nll = cpo(pw, pl, beta=0.2, alpha=2.0)
    np.testing.assert_allclose(nll, -2.0 * pw, rtol=1e-6)
    zero = np.zeros_like(pw)
    np.testing.assert_allclose(prefer, dpo(pw, pl, zero, zero, beta=0.2), rtol=1e-6)
    n = np.full_like(pw, 8.0)
    np.testing.assert_allclose(simpo(pw, pl, n, n, beta=8 * 0.2, gamma=0.0), prefer, rtol=1e-5)
    check_extreme(lambda *a: sum(cpo(*a)), EXTREME[:2], (0, 1))


# --- TDPO2 ---


def kls(seed=3, n=6):
    rng = np.random.default_rng(seed)
    return tuple(rng.gamma(2.0, 2.0, n).astype(np.float32) for _ in range(2))


def test_tdpo2_value_and_gradient_without_a_path_through_the_chosen_kl():
    kw, kl = kls()

    def reference(pw, pl, rw, rl, klose):
        return sp(-0.4 * (margin(pw, pl, rw, rl) - 0.6 * (klose - np.asarray(kw, np.float64))))

    def loss(*a):
        return tdpo2(*a[:4], kw, a[4], beta=0.4, alpha=0.6)

    args = (*quad(), kl)
    check_against(loss, reference, args, (0, 1, 2, 3, 4))
    _, grads = value_and_grads(lambda *a: tdpo2(*a, beta=0.4, alpha=0.6), (*quad(), kw, kl), (4, 5))
    np.testing.assert_array_equal(grads[0], 0.0)
    assert np.all(grads[1] > 0)
    check_bfloat16(lambda *a: tdpo2(*a), (*quad(), kw, kl), tuple(range(6)))
    check_vmap(tdpo2, (*quad(), kw, kl))


def test_tdpo2_limits():
    kw, kl = kls()
    args = quad()
    np.testing.assert_allclose(tdpo2(*args, kw, kl, alpha=0.0), dpo(*args), rtol=1e-6)
    np.testing.assert_allclose(tdpo2(*args, kw, kw), dpo(*args), rtol=1e-6)

    def tdpo1(pw, pl, rw, rl, kc, kr):
        return sp(-0.1 * (margin(pw, pl, rw, rl) - (np.asarray(kr, np.float64) - kc)))

    value, grads = value_and_grads(lambda *a: tdpo2(*a, alpha=1.0), (*args, kw, kl), (4,))
    np.testing.assert_allclose(value, tdpo1(*args, kw, kl), rtol=1e-5)
    assert np.all(np.abs(numeric_gradient(tdpo1, (*args, kw, kl), 4)) > 1e-4)
    np.testing.assert_array_equal(grads[0], 0.0)


def test_tdpo2_is_finite_at_extremes():
    big = np.full(4, 1e4, np.float32)
    check_extreme(lambda *a: tdpo2(*a, beta=1.0), (*EXTREME, big, big[::-1] * 0.5), tuple(range(6)))


# --- token-level pairs ---


def token_pair(seed=0, n=5, t=9, lengths=((1, 4), (6, 2), (3, 3), (8, 1), (5, 7))):
    """Four `[n, t]` arrays and two masks; responses start anywhere and padding holds NaN."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((2, n, t), bool)
    for i, pair in enumerate(lengths):
        for side, length in enumerate(pair):
            start = rng.integers(0, t - length + 1)
            masks[side, i, start : start + length] = True
    arrays = []
    for k in range(4):
        x = (-2.0 + rng.standard_normal((n, t))).astype(np.float32)
        arrays.append(np.where(masks[k % 2], x, np.nan).astype(np.float32))
    return tuple(arrays), masks[0], masks[1]


def rows(x, mask):
    """The valid entries of each row, float64."""
    return [np.asarray(a, np.float64)[m] for a, m in zip(x, mask, strict=True)]


def lddpo_reference(alpha, beta, weight_reference=True):
    def reference(pw, pl, rw, rl, mw, ml):
        out = []
        parts = zip(rows(pw, mw), rows(pl, ml), rows(rw, mw), rows(rl, ml), strict=True)
        for a, b, c, d in parts:
            k = min(len(a), len(b))
            beyond = alpha if weight_reference else 1.0
            chosen = a[:k].sum() + alpha * a[k:].sum() - c[:k].sum() - beyond * c[k:].sum()
            rejected = b[:k].sum() + alpha * b[k:].sum() - d[:k].sum() - beyond * d[k:].sum()
            out.append(sp(-beta * (chosen - rejected)))
        return np.array(out)

    return reference


@pytest.mark.parametrize("weight_reference", [True, False])
def test_lddpo_value_and_gradient(weight_reference):
    arrays, mw, ml = token_pair()

    def loss(*a):
        return lddpo(*a, beta=0.5, alpha=0.3, weight_reference=weight_reference)

    check_against(loss, lddpo_reference(0.3, 0.5, weight_reference), (*arrays, mw, ml), ALL4)


def test_lddpo_limits():
    arrays, mw, ml = token_pair()
    sums = [np.array([r.sum() for r in rows(x, m)], np.float32) for x, m in zip(arrays, (mw, ml, mw, ml), strict=True)]
    np.testing.assert_allclose(lddpo(*arrays, mw, ml, alpha=1.0), dpo(*sums), rtol=1e-5)
    equal = mw.sum(1) == ml.sum(1)
    assert equal.any()
    np.testing.assert_allclose(lddpo(*arrays, mw, ml, alpha=0.2)[equal], dpo(*sums)[equal], rtol=1e-5)
    cut_w = mw & (np.cumsum(mw, 1) <= np.minimum(mw.sum(1), ml.sum(1))[:, None])
    cut_l = ml & (np.cumsum(ml, 1) <= np.minimum(mw.sum(1), ml.sum(1))[:, None])
    cut = lddpo(*arrays, cut_w, cut_l, alpha=1.0)
    np.testing.assert_allclose(lddpo(*arrays, mw, ml, alpha=0.0), cut, rtol=1e-6)


def test_lddpo_at_the_reference_is_log_2_only_when_both_sides_are_weighted():
    (a, b, *_), mw, ml = token_pair()
    np.testing.assert_allclose(lddpo(a, b, a, b, mw, ml), np.log(2), rtol=1e-6)
    one_sided = lddpo(a, b, a, b, mw, ml, weight_reference=False)
    assert np.abs(np.asarray(one_sided) - np.log(2)).max() > 1e-2


def test_lddpo_tail_gradient_is_alpha_times_the_shared_one():
    arrays, mw, ml = token_pair()
    _, (grad,) = value_and_grads(lambda *a: lddpo(*a, alpha=0.25), (*arrays, mw, ml), (0,))
    np.testing.assert_array_equal(grad[~mw], 0.0)
    for row, mask, shared in zip(grad, mw, ml.sum(1), strict=True):
        on = row[mask]
        np.testing.assert_allclose(on[shared:], 0.25 * on[0], rtol=1e-6)
        np.testing.assert_allclose(on[:shared], on[0], rtol=1e-6)


def test_lddpo_beside_an_empty_partner_scales_the_margin_by_alpha():
    arrays, mw, ml = token_pair()
    none = np.zeros_like(ml)
    got = lddpo(*arrays, mw, none, beta=0.4, alpha=0.5)
    rho = np.array([a.sum() - c.sum() for a, c in zip(rows(arrays[0], mw), rows(arrays[2], mw), strict=True)])
    np.testing.assert_allclose(got, sp(-0.4 * 0.5 * rho), rtol=1e-5)


def dove_args():
    arrays, mw, ml = token_pair(seed=4)
    rng = np.random.default_rng(7)
    prompt_w, prompt_l = (~m & (rng.random(m.shape) < 0.6) for m in (mw, ml))
    filled = []
    for x, m, p in zip(arrays, (mw, ml, mw, ml), (prompt_w, prompt_l) * 2, strict=True):
        filled.append(np.where(p, -rng.random(m.shape), x).astype(np.float32))
    return tuple(filled), mw, ml, prompt_w, prompt_l


@pytest.mark.parametrize("joint", [True, False])
def test_dove_value_and_gradient(joint):
    arrays, mw, ml, qw, ql = dove_args()

    def reference(pw, pl, rw, rl):
        on_w, on_l = (mw | qw, ml | ql) if joint else (mw, ml)
        parts = zip(rows(pw, on_w), rows(rw, on_w), rows(pl, on_l), rows(rl, on_l), strict=True)
        return np.array([sp(-0.3 * ((a.sum() - c.sum()) - (b.sum() - d.sum()))) for a, c, b, d in parts])

    value, grads = check_against(lambda *a: dove(*a, mw, ml, qw, ql, beta=0.3, joint=joint), reference, arrays, ALL4)
    slope = 0.3 * (1 - np.exp(-value))
    np.testing.assert_array_equal(grads[0][~(mw | qw)], 0.0)
    expected = np.where(qw, -slope[:, None] if joint else 0.0, 0.0)
    np.testing.assert_allclose(np.where(qw, grads[0], 0.0), expected, rtol=1e-4, atol=1e-7)
    expected = np.where(ql, slope[:, None] if joint else 0.0, 0.0)
    np.testing.assert_allclose(np.where(ql, grads[1], 0.0), expected, rtol=1e-4, atol=1e-7)


def test_dove_with_equal_prompts_is_dpo():
    (pw, pl, rw, rl), mw, ml = token_pair(seed=5, lengths=((3, 4), (5, 2), (3, 3), (4, 1), (5, 4)))
    rng = np.random.default_rng(1)
    n = len(pw)
    shared_policy, shared_ref = (-rng.random((n, 4)).astype(np.float32) for _ in range(2))

    def with_prompt(x, prompt):
        return np.concatenate([prompt, x], axis=1)

    pad = np.zeros((n, 4), bool)
    prompt_mask = np.concatenate([~pad, np.zeros_like(mw)], axis=1)
    long = [with_prompt(x, p) for x, p in zip((pw, pl, rw, rl), (shared_policy,) * 2 + (shared_ref,) * 2, strict=True)]
    masks = [np.concatenate([pad, m], axis=1) for m in (mw, ml)]
    joint = dove(*long, *masks, prompt_mask, prompt_mask)
    sums = [
        np.array([r.sum() for r in rows(x, m)], np.float32) for x, m in zip((pw, pl, rw, rl), (mw, ml) * 2, strict=True)
    ]
    np.testing.assert_allclose(joint, dpo(*sums), rtol=1e-5)
    np.testing.assert_allclose(dove(*long, *masks, prompt_mask, prompt_mask, joint=False), dpo(*sums), rtol=1e-5)


def test_dove_identities():
    (pw, pl, rw, rl), mw, ml, qw, ql = dove_args()
    h = sum(
        sign * np.array([r.sum() for r in rows(x, m)])
        for sign, x, m in ((1, pw, mw | qw), (-1, rw, mw | qw), (-1, pl, ml | ql), (1, rl, ml | ql))
    )
    there = dove(pw, pl, rw, rl, mw, ml, qw, ql, beta=0.3)
    back = dove(pl, pw, rl, rw, ml, mw, ql, qw, beta=0.3)
    np.testing.assert_allclose(back - there, 0.3 * h, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dove(pw, pl, pw, pl, mw, ml, qw, ql), np.log(2), rtol=1e-6)


TOKEN_LEVEL = {
    "lddpo": lambda a, mw, ml, w: lddpo(*a, mw, ml, beta=1.0, where=w),
    "dove": lambda a, mw, ml, w: dove(*a, mw, ml, np.zeros_like(mw), np.zeros_like(ml), beta=1.0, where=w),
}


@pytest.mark.parametrize("name", TOKEN_LEVEL)
def test_token_level_empty_rows_extremes_and_bfloat16(name):
    f = TOKEN_LEVEL[name]
    arrays, mw, ml = token_pair()
    mw, ml = mw.copy(), ml.copy()
    mw[1] = ml[1] = False
    where = np.array([True, True, False, True, True])
    value, grads = value_and_grads(lambda *a: f(a, mw, ml, where), arrays, ALL4)
    np.testing.assert_array_equal(value[[1, 2]], 0.0)
    assert np.all(value[[0, 3, 4]] > 0)
    for g in grads:
        assert np.all(np.isfinite(g))
        np.testing.assert_array_equal(g[[1, 2]], 0.0)
    first = np.where(mw & (np.cumsum(mw, 1) == 1), np.float32(1e4), np.float32(0))
    for sign in (1, -1):
        zero = np.zeros_like(first)
        check_extreme(lambda *a: f(a, mw, ml, None), (sign * first, zero, zero, zero), ALL4)
    clean = tuple(np.nan_to_num(a) for a in arrays)
    check_bfloat16(lambda *a: f(a, mw, ml, None), clean, ALL4)
    mapped = jax.vmap(lambda *a: f(a, mw, ml, None))(*(jnp.stack([a, 2 * a]) for a in clean))
    np.testing.assert_allclose(mapped[0], f(clean, mw, ml, None), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", TOKEN_LEVEL)
def test_token_level_padding_and_place_do_not_matter(name):
    f = TOKEN_LEVEL[name]
    arrays, mw, ml = token_pair()
    base = f(arrays, mw, ml, None)
    shifted = [np.pad(a, ((0, 0), (3, 2)), constant_values=np.nan) for a in arrays]
    moved = f(shifted, np.pad(mw, ((0, 0), (3, 2))), np.pad(ml, ((0, 0), (3, 2))), None)
    np.testing.assert_allclose(moved, base, rtol=1e-6)


# --- the length-normalised family ---

N_W = np.array([1, 4, 9, 1, 30, 7], np.float32)
N_L = np.array([7, 3, 1, 12, 8, 1], np.float32)


def test_sigmoid_norm_value_and_gradient():
    def reference(pw, pl, rw, rl):
        a, b = (np.asarray(pw, np.float64) - rw) / N_W, (np.asarray(pl, np.float64) - rl) / N_L
        return sp(-5.0 * (a - b))

    def loss(*a):
        return sigmoid_norm(*a, N_W, N_L)

    args = quad()
    _, grads = check_against(loss, reference, args, ALL4)
    u = 5.0 * ((args[0].astype(np.float64) - args[2]) / N_W - (args[1].astype(np.float64) - args[3]) / N_L)
    np.testing.assert_allclose(grads[0], -5.0 * sig(-u) / N_W, rtol=1e-4, atol=1e-6)
    check_bfloat16(loss, args, ALL4)
    check_vmap(sigmoid_norm, (*args, N_W, N_L))
    check_extreme(lambda *a: sigmoid_norm(*a, N_W[:4], N_L[:4]), EXTREME, ALL4)


def test_sigmoid_norm_laws():
    pw, pl, rw, rl = quad()
    value, grads = value_and_grads(lambda *a: sigmoid_norm(*a, N_W, N_L), (pw, pl, pw, pl), ALL4)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(grads[0], -5.0 / (2 * N_W), rtol=1e-6)
    once = sigmoid_norm(pw, pl, rw, rl, N_W, N_L)
    thrice = sigmoid_norm(3 * pw, 3 * pl, 3 * rw, 3 * rl, 3 * N_W, 3 * N_L)
    np.testing.assert_allclose(thrice, once, rtol=1e-5)
    n = np.full_like(pw, 10.0)
    np.testing.assert_allclose(sigmoid_norm(pw, pl, rw, rl, n, n), dpo(pw, pl, rw, rl, beta=0.5), rtol=1e-5)


@pytest.mark.parametrize(
    ("relative", "f"),
    [(hinged, lambda u: np.maximum(0, 1 - u)), (squared, lambda u: u**2), (None, lambda u: 0 * u)],
    ids=["hinge", "squared", "none"],
)
@pytest.mark.parametrize(
    ("absolute", "delta"),
    [
        (None, lambda a, b: 0 * a),
        (apo_zero_term, lambda a, b: sig(b) - sig(a)),
        (apo_down_term, lambda a, b: sig(a) - sig(a - b)),
    ],
    ids=["none", "zero", "down"],
)
def test_length_normalized_members(relative, f, absolute, delta):
    if relative is None and absolute is None:
        assert not np.any(length_normalized(*quad(), N_W, N_L, relative=None))
        return

    def reference(pw, pl, rw, rl):
        a = 2.0 * (np.asarray(pw, np.float64) - rw) / N_W
        b = 2.0 * (np.asarray(pl, np.float64) - rl) / N_L
        return 0.7 * f(a - b - 0.25) + 0.4 * delta(a, b)

    check_against(
        lambda *a: length_normalized(
            *a, N_W, N_L, beta=2.0, relative=relative, margin=0.25, omega=0.7, absolute=absolute, lam=0.4
        ),
        reference,
        quad(seed=2),
        ALL4,
    )


def test_length_normalized_limits():
    pw, pl, rw, rl = quad()
    zero = np.zeros_like(pw)
    got = length_normalized(pw, pl, zero, zero, N_W, N_L, beta=2.0, margin=0.5)
    np.testing.assert_allclose(got, simpo(pw, pl, N_W, N_L, beta=2.0, gamma=0.5), rtol=1e-6)
    tau = 0.3
    ipo = length_normalized(pw, pl, rw, rl, N_W, N_L, beta=tau, relative=squared, margin=0.5, omega=1 / tau**2)
    expected = ((pw - rw) / N_W - (pl - rl) / N_L - 1 / (2 * tau)) ** 2
    np.testing.assert_allclose(ipo, expected, rtol=1e-5)


def test_a_common_shift_of_both_rewards_moves_only_the_absolute_term():
    pw, pl, rw, rl = quad()
    up, lo = pw + 0.3 * N_W, pl + 0.3 * N_L
    relative = sigmoid_norm(pw, pl, rw, rl, N_W, N_L)
    np.testing.assert_allclose(sigmoid_norm(up, lo, rw, rl, N_W, N_L), relative, rtol=1e-4, atol=1e-5)

    def absolute(a, b):
        return length_normalized(a, b, rw, rl, N_W, N_L, relative=None, absolute=apo_zero_term)

    assert np.abs(np.asarray(absolute(up, lo) - absolute(pw, pl))).max() > 1e-2


def test_apo_zero_slopes_are_bounded_by_beta_over_four_lengths():
    _, grads = value_and_grads(
        lambda *a: length_normalized(*a, N_W, N_L, relative=None, absolute=apo_zero_term), quad(), (0, 1)
    )
    assert np.all(np.abs(grads[0]) <= 5.0 / (4 * N_W) + 1e-6)
    assert np.all(np.abs(grads[1]) <= 5.0 / (4 * N_L) + 1e-6)


# --- the package ---


def test_importing_a_loss_loads_jax_and_nothing_else_of_weight():
    code = (
        "import sys; from jaxpo.losses import dpo; assert callable(dpo);"
        "bad = [m for m in ('orbax', 'grain', 'tokenizers', 'flax', 'tyro', 'optax', 'array_record', 'torch',"
        " 'jaxpo.cli', 'jaxpo.data', 'jaxpo.models', 'jaxpo.objectives', 'jaxpo.train') if m in sys.modules];"
        "assert 'jax' in sys.modules; print(bad); sys.exit(bool(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
