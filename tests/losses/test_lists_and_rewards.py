"""LiPO-lambda and the Bradley-Terry reward model against float64 references."""

import itertools
import math

import jax
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
    sig,
    sp,
    value_and_grads,
)

from jaxpo import losses
from jaxpo.losses.lipo import ranks as eager_ranks

ranks = jitted(eager_ranks)
bradley_terry = jitted(losses.bradley_terry)
dpo = jitted(losses.dpo)
label_pairs = jitted(losses.label_pairs)
lipo = jitted(losses.lipo)

K = 7


def ranked_lists(seed=0, n=4):
    """Log-probs, reference, labels with ties, and a mask with lists of 7, 4, 1 and 0 responses."""
    rng = np.random.default_rng(seed)
    p, r = (logps(rng, (n, K)) for _ in range(2))
    labels = np.round(rng.random((n, K)), 1).astype(np.float32)
    labels[0, 2] = labels[0, 5]
    where = np.ones((n, K), bool)
    where[1, [0, 3, 6]] = False
    where[2, 1:] = False
    where[3] = False
    for x in (p, r, labels):
        x[~where] = np.nan
    return p, r, labels, where


def lipo_reference(labels, where, *, beta, gain=True, discount=True, base=math.e, frozen=None):
    """Double loop over pairs; `frozen` fixes the scores that rank the responses."""

    def reference(p, r):
        out = []
        for b in range(len(p)):
            here = [i for i in range(K) if where[b, i]]
            s = {i: beta * (float(p[b, i]) - float(r[b, i])) for i in here}
            by = s if frozen is None else {i: beta * (float(frozen[0][b, i]) - float(frozen[1][b, i])) for i in here}
            order = sorted(here, key=lambda i: -by[i])
            tau = {i: order.index(i) + 1 for i in here}
            total = 0.0
            for i, j in itertools.permutations(here, 2):
                a, c = float(labels[b, i]), float(labels[b, j])
                if a > c:
                    g = abs(2**a - 2**c) if gain else 1.0
                    d = abs(1 / math.log(1 + tau[i], base) - 1 / math.log(1 + tau[j], base)) if discount else 1.0
                    total += g * d * float(sp(-(s[i] - s[j])))
            out.append(total)
        return np.array(out)

    return reference


@pytest.mark.parametrize(("gain", "discount", "base"), [(True, True, math.e), (True, True, 2.0), (False, False, 2.0)])
def test_lipo_value_and_gradient(gain, discount, base):
    p, r, labels, where = ranked_lists()
    kw = {"gain": gain, "discount": discount}
    reference = lipo_reference(labels, where, beta=0.5, base=base, frozen=(p, r), **kw)
    value, grads = check_against(
        lambda p, r: lipo(p, r, labels, where, beta=0.5, log_base=base, **kw), reference, (p, r), (0, 1)
    )
    np.testing.assert_array_equal(value[2:], 0.0)
    for g in grads:
        np.testing.assert_array_equal(g[~where], 0.0)
    assert np.all(value[:2] > 0)


def test_lipo_on_two_responses_is_dpo():
    rng = np.random.default_rng(1)
    p, r = (logps(rng, (5, 2)) for _ in range(2))
    labels, where = np.tile(np.float32([1, 0]), (5, 1)), np.ones((5, 2), bool)
    pair = dpo(p[:, 0], p[:, 1], r[:, 0], r[:, 1], beta=0.3)
    got = lipo(p, r, labels, where, beta=0.3)
    np.testing.assert_allclose(got, pair * (1 / math.log(2) - 1 / math.log(3)), rtol=1e-5)
    plain = lipo(p, r, labels, where, beta=0.3, gain=False, discount=False)
    np.testing.assert_allclose(plain, pair, rtol=1e-5)


def test_weight_is_the_change_of_dcg_when_two_responses_swap():
    rng = np.random.default_rng(3)
    s, labels = rng.normal(size=K), rng.random(K)
    tau = np.asarray(ranks(s[None].astype(np.float32), np.ones((1, K), bool)))[0]
    gains = 2.0**labels - 1
    dcg = lambda tau: np.sum(gains / np.log(1 + tau))  # noqa: E731
    for i, j in itertools.combinations(range(K), 2):
        swapped = tau.copy()
        swapped[i], swapped[j] = tau[j], tau[i]
        weight = abs(gains[i] - gains[j]) * abs(1 / np.log(1 + tau[i]) - 1 / np.log(1 + tau[j]))
        np.testing.assert_allclose(abs(dcg(swapped) - dcg(tau)), weight, atol=1e-12)


def test_equal_scores_keep_their_input_order_and_absent_ones_do_not_rank():
    s = np.float32([[1, 2, 1, 2, 0]])
    np.testing.assert_array_equal(ranks(s, np.ones((1, 5), bool)), [[3, 1, 4, 2, 5]])
    where = np.array([[True, False, True, True, True]])
    np.testing.assert_array_equal(np.asarray(ranks(s, where))[where], [2, 3, 1, 4])


def test_lipo_invariances():
    p, r, labels, where = ranked_lists()
    base = np.asarray(lipo(p, r, labels, where, beta=0.5))
    np.testing.assert_allclose(lipo(p + 3, r, labels, where, beta=0.5), base, rtol=1e-4)
    order = np.random.default_rng(4).permutation(K)
    shuffled = [x[:, order] for x in (p, r, labels, where)]
    np.testing.assert_allclose(lipo(*shuffled, beta=0.5), base, rtol=1e-5)
    keep = where[1]
    dropped = [x[1:2, keep] for x in (p, r, labels)]
    np.testing.assert_allclose(lipo(*dropped, np.ones((1, keep.sum()), bool), beta=0.5)[0], base[1], rtol=1e-5)
    flat = np.where(where, np.float32(0.4), np.float32(np.nan))
    np.testing.assert_array_equal(lipo(p, r, flat, where), 0.0)
    squeezed = np.where(labels > np.nanmedian(labels), labels * 0.9, labels * 0.8)
    assert np.abs(np.asarray(lipo(p, r, squeezed, where, beta=0.5)) - base).max() > 1e-4
    ranks_only = [lipo(p, r, x, where, gain=False, discount=False) for x in (labels, labels**2)]
    np.testing.assert_allclose(ranks_only[0], ranks_only[1], rtol=1e-6)


def test_label_pairs_counts_what_the_loss_sums():
    *_, labels, where = ranked_lists()
    expected = [
        sum(labels[b, i] > labels[b, j] for i, j in itertools.permutations(np.flatnonzero(where[b]), 2))
        for b in range(4)
    ]
    np.testing.assert_array_equal(label_pairs(labels, where), expected)


def test_lipo_extremes_bfloat16_and_vmap():
    rng = np.random.default_rng(5)
    wide = np.tile(np.float32([1e4, -1e4, 0, 50, -50, 1, 2]), (2, 1))
    labels, where = rng.random((2, K)).astype(np.float32), np.ones((2, K), bool)
    check_extreme(lambda p: lipo(p, np.zeros_like(wide), labels, where, beta=1.0), (wide,), (0,))
    p, r, labels, where = (np.nan_to_num(x) if x.dtype != bool else x for x in ranked_lists())
    check_bfloat16(lambda p, r: lipo(p, r, labels, where), (p, r), (0, 1))
    check_vmap(lipo, (p, r, labels, where))


# --- Bradley-Terry ---


def rewards(seed=0, n=6):
    rng = np.random.default_rng(seed)
    return (*(rng.normal(0, 2, n).astype(np.float32) for _ in range(2)), rng.random(n).astype(np.float32))


def test_bradley_terry_value_and_gradient():
    rw, rl, m = rewards()

    def reference(rw, rl, m):
        rw = np.asarray(rw, np.float64)
        d = (rw - rl - m) / 1.5
        return 0.9 * sp(-d) + 0.1 * sp(d) + 0.02 * (rw + rl) ** 2

    def loss(*a):
        return bradley_terry(*a, temperature=1.5, label_smoothing=0.1, center_rewards_coefficient=0.02)

    check_against(loss, reference, (rw, rl, m), (0, 1, 2))
    check_bfloat16(loss, (rw, rl, m), (0, 1, 2))
    check_vmap(loss, (rw, rl, m))


def test_bradley_terry_identities():
    rw, rl, m = rewards()
    value, grads = value_and_grads(bradley_terry, (rw, rl), (0, 1))
    d = rw.astype(np.float64) - rl
    np.testing.assert_allclose(value, sp(-d), rtol=1e-6)
    np.testing.assert_allclose(grads[0], -sig(-d), rtol=1e-5)
    np.testing.assert_allclose(grads[0], -grads[1])
    np.testing.assert_allclose(bradley_terry(rl, rw) - value, d, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bradley_terry(rw + 3, rl + 3), value, rtol=1e-5)
    centred = bradley_terry(rw + 3, rl + 3, center_rewards_coefficient=0.01)
    assert np.abs(np.asarray(centred) - value).max() > 0.1
    np.testing.assert_allclose(bradley_terry(rw, rl, label_smoothing=0.3), value + 0.3 * d, rtol=1e-5)
    np.testing.assert_allclose(bradley_terry(rw, rl, m), bradley_terry(rw - m, rl), rtol=1e-5)
    best = math.log(0.8 / 0.2)
    slope = jax.grad(lambda r: bradley_terry(r, 0.0 * r, label_smoothing=0.2))(np.float32(best))
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)


def test_bradley_terry_extremes_and_absent_rows():
    value, _ = check_extreme(lambda a, b: bradley_terry(a, b), EXTREME[:2], (0, 1))
    np.testing.assert_allclose(value, [0, 1e4, 1e4, 0])
    check_extreme(lambda a, b: bradley_terry(a, b, center_rewards_coefficient=0.01), EXTREME[:2], (0, 1))
    fifty = bradley_terry(np.float32([-25.0]), np.float32([25.0]))
    np.testing.assert_allclose(fifty, 50.0)
    rw, rl, m = rewards()
    rw[2] = m[2] = np.nan
    where = np.arange(6) != 2
    loss = lambda a, b, c: bradley_terry(a, b, c, center_rewards_coefficient=0.1, where=where)  # noqa: E731
    value, grads = value_and_grads(loss, (rw, rl, m), (0, 1, 2))
    assert value[2] == 0.0
    assert all(g[2] == 0.0 and np.all(np.isfinite(g)) for g in grads)
