"""Step DPO against its equations in float64, and what the specification lists of its loss."""

import functools

import jax
import numpy as np
import pytest
from losses.loss_checks import check_against, logps, sp, value_and_grads

from jaxpo import losses

RNG = np.random.default_rng(0)
N, T = 4, 6
TOKENS = tuple(logps(RNG, (N, T), scale=1.0, mean=-2.0) for _ in range(4))
STEP_W = np.array([[0, 0, 1, 1, 1, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]], bool)
STEP_L = np.array([[0, 0, 1, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 0, 0], [1, 1, 0, 0, 0, 0]], bool)
A = np.float32([0.0, 0.2, 0.5, 0.35])
BETA = 0.4


def sums(tokens, step, power):
    step = np.asarray(step, bool)
    return np.where(step, np.asarray(tokens, np.float64), 0).sum(1) / step.sum(1).astype(np.float64) ** power


@functools.partial(jax.jit, static_argnames=("power", "form"))
def mcts(*a, power=0.0, form="sigmoid"):
    return losses.mcts_dpo(*a[:4], STEP_W, STEP_L, *a[4:], beta=BETA, length_power=power, form=form)


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_the_loss_is_its_equation(power):
    def reference(p_w, p_l, r_w, r_l, a):
        z = sums(p_w, STEP_W, power) - sums(r_w, STEP_W, power) - sums(p_l, STEP_L, power) + sums(r_l, STEP_L, power)
        a = np.asarray(a, np.float64)
        return (1 - a) * sp(-BETA * z) + a * sp(BETA * z)

    check_against(functools.partial(mcts, power=power), reference, (*TOKENS, A), (0, 1))
    _, (through,) = value_and_grads(functools.partial(mcts, power=power), (*TOKENS, A), (4,))
    np.testing.assert_array_equal(through, 0.0)


def test_the_ipo_form():
    p_w, p_l, r_w, r_l = TOKENS
    z = sums(p_w, STEP_W, 0) - sums(r_w, STEP_W, 0) - sums(p_l, STEP_L, 0) + sums(r_l, STEP_L, 0)
    np.testing.assert_allclose(mcts(*TOKENS, A, form="ipo"), (z - 1 / (2 * BETA)) ** 2, rtol=1e-4)


def test_what_both_share_changes_nothing():
    spoiled = [np.where(step, x, 99.0) for x, step in zip(TOKENS, (STEP_W, STEP_L, STEP_W, STEP_L), strict=True)]
    np.testing.assert_allclose(mcts(*spoiled, A), mcts(*TOKENS, A), rtol=1e-6)


def test_without_smoothing_it_is_dpo_of_the_steps_and_half_is_no_signal():
    four = [sums(x, s, 0).astype(np.float32) for x, s in zip(TOKENS, (STEP_W, STEP_L, STEP_W, STEP_L), strict=True)]
    np.testing.assert_allclose(mcts(*TOKENS, 0 * A), losses.dpo(*four, beta=BETA), rtol=1e-5)
    same = (TOKENS[0], TOKENS[1], TOKENS[0], TOKENS[1])
    _, (slope,) = value_and_grads(mcts, (*same, 0 * A + 0.5), (0,))
    np.testing.assert_allclose(slope, 0.0, atol=1e-7)
