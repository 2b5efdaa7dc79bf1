"""InfoNCA, NCA and EXO-rw against float64 references."""

import numpy as np
import pytest
from losses.loss_checks import (
    check_against,
    check_bfloat16,
    check_extreme,
    check_vmap,
    jitted,
    logps,
    quad,
    sig,
    sp,
    value_and_grads,
)

from jaxpo import losses
from jaxpo.losses.listwise import masked_log_softmax, masked_softmax

dpo = jitted(losses.dpo)
exo_pair = jitted(losses.exo_pair)
exo_rw = jitted(losses.exo_rw)
infonca = jitted(losses.infonca)
nca = jitted(losses.nca)
nca_pair = jitted(losses.nca_pair)

K = 5


def lists(seed=0):
    """Log-probs, reference, rewards with ties, and a mask with lists of 5, 3, 1 and 0 responses; NaN elsewhere."""
    rng = np.random.default_rng(seed)
    p, r = (logps(rng, (4, K)) for _ in range(2))
    rewards = np.round(rng.random((4, K)), 1).astype(np.float32)
    rewards[0, 1] = rewards[0, 4]
    where = np.ones((4, K), bool)
    where[1, [0, 3]] = False
    where[2, [0, 1, 3, 4]] = False
    where[3] = False
    for x in (p, r, rewards):
        x[~where] = np.nan
    return p, r, rewards, where


def soft(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def each_list(rewards, where, loss):
    """Reference of `[B, K]` log-probs from a loss on the present log-ratios and rewards of one list."""

    def reference(p, r):
        ratio, g = np.asarray(p, np.float64) - r, rewards.astype(np.float64)
        return np.array([loss(a[m], b[m]) if m.any() else 0.0 for a, b, m in zip(ratio, g, where, strict=True)])

    return reference


LOSSES = {
    "infonca": (
        lambda *a: infonca(*a, beta=0.3, alpha=0.2),
        lambda rho, g: -np.sum(soft(g / 0.2) * np.log(soft(0.3 * rho))),
    ),
    "nca": (
        lambda *a: nca(*a, beta=0.3, alpha=0.2),
        lambda rho, g: np.sum(soft(g / 0.2) * sp(-0.3 * rho)) + np.mean(sp(0.3 * rho)),
    ),
    "exo_rw": (
        lambda *a: exo_rw(*a, beta=0.3, beta_r=0.2),
        lambda rho, g: np.sum(soft(0.3 * rho) * (np.log(soft(0.3 * rho)) - np.log(soft(g / 0.2)))),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient(name):
    loss, one = LOSSES[name]
    p, r, rewards, where = lists()
    value, grads = check_against(
        lambda p, r: loss(p, r, rewards, where), each_list(rewards, where, one), (p, r), (0, 1)
    )
    assert value[3] == 0.0
    for g in grads:
        np.testing.assert_array_equal(g[~where], 0.0)
    if name != "nca":
        np.testing.assert_allclose(value[2], 0.0, atol=1e-7)
        np.testing.assert_array_equal(grads[0][2], 0.0)


@pytest.mark.parametrize("name", LOSSES)
def test_extremes_bfloat16_vmap_and_order(name):
    loss, _ = LOSSES[name]
    rng = np.random.default_rng(2)
    wide = np.tile(np.float32([1e4, -1e4, 0, 50, -50]), (2, 1))
    rewards, where = rng.random((2, K)).astype(np.float32), np.ones((2, K), bool)
    check_extreme(lambda p, r: loss(p, r, rewards, where), (wide, np.zeros_like(wide)), (0, 1))
    check_extreme(lambda p, r: loss(p, r, rewards * 1e4, where), (wide, np.zeros_like(wide)), (0, 1))
    p, r, rewards, where = (np.nan_to_num(x) if x.dtype != bool else x for x in lists())
    check_bfloat16(lambda p, r: loss(p, r, rewards, where), (p, r), (0, 1))
    check_vmap(loss, (p, r, rewards, where))
    order = np.array([3, 0, 4, 1, 2])
    shuffled = loss(*(x[:, order] for x in (p, r, rewards, where)))
    np.testing.assert_allclose(shuffled, loss(p, r, rewards, where), rtol=1e-5, atol=1e-6)


def two(seed=0):
    """Pairs as lists of two, the first the better: `p, r [6, 2]`, rewards (1, 0), mask; and the four `[6]` arrays."""
    pw, pl, rw, rl = quad(seed)
    rewards = np.tile(np.float32([1, 0]), (6, 1))
    return (np.stack([pw, pl], 1), np.stack([rw, rl], 1), rewards, np.ones((6, 2), bool)), (pw, pl, rw, rl)


def test_infonca_with_a_one_hot_target_on_two_responses_is_dpo():
    lists_of_two, pair = two()
    np.testing.assert_allclose(infonca(*lists_of_two, beta=0.3), dpo(*pair, beta=0.3), rtol=1e-5)


def test_nca_with_a_one_hot_target_on_two_responses_is_nca_on_pairs():
    lists_of_two, pair = two()
    s_w, s_l = (0.3 * (np.asarray(a, np.float64) - b) for a, b in (pair[0::2], pair[1::2]))
    np.testing.assert_allclose(nca(*lists_of_two, beta=0.3), sp(-s_w) + 0.5 * sp(s_w) + 0.5 * sp(s_l), rtol=1e-5)
    np.testing.assert_allclose(nca(*lists_of_two, beta=0.3), nca_pair(*pair, beta=0.3), rtol=1e-5)


def test_exo_rw_with_the_rewards_of_a_smoothed_pair_is_exo_on_pairs():
    (p, r, _, where), pair = two()
    eps = 0.05
    rewards = np.tile(np.float32([0.2 * np.log(1 - eps), 0.2 * np.log(eps)]), (6, 1))
    got = exo_rw(p, r, rewards, where, beta=0.3, beta_r=0.2)
    np.testing.assert_allclose(got, exo_pair(*pair, beta=0.3, label_smoothing=eps), rtol=1e-4, atol=1e-6)


def test_minima():
    """InfoNCA at the entropy of its target, EXO-rw at 0, NCA at log-ratios log(K p) / beta, each with zero slope."""
    _, r, rewards, where = lists()
    g, size = np.where(where, rewards, 0).astype(np.float64), where.sum(1, keepdims=True)
    p = np.zeros(where.shape)
    for target, reward, m in zip(p[:3], g, where, strict=False):
        target[m] = soft(reward[m] / 0.2)
    for name, ratio in (
        ("infonca", g / 0.2),
        ("exo_rw", g / 0.2),
        ("nca", np.log(np.where(where, size * p, 1.0))),
    ):
        at = (r + ratio / 0.3).astype(np.float32)
        value, (slope,) = value_and_grads(lambda p, f=LOSSES[name][0]: f(p, r, rewards, where), (at,), (0,))
        if name != "nca":
            entropy = -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=1)
            np.testing.assert_allclose(value, entropy if name == "infonca" else 0.0, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(slope, 0.0, atol=1e-5)
    away = value_and_grads(lambda p: LOSSES["nca"][0](p, r, rewards, where), (r + 1,), (0,))[1][0]
    assert np.abs(away[where]).max() > 1e-2


def test_a_common_shift_of_a_list_moves_nca_alone():
    p, r, rewards, where = lists()
    for name in ("infonca", "exo_rw"):
        loss = LOSSES[name][0]
        np.testing.assert_allclose(loss(p + 3, r, rewards, where), loss(p, r, rewards, where), rtol=1e-4, atol=1e-5)
    moved = np.asarray(LOSSES["nca"][0](p + 3, r, rewards, where) - LOSSES["nca"][0](p, r, rewards, where))
    assert np.abs(moved[:3]).min() > 1e-2


def test_nca_closed_gradient():
    p, r, rewards, where = lists()
    _, (grad,) = value_and_grads(lambda p: nca(p, r, rewards, where, beta=0.3, alpha=0.2), (p,), (0,))
    for b in range(3):
        m = where[b]
        s, target = 0.3 * (p[b, m].astype(np.float64) - r[b, m]), soft(rewards[b, m].astype(np.float64) / 0.2)
        np.testing.assert_allclose(grad[b, m], 0.3 * ((target + 1 / m.sum()) * sig(s) - target), rtol=1e-4, atol=1e-6)
    # At the reference exactly the responses above the average target gain likelihood.
    _, (at_start,) = value_and_grads(lambda p: nca(p, r, rewards, where, beta=0.3, alpha=0.2), (r,), (0,))
    target = np.asarray(masked_softmax(np.where(where, rewards, 0) / np.float32(0.2), where))
    share = 1 / np.maximum(where.sum(1, keepdims=True), 1)
    np.testing.assert_array_equal(np.sign(at_start[:2][where[:2]]), np.sign((share - target)[:2][where[:2]]))


def test_masked_softmax_sums_to_one_over_what_is_there():
    scores = np.float32([[1e4, -1e4, 0.0], [np.nan, 2.0, 2.0], [np.nan, np.inf, 1.0]])
    where = np.array([[True] * 3, [False, True, True], [False] * 3])
    np.testing.assert_allclose(masked_softmax(scores, where), [[1, 0, 0], [0, 0.5, 0.5], [0, 0, 0]])
    log = np.asarray(masked_log_softmax(scores, where))
    np.testing.assert_allclose(log[0], [0, -2e4, -1e4])
    np.testing.assert_array_equal(log[~where], 0.0)
