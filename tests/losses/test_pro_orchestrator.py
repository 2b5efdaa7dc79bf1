"""The orchestrator's targets, loss and reward against float64 references, and the paper's optimality gap."""

import jax
import numpy as np
import pytest
from losses.loss_checks import check_against, check_bfloat16, check_vmap, jitted, value_and_grads

from jaxpo import losses

N, K = 6, 3
pro = jitted(losses.pro_orchestrator)


def softmax(x):
    x = np.asarray(x, np.float64)
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rewards(seed=0):
    return np.random.default_rng(seed).normal(size=(N, K)).astype(np.float32) * [1.0, 20.0, 0.1] + [0.0, 5.0, -3.0]


def statistics(r):
    return r.mean(0).astype(np.float32), r.std(0).astype(np.float32)


def targets(r, tau=1.0):
    return np.asarray(losses.orchestrator_targets(r, *statistics(r), temperature=tau))


def kl(z, w):
    z = np.asarray(z, np.float64)
    logs = z - z.max(-1, keepdims=True)
    logs = logs - np.log(np.exp(logs).sum(-1, keepdims=True))
    return np.sum(np.where(w > 0, w * (np.log(np.where(w > 0, w, 1.0)) - logs), 0.0), -1)


def test_targets_are_a_softmax_of_z_scores():
    r = rewards()
    z = (r - r.mean(0)) / (r.std(0) + 1e-8)
    np.testing.assert_allclose(targets(r, 0.7), softmax(z / 0.7), rtol=1e-4)
    np.testing.assert_allclose(targets(r).sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(targets(r * [3.0, 0.01, 7.0] + [1.0, -5.0, 100.0]), targets(r), rtol=1e-3)
    np.testing.assert_allclose(targets(r, 1e6), 1 / K, rtol=1e-4)
    np.testing.assert_array_equal(targets(r, 1e-4).argmax(-1), z.argmax(-1))
    np.testing.assert_allclose(targets(r, 1e-4).max(-1), 1.0, rtol=1e-4)


def test_entropy_falls_with_the_spread_of_the_rewards():
    r = np.array([[1.0, 0.0, -1.0]]) * np.array([0.1, 0.5, 1.0, 3.0])[:, None]
    w = np.asarray(losses.orchestrator_targets(r, np.zeros(3), np.ones(3)))
    entropy = -np.sum(w * np.log(w), -1)
    assert np.all(np.diff(entropy) < 0)


def test_value_and_gradient():
    z, w = np.random.default_rng(1).normal(size=(N, K)).astype(np.float32), targets(rewards())
    _, (g,) = check_against(lambda z: pro(z, w), lambda z: kl(z, w), (z,), (0,))
    np.testing.assert_allclose(g, softmax(z) - w, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(g.sum(-1), 0.0, atol=1e-6)
    check_bfloat16(lambda z: pro(z, w), (z,), (0,))
    check_vmap(pro, (z, w))
    np.testing.assert_allclose(pro(z + 7, w), pro(z, w), rtol=1e-4, atol=1e-6)
    assert np.all(np.asarray(pro(z, w)) >= 0)
    np.testing.assert_allclose(pro(np.log(w), w), 0.0, atol=1e-6)
    hot = np.eye(K, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
    np.testing.assert_allclose(pro(z, hot), kl(z, hot), rtol=1e-5)
    np.testing.assert_allclose(pro(1e4 * z, hot), kl(1e4 * z.astype(np.float64), hot), rtol=1e-5)


def test_the_targets_take_no_gradient_and_absent_rows_are_nothing():
    z, w = np.random.default_rng(2).normal(size=(2, N, K)).astype(np.float32)
    where = np.array([1, 1, 0, 1, 0, 1], bool)
    z[~where], w = np.nan, softmax(w).astype(np.float32)
    value, grads = value_and_grads(lambda z, w: losses.pro_orchestrator(z, w, where=where), (z, w), (0, 1))
    np.testing.assert_array_equal(value[~where], 0.0)
    np.testing.assert_array_equal(grads[0][~where], 0.0)
    np.testing.assert_array_equal(grads[1], 0.0)
    r = rewards()
    g = jax.grad(lambda r: losses.orchestrator_targets(r, *statistics(rewards()))[0, 0])(r.astype(np.float32))
    np.testing.assert_array_equal(g, 0.0)


def test_the_minimum_for_several_responses_is_at_the_mean_of_their_targets():
    w = targets(rewards())[:2]
    mean = np.log(w.mean(0, keepdims=True))
    best = float(np.sum(pro(np.repeat(mean, 2, 0), w)))
    for k in range(K):
        moved = mean + 0.1 * np.eye(K)[[k]]
        assert float(np.sum(pro(np.repeat(moved, 2, 0), w))) > best


def test_the_reward_is_of_normalised_rewards_and_a_user_may_interpolate():
    r = rewards()
    mean, std = statistics(r)
    w = targets(r)
    z = (r - mean) / (std + 1e-8)
    np.testing.assert_allclose(losses.orchestrated_reward(w, r, mean, std), np.sum(w * z, -1), rtol=1e-3, atol=1e-4)
    equal = np.full((N, K), 1 / K)
    np.testing.assert_allclose(losses.orchestrated_reward(equal, r, mean, std), z.mean(-1), rtol=1e-3, atol=1e-4)
    one = losses.orchestrated_reward(softmax(np.ones((N, 1))), r[:, :1], mean[:1], std[:1])
    np.testing.assert_allclose(one, z[:, 0], rtol=1e-4, atol=1e-5)
    own = np.eye(K)[0]
    np.testing.assert_allclose(losses.interpolated_weights(w, own, share=0.25), 0.75 * w + 0.25 * own, rtol=1e-6)
    np.testing.assert_allclose(losses.interpolated_weights(w, own, share=0.0), w)


@pytest.mark.parametrize("constant", [False, True])
def test_no_fixed_weights_beat_those_of_the_prompts(constant):
    """mean_x [max_y w(x) . R - w(x) . R(x, argmax_y v . R)] >= 0 for every v, 0 where all w(x) are v."""
    rng = np.random.default_rng(3)
    r = rng.normal(size=(40, 8, 2))
    first = np.full(40, 0.3) if constant else rng.random(40)
    w = np.stack([first, 1 - first], -1)
    true, prompts = np.einsum("xyk,xk->xy", r, w), np.arange(40)

    def chosen(weights):
        return np.asarray(losses.orchestrated_reward(weights[:, None], r, np.zeros(2), np.ones(2))).argmax(1)

    best = true[prompts, chosen(w)]
    np.testing.assert_array_equal(best, true.max(1))
    for a in np.linspace(0, 1, 11):
        gap = np.mean(best - true[prompts, chosen(np.tile([a, 1 - a], (40, 1)))])
        assert gap >= -1e-12
        if constant and abs(a - 0.3) < 1e-9:
            np.testing.assert_allclose(gap, 0.0, atol=1e-12)
