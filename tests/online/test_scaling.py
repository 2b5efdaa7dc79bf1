"""Rewards on the scale of all those before, as a fold over generations: against numpy on everything seen so far."""

import numpy as np
import pytest

from jaxpo.objectives.methods.constrained_rlhf import ConstrainedRLHF
from jaxpo.objectives.methods.ppo import PPO
from jaxpo.objectives.methods.rollouts import ScoreScaling
from jaxpo.online.scaling import Scaler

RNG = np.random.default_rng(6)
GENERATIONS = [RNG.normal(3 * i, 1 + i, (4, 3)) for i in range(4)]
GENERATIONS[1][0, 0] = np.nan


def scaled(number, how, scaler=None):
    return (scaler or Scaler(how, GENERATIONS.__getitem__)).scaled(number, GENERATIONS[number])


@pytest.mark.parametrize("kind", ["scale", "norm"])
def test_rewards_are_over_the_deviation_of_all_so_far(kind):
    scaler = Scaler(ScoreScaling(kind), GENERATIONS.__getitem__)
    for number, rewards in enumerate(GENERATIONS):
        every = np.concatenate([x.reshape(-1) for x in GENERATIONS[: number + 1]])
        known = every[~np.isnan(every)]
        centre = known.mean() if kind == "norm" else 0.0
        expected = (rewards - centre) / known.std(ddof=1)
        np.testing.assert_allclose(scaled(number, None, scaler), expected, rtol=1e-6)
        np.testing.assert_array_equal(scaled(number, ScoreScaling(kind)), scaled(number, None, scaler))  # after a kill
    np.testing.assert_array_equal(scaled(1, None, scaler), scaled(1, ScoreScaling(kind)))  # back to a checkpoint


def test_they_are_cut_at_a_size():
    got = scaled(3, ScoreScaling("norm", 0.5))
    assert np.abs(got).max() == 0.5
    free = scaled(3, ScoreScaling("norm"))
    np.testing.assert_array_equal(got, np.clip(free, -0.5, 0.5))


def test_rewards_that_never_differ_stay_finite():
    flat = Scaler(ScoreScaling("norm"), lambda number: np.full((2, 2), 3.0))
    np.testing.assert_array_equal(flat.scaled(1, np.full((2, 2), 3.0)), 0)


def test_a_method_says_whether_it_scales():
    assert PPO().scaling is None
    assert PPO(score_scaling="norm", score_clip=10.0).scaling == ScoreScaling("norm", 10.0)
    assert any("score_clip" in problem for problem in PPO(score_clip=10.0).problems())
    assert any("whitened" in problem for problem in ConstrainedRLHF(score_scaling="norm").problems())
