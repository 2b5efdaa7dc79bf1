"""IRPO on items inside one response against a float64 reference."""

import math

import jax
import numpy as np
import pytest
from losses.loss_checks import (
    check_against,
    check_bfloat16,
    check_extreme,
    check_vmap,
    jitted,
    logps,
    sig,
    value_and_grads,
)

from jaxpo import losses

K = 5
irpo = jitted(losses.irpo_ranking)
dpo = jitted(losses.dpo)
positions_of = jitted(losses.target_positions)


def item_lists(seed=0):
    """Lists of 5, 3 (with a gap), 2, 1 and 0 items."""
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 6, (5, K)).astype(np.float32)
    n[0, 0] = 1.0
    p, r = (logps(rng, (5, K), mean=-8.0) for _ in range(2))
    y = rng.integers(0, 3, (5, K)).astype(np.float32)
    y[:, 0], y[:, 1] = 2, 0
    where = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    t = np.stack([rng.permutation(K) + 1 for _ in range(5)]).astype(np.int32)
    for x, junk in ((p, np.nan), (r, np.inf), (n, np.nan), (y, -1)):
        x[~where] = junk
    return p, r, n, y, t, where


def weight(y, t, weighting):
    gain = 2.0 ** float(y) - 1
    return {"ndcg": gain / math.log2(1 + t), "discount": 1 / math.log2(1 + t), "reciprocal": gain / float(t)}[weighting]


def reference_of(n, y, t, where, *, beta, weighting="ndcg"):
    def reference(p, r):
        out = []
        for b, m in enumerate(where):
            reward = (np.asarray(p[b, m], np.float64) - np.asarray(r[b, m], np.float64)) / n[b, m]
            k, loss = len(reward), 0.0
            for i in range(k if k > 1 else 0):
                odds = sum(math.exp(beta * (reward[j] - reward[i])) for j in range(k) if j != i) / (k - 1)
                loss -= weight(y[b, m][i], t[b, m][i], weighting) * math.log(1 / (1 + odds)) / k
            out.append(loss)
        return np.array(out)

    return reference


@pytest.mark.parametrize("weighting", ["ndcg", "discount", "reciprocal"])
def test_value_gradient_and_absent_items(weighting):
    p, r, n, y, t, where = item_lists()
    kw = {"beta": 0.7, "weighting": weighting}
    value, grads = check_against(
        lambda p, r: irpo(p, r, n, y, t, where, **kw), reference_of(n, y, t, where, **kw), (p, r), (0, 1)
    )
    np.testing.assert_array_equal(value[3:], 0.0)
    for g in grads:
        np.testing.assert_array_equal(g[3:], 0.0)
        np.testing.assert_array_equal(g[~where], 0.0)


def test_closed_form_gradient():
    p, r, n, y, t, _ = (x[:1] for x in item_lists())
    everyone = np.ones((1, K), bool)
    _, grads = value_and_grads(lambda p: irpo(p, r, n, y, t, everyone, beta=0.7), (p,), (0,))
    reward = (p[0].astype(np.float64) - r[0]) / n[0]
    w = np.array([weight(a, b, "ndcg") for a, b in zip(y[0], t[0], strict=True)])
    apart = np.where(np.eye(K, dtype=bool), -np.inf, 0.7 * (reward[None, :] - reward[:, None]))
    level = np.logaddexp.reduce(apart, axis=1)
    g, share = sig(level - math.log(K - 1)), np.exp(apart - level[:, None])
    expected = 0.7 / K * (-w * g + (w * g) @ share)
    np.testing.assert_allclose(grads[0][0] * n[0], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.sum(grads[0][0] * n[0]), 0.0, atol=1e-6)
    assert np.all(grads[0][0][y[0] == 0] > 0)  # irrelevant items are pushed down
    # The pull on an item grows with the model's disagreement.
    pulls = []
    for fall in (0.0, 2.0, 4.0):
        worse = p.copy()
        worse[0, 0] -= fall
        pulls.append(value_and_grads(lambda p: irpo(p, r, n, y * (np.arange(K) == 0), t, everyone), (worse,), (0,)))
    slopes = [-float(grads[0][0, 0]) for _, grads in pulls]
    assert slopes == sorted(slopes)
    assert slopes[0] > 0


def test_two_items_are_half_of_dpo():
    rng = np.random.default_rng(1)
    p, r = (logps(rng, (4, 2)) for _ in range(2))
    one, where = np.ones((4, 2), np.float32), np.ones((4, 2), bool)
    y, t = np.tile(np.float32([1, 0]), (4, 1)), np.tile(np.int32([1, 2]), (4, 1))
    pair = dpo(p[:, 0], p[:, 1], r[:, 0], r[:, 1], beta=0.4)
    np.testing.assert_allclose(irpo(p, r, one, y, t, where, beta=0.4), 0.5 * np.asarray(pair), rtol=1e-6)


def test_at_the_reference_every_item_costs_its_weight_times_log_2():
    p, _, n, y, t, _ = (x[:1] for x in item_lists())
    w = [weight(a, b, "ndcg") for a, b in zip(y[0], t[0], strict=True)]
    got = irpo(p, p, n, y, t, np.ones((1, K), bool))
    np.testing.assert_allclose(got, math.log(2) * np.mean(w), rtol=1e-6)


def test_invariances():
    p, r, n, y, t, where = item_lists()
    base = np.asarray(irpo(p, r, n, y, t, where))
    np.testing.assert_allclose(irpo(p + 3 * n, r, n, y, t, where), base, rtol=1e-4)
    order = np.random.default_rng(2).permutation(K)
    np.testing.assert_allclose(irpo(*(x[:, order] for x in (p, r, n, y, t, where))), base, rtol=1e-5)
    few = [x[1:2, where[1]] for x in (p, r, n, y, t)]
    np.testing.assert_allclose(irpo(*few, np.ones((1, 3), bool))[0], base[1], rtol=1e-6)
    np.testing.assert_array_equal(irpo(p, r, n, 0 * np.where(where, y, 0), t, where), 0.0)


def test_small_beta_compares_with_all_others_alike():
    p, r, n, y, t, _ = (x[:1] for x in item_lists())
    y = y * (np.arange(K) == 0)
    everyone, beta = np.ones((1, K), bool), 1e-3
    _, grads = value_and_grads(lambda p: irpo(p, r, n, y, t, everyone, beta=beta), (p,), (0,))
    pull = beta * weight(2.0, t[0, 0], "ndcg") / 2 / K
    np.testing.assert_allclose(grads[0][0] * n[0], [-pull, *[pull / (K - 1)] * (K - 1)], rtol=5e-3)


def test_target_positions():
    y = np.float32([[0, 2, 1, 2, -1], [1, 1, 1, -1, 0]])
    where = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 1]], bool)
    np.testing.assert_array_equal(np.where(where, positions_of(y, where), 0), [[4, 1, 3, 2, 0], [1, 2, 3, 0, 4]])


def test_extremes_one_token_items_bfloat16_and_vmap():
    wide = np.float32([[1e4, -1e4, 0, 50, -50], [-1e4, 1e4, 1e4, 0, 0]])
    _, _, _, y, t, _ = (x[:2] for x in item_lists())
    y, one, where = np.abs(y), np.ones((2, K), np.float32), np.ones((2, K), bool)
    check_extreme(lambda p: irpo(p, 0 * wide, one, y, t, where), (wide,), (0,))
    args = [np.nan_to_num(x, posinf=1.0) if x.dtype == np.float32 else x for x in item_lists()]
    check_bfloat16(lambda p, r: irpo(p, r, *args[2:]), (args[0], args[1]), (0, 1))
    check_vmap(irpo, args)
    assert float(jax.jit(losses.irpo_ranking)(*args)[0]) > 0
