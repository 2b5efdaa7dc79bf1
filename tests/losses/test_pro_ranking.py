"""PRO against a float64 reference: loops over the stages, as in the paper's algorithm."""

import math

import numpy as np
import pytest
from losses.loss_checks import (
    check_against,
    check_bfloat16,
    check_extreme,
    check_vmap,
    jitted,
    logps,
    sp,
    value_and_grads,
)

from jaxpo import losses

K = 5
pro = jitted(losses.pro_ranking)


def total(*args, **kw):
    return sum(pro(*args, **kw))


def sorted_lists(seed=0):
    """Sums, lengths, descending rewards and a mask: lists of 5, 3 (with a gap), 2, 1 and 0 responses."""
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 12, (5, K)).astype(np.float32)
    n[0, 1] = 1.0
    p = logps(rng, (5, K), mean=-10.0)
    r = -np.sort(-rng.normal(0, 1, (5, K)), axis=1).astype(np.float32)
    where = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    for x, junk in ((p, np.nan), (n, np.inf), (r, np.nan)):
        x[~where] = junk
    return p, n, r, where


def reference_of(n, r, where, weight):
    def reference(p):
        out = []
        for b, m in enumerate(where):
            sums = np.asarray(p[b, m], np.float64)
            means, k = sums / n[b, m], int(m.sum())
            scores = r[b, m].astype(np.float64) if r is not None else None
            loss = -weight * (k - 1) ** 2 * sums[0] if k else 0.0
            for stage in range(k - 1):
                inverse = np.ones(k - stage - 1) if r is None else scores[stage] - scores[stage + 1 :]
                own = inverse.max() * means[stage]
                loss += np.logaddexp.reduce([own, *(inverse * means[stage + 1 :])]) - own
            out.append(loss)
        return np.array(out)

    return reference


@pytest.mark.parametrize("with_rewards", [True, False])
def test_value_gradient_and_absent_responses(with_rewards):
    p, n, r, where = sorted_lists()
    r = r if with_rewards else None
    value, grads = check_against(
        lambda p: total(p, n, r, where, sft_weight=0.1), reference_of(n, r, where, 0.1), (p,), (0,)
    )
    np.testing.assert_array_equal(value[3:], 0.0)
    np.testing.assert_array_equal(grads[0][3:], 0.0)
    np.testing.assert_array_equal(grads[0][~where], 0.0)


def test_two_responses_a_unit_apart_are_bradley_terry_on_means():
    p, n, _, _ = sorted_lists()
    p, n, where = p[:1, :2], n[:1, :2], np.ones((1, 2), bool)
    rank, sft = pro(p, n, np.float32([[3, 2]]), where, sft_weight=0.0)
    means = p.astype(np.float64) / n
    np.testing.assert_allclose(rank, sp(-(means[:, 0] - means[:, 1])), rtol=1e-5)
    np.testing.assert_array_equal(sft, 0.0)


def test_rewards_shift_scale_and_tie():
    p, n, r, where = sorted_lists()
    rank, _ = pro(p, n, r, where)
    np.testing.assert_allclose(pro(p, n, r + 7, where)[0], rank, rtol=1e-4)
    np.testing.assert_allclose(pro(p, n, 3 * r, where)[0], pro(3 * p, n, r, where)[0], rtol=1e-4)
    flat = np.where(where, np.float32(0.3), np.float32(np.nan))
    value, grads = value_and_grads(lambda p: pro(p, n, flat, where)[0], (p,), (0,))
    expected = [sum(math.log(m - k) for k in range(m - 1)) for m in where.sum(axis=1)]
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_array_equal(grads[0], 0.0)


def test_the_absolute_likelihood_matters_unless_gaps_are_equal():
    p, n, r, where = (x[:1] for x in sorted_lists())
    there, back = pro(p, n, r, where)[0], pro(p + 2 * n, n, r, where)[0]
    assert np.abs(np.asarray(there) - back).max() > 1e-3
    np.testing.assert_allclose(pro(p, n, None, where)[0], pro(p + 2 * n, n, None, where)[0], rtol=1e-4)


def test_dropping_trailing_responses_and_the_likelihood_factor():
    p, n, r, where = sorted_lists()
    cut = where[:1] & (np.arange(K) < 3)
    short = [x[:1, :3] for x in (p, n, r, where)]
    for masked, dropped in zip(pro(p[:1], n[:1], r[:1], cut), pro(*short), strict=True):
        np.testing.assert_allclose(masked, dropped, rtol=1e-6)
    for m in range(2, K + 1):
        _, sft = pro(p[:1], n[:1], r[:1], where[:1] & (np.arange(K) < m))
        np.testing.assert_allclose(sft, -0.05 * (m - 1) ** 2 * p[:1, 0], rtol=1e-6)


def test_rewards_take_no_gradient():
    p, n, r, where = (np.nan_to_num(x, posinf=1.0) if x.dtype != bool else x for x in sorted_lists())
    _, grads = value_and_grads(lambda p, r: total(p, n, r, where), (p, r), (0, 1))
    assert np.any(grads[0])
    np.testing.assert_array_equal(grads[1], 0.0)


def test_extremes_one_token_responses_bfloat16_and_vmap():
    p = np.float32([[-1e4, 0, -1e4, -50, 0], [0, -1e4, -1e4, 0, -1e4]])
    one, where = np.ones((2, K), np.float32), np.ones((2, K), bool)
    r = np.tile(np.float32([4, 2.5, 2, 1, 0]), (2, 1))
    check_extreme(lambda p: total(p, one, r, where), (p,), (0,))
    check_extreme(lambda p: total(p, one, 1e3 * r, where), (p,), (0,))
    args = [np.nan_to_num(x, posinf=1.0) if x.dtype != bool else x for x in sorted_lists()]
    check_bfloat16(lambda p, r: total(p, args[1], r, args[3]), (args[0], args[2]), (0, 1))
    check_vmap(total, args)
