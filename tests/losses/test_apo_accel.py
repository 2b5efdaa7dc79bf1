"""Accelerated rounds on tables: the closed form, its rate, and that parameters and policies extrapolate alike."""

import jax
import numpy as np
import pytest
from losses.loss_checks import check_against, check_bfloat16

from jaxpo import losses
from jaxpo.merge.linear import linear

BETA, ACTIONS = 2.0, 50
extrapolated = jax.jit(losses.extrapolated_logps, static_argnames="alpha")


def normalised(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def rounds(reward, start, alpha, count, inner=None):
    """Policies pi_1 .. of exact inner steps `hat = pi exp(r / beta) / Z`, as log-probs; float64."""
    policy = before = start
    found = []
    for _ in range(count):
        r = reward if inner is None else inner(policy)
        solution = normalised(policy + r / BETA)
        policy = np.asarray(extrapolated(solution, before, alpha=alpha), np.float64)
        before = solution
        found.append(policy)
    return found


@pytest.fixture(scope="module")
def bandit():
    rng = np.random.default_rng(0)
    return rng.random(ACTIONS), normalised(rng.normal(size=ACTIONS))


def test_value_and_gradient():
    rng = np.random.default_rng(1)
    new, old = (normalised(rng.normal(size=(4, 6))).astype(np.float32) for _ in range(2))

    def reference(a, b):
        return normalised(a + 0.4 * (np.asarray(a, np.float64) - b))

    check_against(lambda a, b: extrapolated(a, b, alpha=0.4), reference, (new, old), (0, 1))
    check_bfloat16(lambda a, b: extrapolated(a, b, alpha=0.4), (new, old), (0, 1))
    np.testing.assert_allclose(np.exp(extrapolated(new, old, alpha=0.9)).sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(extrapolated(new, new, alpha=0.9), new, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(extrapolated(new, old, alpha=0.0), new, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.6])
def test_the_closed_form_of_a_constant_reward(bandit, alpha):
    reward, start = bandit
    v, c = [1.0], []
    for t in range(8):
        c.append(sum(v) + alpha * v[-1])
        v.append(1.0 + alpha * v[-1])
        np.testing.assert_allclose(
            rounds(reward, start, alpha, t + 1)[-1], normalised(start + c[-1] * reward / BETA), rtol=1e-4, atol=1e-4
        )
    assert c[0] == 1 + alpha


def test_the_speed_goes_to_one_over_one_minus_alpha():
    for alpha in (0.3, 0.6):
        odds = [p[1] - p[0] for p in rounds(np.array([0.0, 1.0]), normalised(np.zeros(2)), alpha, 25)]
        assert BETA * (odds[-1] - odds[-2]) == pytest.approx(1 / (1 - alpha), rel=2e-3)


def test_rounds_without_momentum_are_one_step_at_a_smaller_beta(bandit):
    reward, start = bandit
    np.testing.assert_allclose(
        rounds(reward, start, 0.0, 5)[-1], normalised(start + reward / (BETA / 5)), rtol=1e-4, atol=1e-4
    )


def test_sub_optimality_falls_in_alpha_at_every_round(bandit):
    reward, start = bandit
    curves = np.array(
        [[reward.max() - np.exp(p) @ reward for p in rounds(reward, start, a, 10)] for a in (0.0, 0.3, 0.6, 0.9)]
    )
    assert np.all(np.diff(curves, axis=0) < 0)


def test_with_win_rates_as_rewards_it_finds_a_condorcet_winner():
    rng = np.random.default_rng(2)
    wins = 0.5 + 0.4 * np.triu(rng.random((6, 6)), 1)
    wins = np.where(np.tril(np.ones((6, 6)), -1) > 0, 1 - wins.T, np.where(np.eye(6) > 0, 0.5, wins))
    start = normalised(np.zeros(6))
    last = rounds(None, start, 0.3, 200, inner=lambda policy: wins @ np.exp(policy))[-1]
    assert np.exp(last)[0] > 0.99


def test_parameters_of_a_softmax_extrapolate_as_the_policy_does():
    rng = np.random.default_rng(3)
    new, old = rng.normal(size=(2, 7)).astype(np.float32)
    merged = linear((new, old), (1.3, -0.3))
    np.testing.assert_allclose(
        normalised(merged), extrapolated(normalised(new), normalised(old), alpha=0.3), rtol=1e-4, atol=1e-5
    )
