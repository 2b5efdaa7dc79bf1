"""LiPO's seven ranking losses on implicit rewards against float64 references."""

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
    logps,
    sig,
    sp,
    value_and_grads,
)

from jaxpo import losses
from jaxpo.losses.ranking import ranks as eager_ranks

ranks = jitted(eager_ranks)
dpo = jitted(losses.dpo)
label_pairs = jitted(losses.label_pairs)
lipo = jitted(losses.lipo)
ndcg = jitted(losses.ndcg)

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
    s, labels = rng.normal(size=K).astype(np.float32), rng.random(K).astype(np.float32)
    everyone = np.ones((1, K), bool)

    def dcg(order, labels):
        return sum((2.0 ** float(labels[i]) - 1) / math.log(2 + place) for place, i in enumerate(order))

    def expected(labels):
        order, total = list(np.argsort(-s, kind="stable")), 0.0
        for i, j in itertools.permutations(range(K), 2):
            if labels[i] > labels[j]:
                swapped = [{i: j, j: i}.get(k, k) for k in order]
                total += abs(dcg(swapped, labels) - dcg(order, labels)) * float(sp(s[j] - s[i].astype(np.float64)))
        return total

    got = PURE["lambda_rank"](s[None], labels[None], everyone)[0]
    np.testing.assert_allclose(got, expected(labels), rtol=1e-5)
    for i in range(K):  # one response against the rest: the weights of its pairs alone
        alone = np.where(np.arange(K) == i, np.float32(0.8), np.float32(0.1))
        np.testing.assert_allclose(PURE["lambda_rank"](s[None], alone[None], everyone)[0], expected(alone), rtol=1e-5)


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


def test_list_size_factor_as_in_recent_rax():
    p, r, labels, where = ranked_lists()
    plain, scaled = (np.asarray(lipo(p, r, labels, where, times_list_size=x)) for x in (False, True))
    np.testing.assert_allclose(scaled, plain * where.sum(axis=1), rtol=1e-6)


# --- all seven on the same scores ---


def softmax_reference(s, psi):
    shares = psi / psi.sum() if psi.sum() > 0 else 0 * psi
    return float(np.sum(shares * (np.logaddexp.reduce(s) - s)))


def list_mle_reference(s, psi):
    in_order = s[np.argsort(-psi, kind="stable")]
    return float(sum(np.logaddexp.reduce(in_order[k:]) - in_order[k] for k in range(len(s))))


def over_pairs(term):
    def reference(s, psi):
        return float(sum(term(s[i] - s[j]) for i, j in itertools.permutations(range(len(s)), 2) if psi[i] > psi[j]))

    return reference


SEVEN = {
    "point_mse": lambda s, psi: float(np.sum((psi - s) ** 2)),
    "point_sigmoid": lambda s, psi: float(np.sum(psi * sp(-s) + (1 - psi) * sp(s))),
    "pair_logistic": over_pairs(lambda d: sp(-d)),
    "pair_hinge": over_pairs(lambda d: max(0.0, 1.0 - d)),
    "list_mle": list_mle_reference,
    "list_softmax": softmax_reference,
    "lambda_rank": None,  # has its own reference above
}
PURE = {name: jitted(getattr(losses, name)) for name in SEVEN}
scores_of = jitted(losses.implicit_scores)


def on_rewards(name, labels, where, beta=0.5):
    """The loss as a function of the two models' log-probs."""
    return lambda p, r: PURE[name](scores_of(p, r, where, beta=beta), labels, where)


@pytest.mark.parametrize("name", [n for n in SEVEN if n != "lambda_rank"])
def test_value_gradient_and_absent_responses(name):
    p, r, labels, where = ranked_lists()

    def reference(p, r):
        s = 0.5 * (np.asarray(p, np.float64) - r)
        return np.array([SEVEN[name](s[b, m], labels[b, m].astype(np.float64)) for b, m in enumerate(where)])

    value, grads = check_against(on_rewards(name, labels, where), reference, (p, r), (0, 1))
    assert value[3] == 0.0
    for g in grads:
        np.testing.assert_array_equal(g[~where], 0.0)
    if not name.startswith("point"):
        np.testing.assert_allclose(value[2], 0.0, atol=1e-6)  # one response has nothing to be compared with
        np.testing.assert_allclose(grads[0].sum(axis=1), 0.0, atol=1e-5)


def test_closed_form_gradients():
    p, r, labels, where = ranked_lists()
    s = np.where(where, 0.5 * (p.astype(np.float64) - r), -np.inf)[:2]
    psi = np.where(where, labels, 0)[:2].astype(np.float64)
    closed = {
        "point_sigmoid": np.where(where[:2], sig(np.where(where[:2], s, 0)) - psi, 0),
        "list_softmax": np.exp(s - np.logaddexp.reduce(s, axis=1, keepdims=True))
        - psi / psi.sum(axis=1, keepdims=True),
    }
    for name, expected in closed.items():
        _, grads = value_and_grads(on_rewards(name, labels, where), (p, r), (0,))
        np.testing.assert_allclose(grads[0][:2], 0.5 * expected, rtol=1e-4, atol=1e-6, err_msg=name)


def test_on_two_responses():
    rng = np.random.default_rng(1)
    p, r = (logps(rng, (5, 2)) for _ in range(2))
    labels, where = np.tile(np.float32([1, 0]), (5, 1)), np.ones((5, 2), bool)
    h = 0.3 * ((p[:, 0] - r[:, 0]) - (p[:, 1] - r[:, 1]).astype(np.float64))
    pair = dpo(p[:, 0], p[:, 1], r[:, 0], r[:, 1], beta=0.3)
    for name in ("pair_logistic", "list_mle", "list_softmax"):
        np.testing.assert_allclose(on_rewards(name, labels, where, 0.3)(p, r), pair, rtol=1e-5, err_msg=name)
    hinge_norm = np.maximum(0, 1 - h)
    np.testing.assert_allclose(on_rewards("pair_hinge", labels, where, 0.3)(p, r), hinge_norm, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SEVEN)
def test_invariances(name):
    p, r, labels, where = ranked_lists(seed=6)
    labels[0, 2] += 0.05  # list-MLE has no ties; the others have theirs above
    labels = np.where(where, labels + np.arange(K, dtype=np.float32) * 1e-3, np.float32(np.nan))
    base = np.asarray(on_rewards(name, labels, where)(p, r))
    shifted = np.abs(np.asarray(on_rewards(name, labels, where)(p + 3, r)) - base)[:2]
    assert np.all(shifted > 1e-2 if name.startswith("point") else shifted < 1e-3)
    order = np.random.default_rng(4).permutation(K)
    p2, r2, l2, w2 = (x[:, order] for x in (p, r, labels, where))
    np.testing.assert_allclose(on_rewards(name, l2, w2)(p2, r2), base, rtol=1e-5, atol=1e-6)
    few = [x[1:2, where[1]] for x in (p, r, labels)]
    dropped = on_rewards(name, few[2], np.ones_like(few[2], bool))(*few[:2])
    np.testing.assert_allclose(dropped[0], base[1], rtol=1e-5)
    values = np.asarray(on_rewards(name, labels**2, where)(p, r))  # the same order, other values
    by_order = name in ("pair_logistic", "pair_hinge", "list_mle")
    assert np.allclose(values[:2], base[:2], rtol=1e-5) == by_order


def test_equal_labels_and_empty_mass():
    p, r, _, where = ranked_lists()
    flat = np.where(where, np.float32(0.4), np.float32(np.nan))
    for name in ("pair_logistic", "pair_hinge", "lambda_rank"):
        np.testing.assert_array_equal(on_rewards(name, flat, where)(p, r), 0.0)
    value, grads = value_and_grads(on_rewards("list_softmax", 0 * flat, where), (p, r), (0,))
    np.testing.assert_array_equal(value, 0.0)
    np.testing.assert_array_equal(grads[0], 0.0)


@pytest.mark.parametrize("name", SEVEN)
def test_extremes_bfloat16_and_vmap(name):
    labels = np.tile(np.linspace(1, 0, K, dtype=np.float32), (2, 1))
    where = np.ones((2, K), bool)
    wide = np.tile(np.float32([1e4, -1e4, 0, 50, -50, 1, 2]), (2, 1))
    check_extreme(lambda p: PURE[name](p, labels, where), (wide,), (0,))
    p, r, labels, where = (np.nan_to_num(x) if x.dtype != bool else x for x in ranked_lists())
    check_bfloat16(on_rewards(name, labels, where), (p, r), (0, 1))
    check_vmap(PURE[name], (p - r, labels, where))


def test_ndcg():
    rng = np.random.default_rng(7)
    p, _, labels, where = ranked_lists()
    full = np.asarray(ndcg(p, labels, where))
    cut = np.asarray(ndcg(p, labels, where, at=3))
    for b, m in enumerate(where):
        s, gains = p[b, m], 2.0 ** labels[b, m].astype(float) - 1
        for got, at in ((full, K), (cut, 3)):
            dcg = lambda order, at=at, g=gains: sum(g[i] / math.log2(2 + k) for k, i in enumerate(order[:at]))  # noqa: E731
            best = dcg(np.argsort(-gains, kind="stable"))
            np.testing.assert_allclose(got[b], dcg(np.argsort(-s, kind="stable")) / best if best else 0.0, rtol=1e-5)
    everyone = np.ones((4, K), bool)
    relevant = rng.integers(0, 3, (4, K)).astype(np.float32)
    np.testing.assert_allclose(ndcg(relevant, relevant, everyone), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(ndcg(relevant, 0 * relevant, everyone), 0.0)
