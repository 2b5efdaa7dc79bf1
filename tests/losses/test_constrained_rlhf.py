"""Constrained RLHF: multipliers and mixed advantages against float64 numpy, and the bandit whose optimum is known."""

import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import check_against, jitted, numeric_gradient, value_and_grads

from jaxpo import losses

RNG = np.random.default_rng(2)
K, N, T = 3, 4, 5
LOGITS = RNG.normal(size=K).astype(np.float32)
VALUES, THETA = RNG.normal(size=(2, K)).astype(np.float32)
BOUNDS = {
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), lambda x: np.exp(-x) / (1 + np.exp(-x)) ** 2),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "unbounded": (lambda x: x, np.ones_like),
}


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_multiplier_rises_below_its_threshold_and_falls_above(bound):
    m, slope = BOUNDS[bound]
    loss = jitted(losses.multiplier_loss)
    own = lambda x: loss(x, VALUES, THETA, bound=bound)  # noqa: E731
    _, (g,) = check_against(own, lambda x: m(x) * (VALUES.astype(float) - THETA), (LOGITS,), (0,))
    np.testing.assert_allclose(g, slope(LOGITS) * (VALUES - THETA), rtol=1e-5)
    np.testing.assert_allclose(losses.multipliers(LOGITS, bound=bound), m(LOGITS), rtol=1e-6)
    _, grads = value_and_grads(own, (LOGITS,), (0,))
    below = VALUES < THETA
    np.testing.assert_array_equal(-grads[0] > 0, below)  # a step of descent raises those below
    _, (still,) = value_and_grads(lambda x: loss(x, THETA, THETA, bound=bound), (LOGITS,), (0,))
    np.testing.assert_array_equal(still, 0)
    # The values are constants.
    _, (of_values,) = value_and_grads(lambda v: loss(LOGITS, v, THETA, bound=bound), (VALUES,), (0,))
    np.testing.assert_array_equal(of_values, 0)


@pytest.mark.parametrize("bound", BOUNDS)
def test_advantages_are_mixed_by_the_multipliers(bound):
    a, m = RNG.normal(size=(N, T, 1 + K)), RNG.uniform(-0.9, 0.9, K)
    base = 1 if bound == "unbounded" else K - m.sum()
    expected = base * a[..., 0] + sum(m[i] * a[..., i + 1] for i in range(K))
    got = losses.constrained_advantages(jnp.asarray(a), jnp.asarray(m), bound=bound)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    nothing = losses.constrained_advantages(jnp.asarray(a), jnp.zeros(K), bound=bound)
    np.testing.assert_allclose(nothing, a[..., 0] * (1 if bound == "unbounded" else K), rtol=1e-6)


def test_at_the_bound_of_all_sigmoids_only_rewards_are_left():
    a = RNG.normal(size=(N, 1 + K))
    m = losses.multipliers(np.full(K, 40.0), bound="sigmoid")
    np.testing.assert_allclose(losses.constrained_advantages(a, m, bound="sigmoid"), a[:, 1:].sum(-1), rtol=1e-5)


def test_whitened_streams_forget_their_scale():
    x = RNG.normal(size=(2, N, T))
    mask = np.arange(T)[None] < np.asarray([5, 2, 3, 1])[:, None]
    each = [[losses.whiten(s * v + c, mask) for v in x] for s, c in ((1, 0), (30, -7))]
    m = np.asarray([0.4])
    mixed = [losses.constrained_advantages(np.stack(e, -1), m, bound="tanh") for e in each]
    np.testing.assert_allclose(mixed[0], mixed[1], atol=1e-5)
    inside = np.asarray(each[0][0])[mask]
    assert inside.mean() == pytest.approx(0, abs=1e-9)
    assert inside.std(ddof=1) == pytest.approx(1, rel=1e-6)


def by_hand(logits, velocity, steps, **how):
    """Gradient descent with momentum, its gradient by differences of the definition."""
    for _ in range(steps):
        g = numeric_gradient(lambda x: np.tanh(x) * (VALUES.astype(float) - THETA), (logits,), 0)
        g = g * min(1, how["max_norm"] / np.linalg.norm(g))
        velocity = how["momentum"] * velocity + g
        logits = logits - how["learning_rate"] * velocity
    return logits, velocity


def test_steps_of_the_multipliers():
    how = {"learning_rate": 0.2, "momentum": 0.3, "max_norm": 0.5}
    state = {"logits": jnp.asarray(LOGITS), "velocity": jnp.zeros(K)}
    for _ in range(3):
        state = losses.update_multipliers(state, VALUES, THETA, bound="tanh", **how)
    expected = by_hand(LOGITS.astype(float), np.zeros(K), 3, **how)
    np.testing.assert_allclose(state["logits"], expected[0], rtol=1e-4)
    np.testing.assert_allclose(state["velocity"], expected[1], rtol=1e-4, atol=1e-6)
    still = losses.update_multipliers({"logits": LOGITS, "velocity": jnp.zeros(K)}, THETA, THETA)
    np.testing.assert_array_equal(still["logits"], LOGITS)


ARMS = np.linspace(0, 1, 21)
UNIFORM = np.full(21, 1 / 21)


def optimum(m, coef=1.0):
    """The policy of the definition, by its own formula."""
    p = UNIFORM * np.exp(m * ARMS / (coef * (1 - m)))
    return p / p.sum()


def test_the_policy_of_fixed_multipliers_is_the_best_one():
    m, c = 0.4, 0.7
    best = np.asarray(losses.constrained_policy(UNIFORM, ARMS[None], np.asarray([m]), coef=c))
    np.testing.assert_allclose(best, optimum(m, c), rtol=1e-5)

    def objective(p):
        return (1 - m) * -c * np.sum(p * np.log(p / UNIFORM)) + m * p @ ARMS

    for _ in range(20):
        other = best * np.exp(0.05 * RNG.normal(size=21))
        assert objective(other / other.sum()) < objective(best) + 1e-9


@pytest.mark.parametrize("theta", [0.6, 0.8, 0.46])
def test_an_equality_is_reached_above_and_slightly_below_the_references_mean(theta):
    m, policy = losses.constrained_dual(UNIFORM, ARMS[None], np.asarray([theta]), bound="tanh")
    assert float(policy @ ARMS) == pytest.approx(theta, abs=1e-3)
    assert np.sign(m[0]) == np.sign(theta - 0.5)


def test_an_inequality_that_holds_is_left_alone():
    m, policy = losses.constrained_dual(UNIFORM, ARMS[None], np.asarray([0.4]), bound="sigmoid", steps=40_000)
    assert m[0] < 0.01
    np.testing.assert_allclose(policy, UNIFORM, atol=1e-3)
    m, policy = losses.constrained_dual(UNIFORM, ARMS[None], np.asarray([0.7]), bound="sigmoid")
    assert float(policy @ ARMS) == pytest.approx(0.7, abs=1e-3)


def test_a_threshold_far_below_the_reference_is_out_of_reach_of_a_bounded_multiplier():
    far = np.asarray([0.3])
    m, policy = losses.constrained_dual(UNIFORM, ARMS[None], far, bound="tanh", learning_rate=1.0)
    assert m[0] < -0.98
    least = UNIFORM * np.exp(-ARMS / 2) / np.sum(UNIFORM * np.exp(-ARMS / 2)) @ ARMS
    assert float(policy @ ARMS) == pytest.approx(least, abs=2e-3)
    assert least > 0.45
    _, policy = losses.constrained_dual(UNIFORM, ARMS[None], far, bound="unbounded")
    assert float(policy @ ARMS) == pytest.approx(0.3, abs=1e-3)


def test_two_rewards_are_held_at_once():
    rewards = np.stack([ARMS, (ARMS - 0.3) ** 2])
    theta = np.asarray([0.55, 0.12])
    _, policy = losses.constrained_dual(UNIFORM, rewards, theta, bound="unbounded", learning_rate=0.5)
    np.testing.assert_allclose(rewards @ np.asarray(policy), theta, atol=2e-3)


def test_a_bound_that_is_none_is_refused():
    with pytest.raises(ValueError, match="bound 'relu'"):
        losses.multipliers(LOGITS, bound="relu")
