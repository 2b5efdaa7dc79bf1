"""TPO on preference trees: scores of branches from weighted steps, against float64 references."""

import itertools
import math

import numpy as np
import pytest
from losses.loss_checks import (
    check_against,
    check_bfloat16,
    check_extreme,
    check_vmap,
    jitted,
    sp,
    value_and_grads,
)

from jaxpo import losses

B, K, S, D, T = 4, 3, 4, 6, 9
tpo = jitted(losses.tpo_tree)
step_weights = jitted(losses.step_weights)
labelled_sums = jitted(losses.labelled_sums)
merge = jitted(losses.merge_steps)
shortest = jitted(losses.shortest)
pair_logistic = jitted(losses.pair_logistic)
dpo = jitted(losses.dpo)


def trees(seed=0):
    """Lists of 3, 2, 1 and 0 branches; the first list's second branch lacks a step."""
    rng = np.random.default_rng(seed)
    ratio = rng.normal(0, 2, (B, K, S)).astype(np.float32)
    tokens = rng.integers(1, 5, (B, K, S)).astype(np.float32)
    hidden = rng.normal(size=(B, K, S, D)).astype(np.float32)
    labels = rng.random((B, K)).astype(np.float32)
    where = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], bool)
    tokens[0, 1, 2], tokens[0, 0, 1] = 0, 1
    for x in (ratio, tokens, hidden, labels):
        x[~where] = np.nan
    ratio[0, 1, 2], hidden[0, 1, 2] = np.inf, np.nan
    return ratio, tokens, hidden, labels, where


def weights_reference(hidden, tokens, labels, where, mode):
    w = np.zeros((B, K, S))
    for b in range(B):
        here = np.flatnonzero(where[b])
        if len(here):
            best = here[np.argmax(labels[b, here])]
            for n, k in itertools.product(here, range(S)):
                if tokens[b, n, k] > 0 and tokens[b, best, k] > 0:
                    u, v = hidden[b, n, k].astype(float), hidden[b, best, k].astype(float)
                    cos = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
                    w[b, n, k] = {"one_plus_cos": 1 + cos, "one_minus_cos": 1 - cos, "uniform": 1.0}[mode]
    return w


def loss_reference(tokens, weights, labels, where, *, beta, pooling="mean", normalize=True, gain=True, frozen=None):
    """Loops; `frozen` fixes the log-ratios that rank the branches."""

    def scores(ratio, b):
        out = {}
        for n in np.flatnonzero(where[b]):
            keep = tokens[b, n] > 0
            rho = ratio[b, n, keep] / (tokens[b, n, keep] if pooling == "mean" else 1)
            mass = weights[b, n, keep].sum() if normalize else 1.0
            out[n] = beta * float(weights[b, n, keep] @ rho) / mass if mass > 0 else 0.0
        return out

    def reference(ratio):
        out = []
        for b in range(B):
            s = scores(np.asarray(ratio, np.float64), b)
            by = scores(np.asarray(frozen, np.float64), b)
            order = sorted(s, key=lambda n: -by[n])
            tau = {n: order.index(n) + 1 for n in s}
            total = 0.0
            for i, j in itertools.permutations(s, 2):
                a, c = float(labels[b, i]), float(labels[b, j])
                if a > c:
                    d = abs(2**a - 2**c) * abs(1 / math.log(1 + tau[i]) - 1 / math.log(1 + tau[j])) if gain else 1.0
                    total += d * float(sp(s[j] - s[i]))
            out.append(total)
        return np.array(out)

    return reference


@pytest.mark.parametrize(("pooling", "normalize", "gain"), [("mean", True, True), ("sum", False, False)])
def test_value_gradient_and_absent_branches(pooling, normalize, gain):
    ratio, tokens, hidden, labels, where = trees()
    w = np.asarray(step_weights(hidden, tokens, labels, where))
    kw = {"beta": 0.8, "pooling": pooling, "normalize": normalize}
    reference = loss_reference(tokens, w.astype(float), labels, where, gain=gain, frozen=ratio, **kw)
    value, grads = check_against(
        lambda x: tpo(x, tokens, w, labels, where, gain=gain, discount=gain, **kw), reference, (ratio,), (0,)
    )
    np.testing.assert_array_equal(value[2:], 0.0)
    np.testing.assert_array_equal(grads[0][~(where[:, :, None] & (tokens > 0))], 0.0)


@pytest.mark.parametrize("mode", ["one_plus_cos", "one_minus_cos", "uniform"])
def test_step_weights(mode):
    _, tokens, hidden, labels, where = trees()
    w = np.asarray(step_weights(hidden, tokens, labels, where, mode=mode))
    np.testing.assert_allclose(w, weights_reference(hidden, tokens, labels, where, mode), rtol=1e-5, atol=1e-6)
    assert np.all((w >= 0) & (w <= 2 + 1e-6))
    anchor = w[0, np.argmax(labels[0])]
    np.testing.assert_allclose(anchor, {"one_plus_cos": 2, "one_minus_cos": 0, "uniform": 1}[mode], rtol=1e-6)


def test_weights_are_constants_unless_asked():
    _, tokens, hidden, labels, where = trees()
    for stop in (True, False):
        loss = lambda h, stop=stop: step_weights(h, tokens, labels, where, stop_gradient=stop)  # noqa: E731
        _, grads = value_and_grads(loss, (hidden,), (0,))
        assert np.all(np.isfinite(grads[0]))
        assert np.any(grads[0][0, labels[0] < labels[0].max()]) == (not stop)
        np.testing.assert_array_equal(grads[0][~where], 0.0)


def test_identical_hidden_states():
    ratio, tokens, hidden, labels, where = (x[:1] for x in trees())
    same = np.broadcast_to(np.nan_to_num(hidden[:, :1]), hidden.shape)
    plus = step_weights(same, tokens, labels, where)
    has = np.broadcast_to(tokens > 0, plus.shape)
    np.testing.assert_allclose(np.asarray(plus)[has], 2.0, rtol=1e-6)
    uniform = step_weights(same, tokens, labels, where, mode="uniform")
    np.testing.assert_allclose(
        tpo(ratio, tokens, plus, labels, where), tpo(ratio, tokens, uniform, labels, where), rtol=1e-6
    )
    minus = step_weights(same, tokens, labels, where, mode="one_minus_cos")
    np.testing.assert_array_equal(minus, 0.0)
    _, grads = value_and_grads(lambda x: tpo(x, tokens, minus, labels, where), (ratio,), (0,))
    np.testing.assert_array_equal(grads[0], 0.0)


def test_two_branches_are_dpo_and_lists_pairwise_logistic():
    rng = np.random.default_rng(3)
    p, r = (rng.normal(-2, 1, (5, K, T)).astype(np.float32) for _ in range(2))
    steps = np.sort(rng.integers(1, S + 1, (5, K, T)), axis=2)
    sums, tokens = (labelled_sums(x, steps, count=S) for x in (p - r, np.ones_like(p)))
    labels = np.tile(np.float32([0.9, 0.1, 0.5]), (5, 1))
    one = {"pooling": "sum", "normalize": False, "gain": False, "discount": False, "beta": 0.3}
    two = np.tile(np.array([True, True, False]), (5, 1))
    p_w, p_l, r_w, r_l = p[:, 0].sum(1), p[:, 1].sum(1), r[:, 0].sum(1), r[:, 1].sum(1)
    uniform = np.ones((5, K, S), np.float32)
    got = tpo(sums, tokens, uniform, labels, two, **one)
    np.testing.assert_allclose(got, dpo(p_w, p_l, r_w, r_l, beta=0.3), rtol=1e-4)
    everyone = np.ones_like(two)
    scores = 0.3 * (p - r).sum(axis=2)
    np.testing.assert_allclose(
        tpo(sums, tokens, uniform, labels, everyone, **one), pair_logistic(scores, labels, everyone), rtol=1e-4
    )


def test_equal_labels_permutations_and_a_better_best_branch():
    ratio, tokens, hidden, labels, where = trees()
    w = step_weights(hidden, tokens, labels, where)
    base = np.asarray(tpo(ratio, tokens, w, labels, where))
    flat = np.where(where, np.float32(0.5), np.float32(np.nan))
    np.testing.assert_array_equal(tpo(ratio, tokens, w, flat, where), 0.0)
    order = np.array([2, 0, 1])
    moved = [x[:, order] for x in (ratio, tokens, hidden, labels, where)]
    again = tpo(*moved[:2], step_weights(*moved[2:3], moved[1], *moved[3:]), *moved[3:])
    np.testing.assert_allclose(again, base, rtol=1e-5)
    best = np.argmax(np.where(where, labels, -1), axis=1)
    better = ratio.copy()
    better[np.arange(B), best] += 0.1
    plain = {"discount": False}  # with the discount a change of ranks changes the pairs' weights as well
    assert np.all(
        (np.asarray(tpo(better, tokens, w, labels, where, **plain)) < tpo(ratio, tokens, w, labels, where, **plain))[:2]
    )


def test_step_sums_ignore_what_is_no_step():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2, K, T)).astype(np.float32)
    steps = np.sort(rng.integers(0, 7, (2, K, T)), axis=2)
    x[steps == 0] = np.nan
    got = np.asarray(labelled_sums(x, steps, count=S))
    for k in range(1, S + 1):
        member = (np.minimum(steps, S) == k) & (steps > 0)
        np.testing.assert_allclose(got[..., k - 1], np.where(member, x, 0).sum(axis=2), rtol=1e-5, atol=1e-6)


def test_merging_beyond_the_shortest_branch():
    tokens = np.float32([[[1, 2, 0, 0], [1, 1, 1, 3], [2, 2, 5, 0]], [[1, 0, 0, 0], [9, 9, 9, 9], [1, 1, 1, 0]]])
    where = np.array([[True, True, True], [False, False, True]])
    np.testing.assert_array_equal(shortest(tokens, where), [2, 3])
    merged = np.asarray(merge(tokens, np.int32([2, 3])))
    np.testing.assert_array_equal(merged[0], [[1, 2, 0, 0], [1, 5, 0, 0], [2, 7, 0, 0]])
    np.testing.assert_array_equal(merged[1, 2], [1, 1, 1, 0])
    np.testing.assert_array_equal(shortest(tokens, 0 * where > 0), 0)
    np.testing.assert_array_equal(merge(tokens, np.int32([0, 0])), 0.0)
    wide = merge(tokens[..., None] * np.ones(D, np.float32), np.int32([2, 3]))
    np.testing.assert_array_equal(wide, np.broadcast_to(merged[..., None], wide.shape))


def test_weights_on_the_deciding_step_widen_the_margin():
    """The error sits in one step whose hidden state differs; 1 - cos sees only that one, uniform dilutes it."""
    rng = np.random.default_rng(5)
    hidden = np.tile(rng.normal(size=(1, 1, S, D)), (1, 2, 1, 1)).astype(np.float32)
    hidden[0, 1, 2] *= -1
    ratio = np.zeros((1, 2, S), np.float32)
    ratio[0, 1, 2] = -2.0
    labels, where, tokens = np.float32([[1, 0]]), np.ones((1, 2), bool), np.ones((1, 2, S), np.float32)
    value = {
        mode: float(tpo(ratio, tokens, step_weights(hidden, tokens, labels, where, mode=mode), labels, where)[0])
        for mode in ("one_minus_cos", "uniform", "one_plus_cos")
    }
    assert value["one_minus_cos"] < value["uniform"] < value["one_plus_cos"]


def test_extremes_bfloat16_and_vmap():
    ratio, tokens, hidden, labels, where = (np.nan_to_num(x, posinf=0) if x.dtype != bool else x for x in trees())
    w = np.asarray(step_weights(hidden, tokens, labels, where))
    wide = np.where(ratio > 0, 1e4, -1e4).astype(np.float32)
    one = np.ones_like(tokens)
    check_extreme(lambda x: tpo(x, one, w, labels, where, pooling="sum"), (wide,), (0,))
    check_bfloat16(lambda x: tpo(x, tokens, w, labels, where), (ratio,), (0,))
    check_vmap(tpo, (ratio, tokens, w, labels, where))
    check_bfloat16(lambda h: step_weights(h, tokens, labels, where), (hidden,), (0,))
