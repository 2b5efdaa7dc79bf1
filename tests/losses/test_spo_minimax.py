"""Win rates, the game behind them, and one learner that plays it against itself: against float64 numpy."""

import numpy as np
import pytest
from scipy.optimize import linprog

from jaxpo import losses

RNG = np.random.default_rng(5)
OTHERS = ~np.eye(4, dtype=bool)


def game(n, rng=RNG):
    x = rng.uniform(-1, 1, (n, n))
    return np.triu(x, 1) - np.triu(x, 1).T


def cycle(a, b, c):
    """0 beats 1 by a, 1 beats 2 by b, 2 beats 0 by c."""
    return np.asarray([[0, a, -c], [-a, 0, b], [c, -b, 0]])


def winner(payoffs):
    """The minimax winner by linear programming: p >= 0, sum p = 1, no row of P p above 0."""
    n = len(payoffs)
    found = linprog(np.zeros(n), A_ub=payoffs, b_ub=np.zeros(n), A_eq=np.ones((1, n)), b_eq=[1])
    return found.x


def by_hand(p, known):
    found = np.zeros(p.shape[:-1])
    for i in np.ndindex(found.shape):
        values = [p[(*i, o)] for o in range(p.shape[-1]) if known[(*i, o)]]
        found[i] = sum(values) / len(values) if values else 0
    return found


def test_rewards_of_a_group_are_the_mean_preference_over_the_others():
    p = np.stack([game(4), game(4)])
    known = np.broadcast_to(OTHERS, p.shape).copy()
    got = losses.win_rates(np.where(known, p, np.nan), known)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, by_hand(p, known))
    np.testing.assert_allclose(got.sum(-1), 0, atol=1e-12)  # so that a mean as the baseline changes nothing
    known[0, 0, 1] = known[1, 2] = False
    np.testing.assert_allclose(losses.win_rates(p, known), by_hand(p, known))
    assert losses.win_rates(p, known)[1, 2] == 0
    np.testing.assert_array_equal(losses.win_rates(np.zeros((4, 4)), OTHERS), 0)
    np.testing.assert_array_equal(losses.win_rates(np.ones((1, 1)), np.zeros((1, 1), bool)), 0)


def test_opponents_of_a_queue_count_alike():
    p = RNG.uniform(-1, 1, (3, 10))
    np.testing.assert_allclose(losses.win_rates(p, np.ones((3, 10), bool)), p.mean(-1))


def test_a_total_order_is_ranked_as_by_any_score():
    score = RNG.permutation(4).astype(float)
    rewards = losses.win_rates(np.sign(score[:, None] - score[None]), OTHERS)
    np.testing.assert_array_equal(rewards.argsort(kind="stable"), score.argsort(kind="stable"))
    np.testing.assert_allclose(np.sort(rewards), [-1, -1 / 3, 1 / 3, 1])


def test_asymmetry_is_what_an_oracle_lacks():
    p = game(4)
    assert losses.asymmetry(p, OTHERS) == pytest.approx(0)
    assert losses.asymmetry(p + 0.3, OTHERS) == pytest.approx(0.6)  # the first place is worth 0.3
    one_way = np.triu(OTHERS)
    assert losses.asymmetry(p + 0.3, one_way) == 0  # nothing was asked both ways round


def test_a_reward_that_is_split_evenly_has_the_same_sum():
    mask = np.arange(5)[None] < np.asarray([5, 2, 0])[:, None]
    got = losses.even_rewards(np.asarray([1.0, -3.0, 2.0]), mask)
    np.testing.assert_allclose(got, np.where(mask, np.asarray([[0.2], [-1.5], [0]]), 0))
    to_go = losses.returns_to_go(got, mask)
    np.testing.assert_allclose(to_go[:2, 0], [1, -3])


def test_rock_paper_scissors_has_nothing_to_win_at_the_uniform_policy():
    rps = cycle(1, 1, 1)
    np.testing.assert_allclose(rps @ np.full(3, 1 / 3), 0)
    average, _ = losses.self_play(rps, learning_rate=0.05)
    np.testing.assert_allclose(average, 1 / 3, atol=0.02)


def test_a_weighted_cycle_has_its_closed_form():
    a, b, c = 0.9, 0.3, 0.6
    expected = np.asarray([b, c, a]) / (a + b + c)
    assert losses.exploitability(cycle(a, b, c), expected) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(winner(cycle(a, b, c)), expected, atol=1e-8)
    average, _ = losses.self_play(cycle(a, b, c), learning_rate=0.02, steps=20_000)
    np.testing.assert_allclose(average, expected, atol=0.03)


def test_a_condorcet_winner_is_the_limit():
    p = game(5)
    p[2] = 0.4
    p[:, 2] = -0.4
    p[2, 2] = 0
    average, last = losses.self_play(p, learning_rate=0.1, steps=4000)
    assert last[2] == pytest.approx(1, abs=1e-3)
    assert average[2] > 0.97


@pytest.mark.parametrize(("rate", "steps"), [(0.02, 500), (0.1, 500), (0.02, 4000), (0.1, 4000)])
def test_the_average_iterate_is_within_the_bound_of_hedge(rate, steps):
    p = game(6, np.random.default_rng(1))
    average, _ = losses.self_play(p, learning_rate=rate, steps=steps)
    worst = losses.exploitability(p, average)
    assert 0 <= worst <= np.log(6) / (rate * steps) + rate / 2
    assert losses.exploitability(p, np.eye(6)[0]) > 0.1
    assert losses.exploitability(p, winner(p)) == pytest.approx(0, abs=1e-6)
