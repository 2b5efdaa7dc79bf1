"""Rewards from preferences between segments: planning against brute force, the delivery task, what is identified."""

import itertools

import numpy as np
import pytest

from jaxpo.errors import ConfigError
from jaxpo.evaluate.regret.delivery import (
    FEATURES,
    WEIGHTS,
    Board,
    process_of,
    random_board,
    random_shares,
    random_weights,
)
from jaxpo.evaluate.regret.evaluation import compared
from jaxpo.evaluate.regret.learning import Fit, learn, policy_features, quality
from jaxpo.evaluate.regret.processes import (
    Process,
    greedy_policy,
    mean_return,
    optimal_values,
    random_process,
    scaled_return,
    successor_features,
)
from jaxpo.evaluate.regret.segments import Preferences, Segments, labelled, sample_segments, statistic

BOARD = Board(("..oG", ".#~x", "S.O."))
TRUE = np.asarray(WEIGHTS)


def walked(process, policy, weights, gamma, steps=4000):
    """Values by sweeps alone."""
    rewards, values = np.einsum("san,san->sa", process.transitions, process.features @ weights), 0
    for _ in range(steps):
        values = np.sum(policy * (rewards + gamma * process.transitions @ (values + np.zeros(len(rewards)))), axis=1)
    return values


def test_successor_features_are_the_policys_value():
    process, rng = random_process(np.random.default_rng(0)), np.random.default_rng(1)
    weights, policy = rng.standard_normal(4), rng.dirichlet(np.ones(3), 12)
    psi = successor_features(process, policy, gamma=0.9)
    np.testing.assert_allclose(psi @ weights, walked(process, policy, weights, 0.9), atol=1e-8)
    assert mean_return(process, policy, weights, gamma=0.9) == pytest.approx(process.starts @ psi @ weights)


def test_no_policy_is_better_than_the_greedy_one():
    process = random_process(np.random.default_rng(2), states=5, actions=2, successors=2)
    weights = np.random.default_rng(3).standard_normal(4)
    values, q = optimal_values(process, weights, gamma=0.9)
    every = [np.eye(2)[list(choice)] for choice in itertools.product(range(2), repeat=5)]
    best = np.max([successor_features(process, policy, gamma=0.9) @ weights for policy in every], axis=0)
    np.testing.assert_allclose(values, best, atol=1e-9)
    np.testing.assert_allclose(q.max(1), values)
    greedy = greedy_policy(process, weights, gamma=0.9)
    np.testing.assert_allclose(successor_features(process, greedy, gamma=0.9) @ weights, best, atol=1e-6)
    assert scaled_return(process, greedy, weights, gamma=0.9) == pytest.approx(1)
    assert scaled_return(process, np.full((5, 2), 0.5), weights, gamma=0.9) == pytest.approx(0, abs=1e-9)


def test_the_board_is_the_tasks():
    process = process_of(BOARD)
    step = lambda s, a: process.features[s, a, process.transitions[s, a].argmax()] @ TRUE  # noqa: E731
    up, down, left, right = range(4)
    assert step(0, right) == -1  # a road
    assert step(1, right) == 0  # gas, and a coin
    assert step(2, right) == 50
    assert step(2, down) == -2  # mud in the place of gas
    assert step(6, right) == -2  # gas, and a roadblock
    assert step(6, down) == -1  # mud, and a coin
    assert step(4, down) == -50
    assert step(4, right) == -1 == step(0, up)  # a house and the border: the road that it stands on
    assert step(6, left) == -2  # likewise, on mud
    assert step(10, down) == -2  # its coin is not taken again without leaving
    assert process.transitions[4, right].argmax() == 4
    assert np.flatnonzero(process.terminal).tolist() == [3, 8]
    assert not process.features[3].any()
    assert process.starts[[3, 5, 8]].tolist() == [0, 0, 0]
    np.testing.assert_allclose(process.starts[process.starts > 0], 1 / 9)
    assert process.deterministic
    assert FEATURES == ("gas", "goal", "sheep", "coin", "roadblock", "mud")


def test_both_regrets_agree_where_transitions_are_deterministic_and_nothing_is_discounted():
    process, rng = process_of(BOARD), np.random.default_rng(4)
    segments = sample_segments(process, rng, 200)
    general = statistic(process, segments, TRUE, "regret", gamma=1.0)
    direct = statistic(process, segments, TRUE, "deterministic_regret", gamma=1.0)
    np.testing.assert_allclose(general, direct, atol=1e-4)  # float32 of values up to 50
    assert np.all(general <= 1e-5)
    values, q = optimal_values(process, TRUE, gamma=1.0)
    best = q >= values[:, None] - 1e-9
    optimal = best[segments.states[:, :-1], segments.actions].all(axis=1)
    assert 0 < optimal.sum() < 200
    np.testing.assert_array_equal(general > -1e-4, optimal)


def test_shaping_by_a_potential_changes_returns_and_not_the_regret():
    plain, rng = process_of(BOARD), np.random.default_rng(5)
    potential = np.where(plain.terminal, 0, rng.standard_normal(12))
    extra = (potential[None, :] - potential[:, None])[:, None, :, None] * plain.transitions[..., None]
    shaped = Process(plain.transitions, np.concatenate([plain.features, extra], -1), plain.terminal, plain.starts)
    segments = sample_segments(shaped, rng, 100)
    with_it, without = np.append(TRUE, 1.0), np.append(TRUE, 0.0)
    regret = [statistic(shaped, segments, w, "regret", gamma=1.0) for w in (with_it, without)]
    np.testing.assert_allclose(regret[0], regret[1], atol=1e-4)
    returns = [statistic(shaped, segments, w, "partial_return") for w in (with_it, without)]
    assert np.abs(returns[0] - returns[1]).max() > 0.5


def test_of_equal_returns_regret_prefers_the_better_end():
    process = process_of(Board(("....G",)))
    towards = Segments(np.asarray([[1, 2]]), np.asarray([[3]]), np.asarray([[1.0, 0, 0, 0, 0, 0]]))
    away = Segments(np.asarray([[1, 0]]), np.asarray([[2]]), np.asarray([[1.0, 0, 0, 0, 0, 0]]))
    returns = [statistic(process, s, TRUE, "partial_return") for s in (towards, away)]
    np.testing.assert_array_equal(returns[0], returns[1])
    regret = [statistic(process, s, TRUE, "regret") for s in (towards, away)]
    assert regret[0] > regret[1] + 1


def test_labels_follow_their_model():
    process, rng = process_of(BOARD), np.random.default_rng(6)
    data = labelled(process, TRUE, rng, 4000, kind="partial_return", noise=True)
    apart = (data.first.features - data.second.features) @ TRUE
    near = np.abs(apart - 1) < 1e-9
    assert data.labels[near].mean() == pytest.approx(1 / (1 + np.exp(-1)), abs=4 * 0.5 / np.sqrt(near.sum()))
    sure = labelled(process, TRUE, rng, 200, kind="partial_return")
    apart = (sure.first.features - sure.second.features) @ TRUE
    np.testing.assert_array_equal(sure.labels, 0.5 + 0.5 * np.sign(np.round(apart, 6)))


def test_a_reward_is_learnt_from_either_model():
    """Five pairs of features decide what partial returns say; the loss is that of logistic regression."""
    process, rng = process_of(BOARD), np.random.default_rng(7)
    fit = Fit(temperature=0.1, steps=400, learning_rate=0.1, policies=8)
    successors = policy_features(process, rng, fit, without=TRUE)
    assert successors.shape == (8, 12, 6)
    data = labelled(process, TRUE * 0.2, rng, 3000, kind="partial_return", noise=True)
    learnt = learn(process, data, "partial_return", fit, successors)
    # Sheep and goal are seen, and so is the rest: maximum likelihood is near what the labels were drawn from.
    one, two = data.first.features, data.second.features
    p = 1 / (1 + np.exp(-(one - two) @ learnt))
    gradient = (one - two).T @ (p - data.labels) / len(p)
    assert np.abs(gradient).max() < 0.02
    assert learnt[1] > 3 > -3 > learnt[2]


def test_an_evaluation_compares_both_models():
    rng = np.random.default_rng(8)
    boards = [(process_of(random_board(rng, side=4, sheep=0.1)), TRUE) for _ in range(2)]
    fit = Fit(temperature=0.1, steps=300, policies=8)
    (found,) = compared(boards, [60], fit, seed=0)
    assert set(found.returns) == {"regret", "partial_return"}
    assert all(len(values) == 2 and max(values) <= 1 + 1e-6 for values in found.returns.values())
    assert 0 <= found.near_optimal("regret") <= 2
    assert quality(boards[0][0], TRUE, TRUE) == pytest.approx(1)
    (again,) = compared(boards, [60], fit, seed=0)
    assert again == found


def test_random_boards_have_what_was_asked_for():
    board = random_board(np.random.default_rng(9), side=10, sheep=0.1, coins=0.2, roadblocks=0.3)
    cells = "".join(board.cells)
    count = {name: sum(cells.count(c) for c in own) for name, own in
             {"sheep": "S", "coins": "oO", "blocks": "xX", "goal": "G"}.items()}  # fmt: skip
    assert count == {"sheep": 10, "coins": 20, "blocks": 30, "goal": 1}
    rng = np.random.default_rng(10)
    for _ in range(50):
        random_board(rng, **random_shares(rng))
        assert random_weights(rng)[2] < 0


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Board(("..", ".")), "rows of one length"),
    (lambda: Board((".?",)), "no cell '\\?'"),
    (lambda: Board(("#G",)), "needs a cell that the van can start from"),
    (lambda: random_board(np.random.default_rng(0), sheep=0.9, coins=0.2), "no road left"),
    (lambda: Fit(temperature=0.0), "temperature: 0.0 must be above 0"),
    (lambda: Fit(gamma=1.0), "gamma: 1.0 must lie between"),
    (lambda: Process(np.zeros((1, 1, 1)), np.zeros((1, 1, 1, 1)), np.ones(1, bool), np.ones(1)), "add up to 1"),
    (lambda: Process(np.ones((1, 1, 1)), np.ones((1, 1, 1, 1)), np.ones(1, bool), np.ones(1)), "leads to itself"),
    (lambda: Process(np.ones((1, 1, 1)), np.zeros((1, 1, 1, 1)), np.ones(1, bool), np.full(1, 2)), "starts: no"),
    (lambda: optimal_values(process_of(Board(("oo",))), np.asarray([-0.5, 0, 0, 1, 0, 0]), gamma=1.0, sweeps=50),
     "still grow"),
    (lambda: scaled_return(process_of(Board(("..",))), np.full((2, 4), 0.25), TRUE), "the uniform policy is optimal"),
])  # fmt: skip
def test_bad_input_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_preferences_are_data():
    segments = sample_segments(process_of(BOARD), np.random.default_rng(11), 4)
    data = Preferences(segments[:2], segments[2:], np.zeros(2))
    assert data.first.states.shape == (2, 4)
