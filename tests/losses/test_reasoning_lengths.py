"""DLER, HAPO and ORION's rewards and terms against float64 numpy from their equations, and what they promise."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from losses.rollout_arrays import MASK, NEW, OLD, REF, A, by_token, program, ratio, slopes, spoiled

from jaxpo import losses
from jaxpo.objectives.methods.rollouts import Advantage
from jaxpo.online.advantages import shaped

# --- DLER ---


def dler(new, old=OLD, ref=REF, a=A, low=0.2, high=0.28, c=10.0, beta=5e-4):
    w = ratio(new, old, "token")

    def term(n, t):
        loss = -min(w[n, t] * a[n, t], min(max(w[n, t], 1 - low), 1 + high) * a[n, t])
        loss = min(loss, -c * a[n, t]) if a[n, t] < 0 else loss
        return loss + beta * (new[n, t] - ref[n, t]) ** 2 / 2

    return by_token(term)


@pytest.mark.parametrize("settings", [{}, {"high": 0.05, "c": 1.3, "beta": 0.3}])
def test_dler_value_and_gradient(settings):
    own = {"epsilon_high": settings.get("high", 0.28), "dual_clip": settings.get("c", 10.0)}
    loss = functools.partial(losses.dler, beta=settings.get("beta", 5e-4), **own)
    terms, grad = program(loss)(spoiled(NEW), spoiled(OLD), spoiled(REF), spoiled(A), MASK)
    np.testing.assert_allclose(terms, dler(NEW, **settings), rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(grad, slopes(lambda new: dler(new, **settings), NEW), rtol=2e-4, atol=1e-5)
    assert not grad[~MASK].any()


def test_dler_clips_higher_and_bounds_what_is_bad():
    one = np.ones((1, 1), bool)
    up, zero = np.full((1, 1), math.log(1.25)), np.zeros((1, 1))
    plain = functools.partial(losses.dler, beta=0.0)
    _, grad = program(plain)(up, zero, zero, zero + 1, one)
    assert grad == pytest.approx(-1.25), "unclipped at 0.28"
    _, grad = program(functools.partial(plain, epsilon_high=0.2))(up, zero, zero, zero + 1, one)
    assert grad == 0, "clipped at 0.2"
    terms, grad = program(plain)(zero + 9.0, zero, zero, zero - 2.0, one)
    assert terms == pytest.approx(20.0), "c |A|"
    assert grad == 0


def test_dler_takes_nothing_but_truncated_answers():
    rewards, lengths = np.array([1.0, 1.0, 1.0, 0.0, 1.0]), np.array([3.0, 8.0, 8.0, 9.0, 12.0])
    finished, limit = np.array([True, True, False, True, True]), np.full(5, 8.0)
    cut = losses.dler_truncated(lengths, finished, limit)
    np.testing.assert_array_equal(cut, [False, False, True, True, True])
    np.testing.assert_array_equal(losses.dler_rewards(rewards, cut), [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(losses.dler_rewards(rewards, cut, factor=0.1), [1, 1, 0.1, 0, 0.1])
    np.testing.assert_array_equal(losses.dler_rewards(rewards, cut, factor=1.0), rewards)
    below = np.array([-1.0, -1.0, -1.0, 0.0, np.nan])  # a sum with penalties in it is not raised by being too long
    for factor in (0.0, 0.1, 1.0):
        np.testing.assert_array_equal(losses.dler_rewards(below, cut, factor=factor), below)
    everything = losses.dler_truncated(lengths, finished, limit + np.inf)
    assert not everything.any()


def test_dlers_limit_falls_with_the_share_of_right_answers():
    correct = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, np.nan, np.nan, np.nan]], float)
    known = ~np.isnan(correct)
    limits = losses.dler_limits(correct, known, limit=4000, tiers=((0.5, 2000), (0.9, 1000)))
    np.testing.assert_array_equal(limits, [4000, 4000, 2000, 1000, 1000])
    assert np.all(np.diff(limits[:4]) <= 0)
    np.testing.assert_array_equal(losses.dler_limits(correct, known & False, limit=4000), 4000)


def whitened_over_the_batch(rewards, lengths, by_token):
    d = rewards - rewards.mean(1, keepdims=True)
    every = np.repeat(d.ravel(), lengths.ravel()) if by_token else d.ravel()
    return (d - every.mean()) / np.sqrt(every.var(ddof=1) + 1e-8)


REWARDS = np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.01], [1.0, 1.0, 0.0, 1.0]])
LENGTHS = np.array([[3, 9, 4, 5], [8, 8, 2, 1], [4, 7, 6, 2]])


@pytest.mark.parametrize("whitening", ["tokens", "answers"])
def test_advantages_are_whitened_over_the_batch_and_not_over_the_group(whitening):
    got = shaped(REWARDS[..., None], np.ones(1), Advantage("mean", whitening), LENGTHS).advantage
    np.testing.assert_allclose(got, whitened_over_the_batch(REWARDS, LENGTHS, whitening == "tokens"), atol=1e-12)
    every = np.repeat(got.ravel(), LENGTHS.ravel()) if whitening == "tokens" else got.ravel()
    assert abs(every.mean()) < 1e-12
    assert every.var(ddof=1) == pytest.approx(1, abs=1e-6)
    # An answer that is left out has its reward in its group's mean, and enters no mean and no deviation of the batch.
    left = LENGTHS * np.where(np.arange(12).reshape(3, 4) == 1, 0, 1)
    got_less = shaped(REWARDS[..., None], np.ones(1), Advantage("mean", whitening), left).advantage
    n = left.ravel() if whitening == "tokens" else (left.ravel() > 0).astype(int)
    rest = np.repeat(got_less.ravel(), n)
    assert abs(rest.mean()) < 1e-12
    assert rest.var(ddof=1) == pytest.approx(1, abs=1e-6)
    # A group that hardly differs: large under its own deviation, tiny under the batch's.
    alone = shaped(REWARDS[..., None], np.ones(1), Advantage("mean", "group", 1e-8), LENGTHS).advantage
    assert np.abs(alone[1]).max() > 1.4
    assert np.ptp(got[1]) < 0.05


def test_under_equal_deviations_and_lengths_it_is_grpo_to_a_factor():
    rewards = np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]])
    grpo = shaped(rewards[..., None], np.ones(1), Advantage("mean", "group", 0.0), np.full((2, 4), 5)).advantage
    for whitening in ("tokens", "answers"):
        got = shaped(rewards[..., None], np.ones(1), Advantage("mean", whitening), np.full((2, 4), 5)).advantage
        factor = got / grpo
        np.testing.assert_allclose(factor, factor[0, 0], rtol=1e-9)
        n, groups = (40, 2) if whitening == "tokens" else (8, 2)
        # n - 1 of the batch where the groups have k - 1 each.
        assert factor[0, 0] == pytest.approx(math.sqrt((n - 1) / n * 4 / 3), rel=1e-6), groups


def test_the_boost_is_added_last_to_answers_worth_one():
    plain = shaped(REWARDS[..., None], np.ones(1), Advantage("mean", "answers"), LENGTHS).advantage
    got = shaped(REWARDS[..., None], np.ones(1), Advantage("mean", "answers", boost=0.1), LENGTHS).advantage
    np.testing.assert_allclose(got - plain, 0.1 * (REWARDS >= 1), atol=1e-12)


# --- HAPO ---


def hapo(length, right, h, w=1.0, form="cosine", floor=-0.7, tolerance=0.1):
    if math.isnan(h):
        return float(right)
    if form == "cosine":
        f = math.cos(min(math.pi / 2 * length / h, math.pi))
        return right + w * (max(f, floor) if right else min(f, 0.0))
    free = (1 + tolerance) * h
    if right:
        value = 1 - length / h if length < h else 0.0 if length <= free else max(-(length - free) / h, floor)
    else:
        value = 0.0 if length <= free else max(-(length - free) / h, -1.0)
    return right + w * value


@pytest.mark.parametrize("form", ["cosine", "linear"])
@pytest.mark.parametrize("w", [1.0, 0.3])
def test_hapo_is_the_papers_reward(form, w):
    length, right, h = np.meshgrid([0.0, 3, 50, 100, 105, 110, 150, 200, 1000], [True, False], [100.0, 7.0, np.nan])
    got = losses.hapo_rewards(length, right.astype(bool), h, weight=w, form=form)
    each = zip(length.ravel(), right.ravel(), h.ravel(), strict=True)
    expected = [hapo(a, bool(b), c, w, form) for a, b, c in each]
    np.testing.assert_allclose(got.ravel(), expected, atol=1e-12)


def test_hapo_at_the_points_that_the_paper_names():
    at = lambda length, right, h=100.0: float(  # noqa: E731
        losses.hapo_rewards(np.array([length]), np.array([right]), np.array([h]))[0] - right
    )
    assert at(0.0, True) == 1
    assert abs(at(100.0, True)) < 1e-12
    assert at(200.0, True) == at(9e9, True) == -0.7
    assert at(200.0, False) == at(9e9, False) == -1
    for length in (0.0, 50.0, 100.0):
        assert abs(at(length, False)) < 1e-12
    assert at(5.0, True, math.nan) == at(5.0, False, math.nan) == 0


@given(st.floats(0, 500), st.floats(0, 500), st.floats(1, 300), st.booleans(), st.sampled_from(["cosine", "linear"]))
def test_hapo_never_pays_for_length_and_has_no_unit(a, b, h, right, form):
    reward = lambda x, by=1.0: losses.hapo_rewards(  # noqa: E731
        np.array(x) * by, np.full(len(x), right), np.full(len(x), h * by), form=form
    )
    short, long = reward([min(a, b), max(a, b)])
    assert short >= long - 1e-12
    np.testing.assert_allclose(reward([a, b], 37.0), reward([a, b]), atol=1e-9)


def test_any_right_answer_is_worth_more_than_any_wrong_one():
    length = np.linspace(0, 500, 101)
    for form in ("cosine", "linear"):
        right, wrong = (
            losses.hapo_rewards(length, np.full(101, is_right), np.full(101, 100.0), form=form)
            for is_right in (True, False)
        )
        assert right.min() == pytest.approx(0.3)
        assert wrong.max() <= 0
        plain = losses.hapo_rewards(length, np.full(101, True), np.full(101, 100.0), form=form, weight=0.0)
        np.testing.assert_array_equal(plain, 1)


def test_the_history_is_the_shortest_right_answer_or_their_mean():
    right = np.array([False, True, True])
    for mode, first, second in (("min", 4.0, 3.0), ("mean", 5.0, (10 + 3 + 5) / 4)):
        one = losses.hapo_history(None, np.array([1, 4, 6]), right, mode=mode)
        assert one == (first, 2)
        two = losses.hapo_history(one, np.array([2, 3, 5]), right, mode=mode)
        assert two == (pytest.approx(second), 4)
        assert losses.hapo_history(two, np.array([1, 1]), np.array([False, False]), mode=mode) == two
    assert losses.hapo_history(None, np.array([1, 1]), np.array([False, False])) is None
    assert losses.hapo_history((3.0, 2), np.array([9]), np.array([True])) == (3.0, 3), "never longer"
    with pytest.raises(ValueError, match="mode 'last'"):
        losses.hapo_history(None, np.array([1]), np.array([True]), mode="last")


def test_the_old_history_rewards_the_best_answer_where_the_new_one_would_not():
    best, old = np.array([50.0]), np.array([100.0])
    assert losses.hapo_rewards(best, np.array([True]), old)[0] > 1.5
    new, _ = losses.hapo_history((100.0, 1), best, np.array([True]))
    assert losses.hapo_rewards(best, np.array([True]), np.array([new]))[0] == pytest.approx(1.0)


def test_repeated_tokens_lie_in_an_n_gram_that_was_there_before():
    assert losses.repeated_tokens(np.array([1, 2, 3, 4])) == 0
    assert losses.repeated_tokens(np.array([1, 2, 3, 9, 1, 2, 3])) == pytest.approx(3 / 7)
    assert losses.repeated_tokens(np.array([5, 5, 5, 5])) == pytest.approx(3 / 4)
    assert losses.repeated_tokens(np.array([], int)) == losses.repeated_tokens(np.array([1, 1])) == 0


# --- ORION ---


def orion(lengths, right, alpha):
    own = [n for n, r in zip(lengths, right, strict=True) if r]
    if not own:
        return [0.0] * len(lengths)
    low, high = min(own), max(own)
    if low == high:
        return [float(r) for r in right]
    return [1 + alpha * (high - n) / (high - low) if r else 0.0 for n, r in zip(lengths, right, strict=True)]


GROUP = st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=8)


@given(GROUP, st.sampled_from([0.0, 0.1, 0.5]), st.floats(0.1, 9), st.floats(0, 50))
def test_orion_is_the_papers_reward_and_knows_no_unit(group, alpha, a, b):
    lengths, right = np.array([n for n, _ in group], float), np.array([r for _, r in group])
    got = losses.orion_rewards(lengths, right, alpha=alpha)
    np.testing.assert_allclose(got, orion(lengths, right, alpha), atol=1e-12)
    np.testing.assert_allclose(losses.orion_rewards(a * lengths + b, right, alpha=alpha), got, atol=1e-9)
    other = np.where(right, lengths, 999.0)
    np.testing.assert_array_equal(losses.orion_rewards(other, right, alpha=alpha), got)
    if alpha == 0:
        np.testing.assert_array_equal(got, right)


def test_orions_extremes_lone_answers_and_ties():
    reward = lambda lengths, right: losses.orion_rewards(np.array(lengths), np.array(right), alpha=0.5)  # noqa: E731
    np.testing.assert_allclose(reward([10.0, 30, 20, 5], [True, True, True, False]), [1.5, 1, 1.25, 0])
    np.testing.assert_allclose(reward([10.0, 30, 5], [True, True, False]), [1.5, 1, 0], err_msg="extremes stay")
    np.testing.assert_array_equal(reward([900.0, 10, 20], [True, False, False]), [1, 0, 0])
    np.testing.assert_array_equal(reward([7.0, 7, 7], [True, True, True]), [1, 1, 1])
    np.testing.assert_array_equal(reward([7.0, 7], [False, False]), [0, 0])


def test_in_an_all_right_group_alpha_is_no_strength_under_the_groups_deviation():
    lengths = np.array([[10.0, 30.0, 20.0, 14.0]])

    def advantages(alpha, scale):
        rewards = losses.orion_rewards(lengths, np.ones((1, 4), bool), alpha=alpha)
        return shaped(rewards[..., None], np.ones(1), Advantage("mean", scale, 1e-9), lengths).advantage

    np.testing.assert_allclose(advantages(0.01, "group"), advantages(1.0, "group"), rtol=1e-5)
    np.testing.assert_allclose(advantages(0.01, "none"), 0.01 * advantages(1.0, "none"), rtol=1e-9)
