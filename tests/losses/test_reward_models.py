"""Ties, ratings, outcomes, steps and truncated rankings against float64, and the limits that join them."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import check_against, check_bfloat16, jitted, sig, sp, value_and_grads
from losses.test_lists_and_rewards import bradley_terry, rewards

from jaxpo import losses

rao_kupper, davidson = jitted(losses.rao_kupper), jitted(losses.davidson)
TIES = np.array([False, True, False, True, False, True])
MASK = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]], bool)


def test_bradley_terry_with_weights_and_soft_labels():
    rw, rl, m = rewards()
    weight, p = np.abs(rw), np.float32([1.0, 0.5, 0.0, 0.8, 0.3, 0.6])

    def reference(rw, rl, m):
        d = (np.asarray(rw, np.float64) - rl - m) / 2
        q = 0.9 * p.astype(np.float64) + 0.1 * (1 - p.astype(np.float64))
        return (
            weight.astype(np.float64) * (q * sp(-d) + (1 - q) * sp(d)) + 0.02 * (np.asarray(rw, np.float64) + rl) ** 2
        )

    def loss(*a):
        settings = {"temperature": 2.0, "label_smoothing": 0.1, "center_rewards_coefficient": 0.02}
        return losses.bradley_terry(*a, weight=weight, probability=p, **settings)

    check_against(loss, reference, (rw, rl, m), (0, 1, 2))
    check_bfloat16(loss, (rw, rl, m), (0, 1, 2))


def test_soft_labels_join_smoothing_and_swapping():
    rw, rl, _ = rewards()
    ones, plain = np.ones(6, np.float32), np.asarray(bradley_terry(rw, rl))
    np.testing.assert_allclose(bradley_terry(rw, rl, probability=ones, weight=ones), plain, rtol=1e-6)
    np.testing.assert_allclose(bradley_terry(rw, rl, probability=0 * ones), bradley_terry(rl, rw), rtol=1e-6)
    soft = bradley_terry(rw, rl, probability=0.8 * ones)
    np.testing.assert_allclose(soft, bradley_terry(rw, rl, label_smoothing=0.2), rtol=1e-6)
    np.testing.assert_allclose(bradley_terry(rw, rl, weight=3 * ones), 3 * plain, rtol=1e-6)


def test_rao_kupper_is_its_equations():
    rw, rl, _ = rewards()

    def reference(rw, rl):
        d, gap = (np.asarray(rw, np.float64) - rl) / 2, math.log(1.7)
        tie = -math.log(1.7**2 - 1) + sp(-(d - gap)) + sp(d + gap)
        return np.where(TIES, tie, sp(-(d - gap)))

    check_against(lambda a, b: rao_kupper(a, b, TIES, threshold=1.7, temperature=2.0), reference, (rw, rl), (0, 1))


def test_davidson_is_its_softmax():
    rw, rl, _ = rewards()

    def reference(rw, rl):
        rw, rl = (np.asarray(x, np.float64) / 2 for x in (rw, rl))
        z = np.stack([rw, rl, math.log(0.6) + (rw + rl) / 2])
        z = z - np.logaddexp.reduce(z, axis=0)
        return -np.where(TIES, z[2], z[0])

    check_against(lambda a, b: davidson(a, b, TIES, nu=0.6, temperature=2.0), reference, (rw, rl), (0, 1))


@pytest.mark.parametrize(("loss", "settings", "none"), [(rao_kupper, {"threshold": 1.3}, {"threshold": 1.0}),
                                                        (davidson, {"nu": 0.7}, {"nu": 0.0})])  # fmt: skip
def test_three_outcomes_are_all_and_a_tie_is_likeliest_between_equals(loss, settings, none):
    d = np.linspace(-6, 6, 121).astype(np.float32)
    zero, no, yes = 0 * d, np.zeros(121, bool), np.ones(121, bool)
    win, tie, lose = (np.exp(-np.float64(x)) for x in (
        loss(d, zero, no, **settings), loss(d, zero, yes, **settings), loss(zero, d, no, **settings)))  # fmt: skip
    np.testing.assert_allclose(win + tie + lose, 1.0, rtol=2e-6)
    assert tie.argmax() == 60
    np.testing.assert_allclose(tie, tie[::-1], rtol=1e-5)
    np.testing.assert_allclose(loss(d, zero, no, **none), bradley_terry(d, zero), rtol=1e-6, atol=1e-7)
    assert np.all(np.isinf(loss(d, zero, yes, **none)))
    value, grads = value_and_grads(lambda a, b: loss(a, b, no, **none), (d, zero), (0, 1))
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(grads))


def test_a_tie_near_the_threshold_of_one_keeps_its_digits():
    value = rao_kupper(np.float32([0.0]), np.float32([0.0]), np.array([True]), threshold=1.0 + 2.0**-12)
    t = 1 + 2.0**-12
    np.testing.assert_allclose(value, -math.log(t * t - 1) + 2 * sp(math.log(t)), rtol=1e-6)


def test_the_orders_of_a_list_are_a_distribution():
    scores = np.float32([0.3, -1.2, 2.0, 0.7])
    orders = np.asarray(list(itertools.permutations(range(4))), np.float32)
    everyone = np.ones(orders.shape, bool)
    loss = losses.list_mle(jnp.tile(scores, (24, 1)), -orders, everyone)
    np.testing.assert_allclose(np.exp(-np.float64(loss)).sum(), 1.0, rtol=1e-5)
    for top in (1, 2, 3):
        # Orders that agree in their first places are one event; each is listed (4 - top)! times.
        loss = losses.list_mle(jnp.tile(scores, (24, 1)), -orders, everyone, top_k=top)
        np.testing.assert_allclose(np.exp(-np.float64(loss)).sum(), math.factorial(4 - top), rtol=1e-5)


def test_list_mle_of_the_first_places_alone():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=MASK.shape).astype(np.float32)
    labels = rng.random(MASK.shape).astype(np.float32)

    def reference(scores, labels, where, top):
        total = np.zeros(len(scores))
        for n in range(len(scores)):
            here = [k for k in np.argsort(-labels[n], kind="stable") if where[n, k]]
            for place, k in enumerate(here[:top]):
                total[n] += np.logaddexp.reduce(np.asarray(scores[n], np.float64)[here[place:]]) - scores[n, k]
        return total

    for top in (1, 2, 4):
        check_against(
            lambda s, top=top: losses.list_mle(s, labels, MASK, top_k=top),
            lambda s, top=top: reference(s, labels, MASK, top), (scores,), (0,),
        )  # fmt: skip
    np.testing.assert_array_equal(losses.list_mle(scores, labels, MASK, top_k=9), losses.list_mle(scores, labels, MASK))


def test_ratings_as_squared_error_and_as_cross_entropy():
    rng = np.random.default_rng(1)
    scores, ratings = (rng.normal(1.0, 2.0, MASK.shape).astype(np.float32) for _ in range(2))
    spoiled = np.where(MASK, ratings, np.nan)

    def mse(s):
        return np.where(MASK, (np.asarray(s, np.float64) - ratings) ** 2, 0).sum(axis=1)

    def bce(s):
        s, y = np.asarray(s, np.float64), (ratings.astype(np.float64) + 5) / 15
        return np.where(MASK, y * sp(-s) + (1 - y) * sp(s), 0).sum(axis=1)

    check_against(lambda s: losses.rating(s, spoiled, MASK), mse, (scores,), (0,))
    check_against(lambda s: losses.rating(s, spoiled, MASK, form="bce", low=-5.0, high=10.0), bce, (scores,), (0,))
    ends = np.where(ratings > 1, 4.0, 0.0).astype(np.float32)
    whole = losses.rating(scores, ends, MASK, form="bce", low=0.0, high=4.0)
    one = [losses.outcome_reward(scores[:, c], ends[:, c] / 4, where=MASK[:, c]) for c in range(4)]
    np.testing.assert_allclose(whole, sum(one), rtol=1e-5, atol=1e-6)


def test_ratings_as_shares_of_classes():
    rng = np.random.default_rng(5)
    scores, votes = rng.normal(0, 2, MASK.shape).astype(np.float32), rng.integers(0, 3, MASK.shape).astype(np.float32)
    votes[:, 0] += MASK[:, 0]
    spoiled = np.where(MASK, votes, np.nan)

    def softmax(s):
        s, found = np.asarray(s, np.float64), np.zeros(len(MASK))
        for n, here in enumerate(MASK):
            shares = votes[n, here] / max(votes[n, here].sum(), 1)
            found[n] = shares @ (np.logaddexp.reduce(s[n, here]) - s[n, here]) if here.any() else 0
        return found

    loss = lambda s: losses.rating(s, spoiled, MASK, form="softmax")  # noqa: E731
    check_against(loss, softmax, (scores,), (0,))
    np.testing.assert_allclose(loss(scores + 3), loss(scores), rtol=1e-5, atol=1e-6)
    alone = losses.rating(scores, np.zeros_like(votes), MASK, form="softmax")
    np.testing.assert_array_equal(alone, 0)


def test_steps_are_outcomes_one_by_one():
    rng = np.random.default_rng(2)
    scores = rng.normal(0, 3, MASK.shape).astype(np.float32)
    labels = np.where(MASK, rng.random(MASK.shape), np.nan).astype(np.float32)

    def reference(s):
        s, y = np.asarray(s, np.float64), np.where(MASK, labels, 0).astype(np.float64)
        return np.where(MASK, y * sp(-s) + (1 - y) * sp(s), 0).sum(axis=1)

    check_against(lambda s: losses.process_reward(s, labels, MASK), reference, (scores,), (0,))
    last = np.array([3, 3, 2, 3, -1, 2])
    found = losses.process_reward(scores, labels, MASK, last_step_only=True)
    for n, t in enumerate(last):
        expected = 0.0 if t < 0 else losses.outcome_reward(scores[n, t], labels[n, t])
        np.testing.assert_allclose(found[n], expected, rtol=1e-6)


def test_two_classes_are_the_difference_of_their_logits():
    logits = np.random.default_rng(3).normal(size=(6, 2)).astype(np.float32)
    label = np.float32([0, 1, 1, 0, 1, 0])
    cross_entropy = -jax.nn.log_softmax(logits)[np.arange(6), label.astype(int)]
    np.testing.assert_allclose(losses.outcome_reward(logits[:, 1] - logits[:, 0], label), cross_entropy, rtol=1e-5)


def test_openrlhf_writes_the_same_losses():
    """Its `PairWiseLoss`, `LogExpLoss` and, of soft labels, `PRMLoss`, by their formulas."""
    rw, rl, m = rewards()
    d = np.asarray(rw, np.float64) - rl
    np.testing.assert_allclose(losses.bradley_terry(rw, rl, np.abs(m)), -np.log(sig(d - np.abs(m))), rtol=1e-5)
    np.testing.assert_allclose(losses.bradley_terry(rw, rl), np.log1p(np.exp(rl.astype(np.float64) - rw)), rtol=1e-5)
    logits = np.random.default_rng(5).normal(size=(6, 2))
    p = np.array([0.0, 0.3, 1.0, 0.7, 0.5, 0.9])
    both = logits - np.logaddexp(*logits.T)[:, None]
    expected = -(p * both[:, 0] + (1 - p) * both[:, 1])
    score = np.float32(logits[:, 0] - logits[:, 1])
    np.testing.assert_allclose(losses.outcome_reward(score, np.float32(p)), expected, rtol=1e-5)


def test_solution_scores_by_hand():
    scores = np.random.default_rng(4).normal(0, 2, MASK.shape).astype(np.float32)
    spoiled = np.where(MASK, scores, np.nan)
    by_hand = {"min": np.min, "product": np.prod, "mean": np.mean, "last": lambda p: p[-1]}
    for how, combine in by_hand.items():
        found = losses.solution_score(spoiled, MASK, how=how)
        expected = [combine(sig(row[mask])) if mask.any() else 0.0 for row, mask in zip(scores, MASK, strict=True)]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    far = losses.solution_score(np.full((1, 4), -60.0, np.float32), np.ones((1, 4), bool), how="product")
    assert np.isfinite(far).all()


def test_centring_is_the_term_of_bradley_terry():
    rw, rl, _ = rewards()
    plain, centred = bradley_terry(rw, rl), bradley_terry(rw, rl, center_rewards_coefficient=0.5)
    np.testing.assert_allclose(centred - plain, 0.5 * losses.centring(rw, rl), rtol=1e-4, atol=1e-6)
    check_against(losses.centring, lambda a, b: (np.asarray(a, np.float64) + b) ** 2, (rw, rl), (0, 1))


@pytest.mark.parametrize("size", [50.0, 1e4])
def test_large_rewards_cost_what_they_should(size):
    far, no, yes = np.float32([size]), np.array([False]), np.array([True])
    for value in (bradley_terry(-far, 0 * far), davidson(-far, 0 * far, no), losses.outcome_reward(-far, 1 + 0 * far)):
        np.testing.assert_allclose(value, size, rtol=1e-6)
    np.testing.assert_allclose(rao_kupper(-far, 0 * far, no), size + math.log(1.5), rtol=1e-6)
    np.testing.assert_allclose(davidson(far, 0 * far, yes), size / 2 + math.log(2.0), rtol=1e-6)
